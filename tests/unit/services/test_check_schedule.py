"""When a key is checked again."""

from datetime import UTC, datetime, timedelta

import pytest

from app.validation.runner import ValidationSchedule

DAY = timedelta(hours=24)
CHECKED_AT = datetime(2026, 11, 23, 12, tzinfo=UTC)


def pauses(every: timedelta, *, indeterminate: int) -> list[timedelta]:
    schedule = ValidationSchedule(every=every)
    found = [schedule.next_check(CHECKED_AT, indeterminate=indeterminate) for _ in range(200)]
    return [at - CHECKED_AT for at in found if at is not None]


class TestCheckSchedule:
    @pytest.mark.parametrize(
        ("indeterminate", "expected"),
        [
            (0, DAY),
            (1, timedelta(minutes=1)),
            (2, timedelta(minutes=2)),
            (5, timedelta(minutes=16)),
            (11, timedelta(minutes=1024)),
            (12, DAY),
            (10_000, DAY),
        ],
    )
    def test_doubles_the_pause_up_to_the_period(self, indeterminate: int, expected: timedelta) -> None:
        found = pauses(DAY, indeterminate=indeterminate)

        assert all(expected * 0.9 <= pause <= expected * 1.1 for pause in found)
        assert len(set(found)) > 100, "no jitter"

    def test_never_waits_longer_than_the_period(self) -> None:
        assert max(pauses(timedelta(seconds=10), indeterminate=1)) <= timedelta(seconds=11)

    def test_without_a_period_there_is_no_next_check(self) -> None:
        assert ValidationSchedule(every=None).next_check(CHECKED_AT, indeterminate=3) is None
