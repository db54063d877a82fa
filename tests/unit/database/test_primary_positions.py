"""Positions of the primary: up to which time a replica at a position shows everything."""

from datetime import UTC, datetime, timedelta

from app.database.replicas.positions import PrimaryPositions

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def positions(*samples: tuple[float, int]) -> PrimaryPositions:
    found = PrimaryPositions()
    for seconds, position in samples:
        found.add(at(seconds), position)
    return found


class TestCompleteUntil:
    def test_is_the_newest_time_whose_position_was_reached(self) -> None:
        found = positions((1, 100), (2, 200), (3, 300))

        assert [found.complete_until(it) for it in (99, 100, 299, 1000)] == [None, at(1), at(2), at(3)]

    def test_advances_while_the_position_stays(self) -> None:
        assert positions((1, 100), (2, 100), (3, 100)).complete_until(100) == at(3)

    def test_forgets_what_a_failover_lost(self) -> None:
        """The new primary began below the last position of the old one."""
        found = positions((1, 100), (2, 300), (3, 200))

        assert [found.complete_until(it) for it in (150, 200, 300)] == [at(1), at(3), at(3)]

    def test_does_not_count_the_header_of_a_page_without_records(self) -> None:
        assert positions((1, 3 * 8192 + 24)).complete_until(3 * 8192) == at(1)
        assert positions((1, 3 * 8192 + 32)).complete_until(3 * 8192) is None

    def test_keeps_a_bounded_number(self) -> None:
        found = positions(*((second, 100 * second) for second in range(1, 10_000)))

        assert found.complete_until(100) is None
        assert found.complete_until(999_900) == at(9999)
