"""What was in force at an instant."""

from datetime import UTC, datetime, timedelta

import pytest

from app.usage_mode.history import KeyTimeline, ModeTimeline, VersionInTime
from app.usage_mode.modes import INITIAL_MODE, UsageMode, UsageModePoint

START = datetime(2026, 11, 1, tzinfo=UTC)
TICK = timedelta(microseconds=1)


def hour(number: float) -> datetime:
    return START + timedelta(hours=number)


def version(
    number: int, activated: float | None, rotated: float | None = None, url: str | None = None
) -> VersionInTime:
    return VersionInTime(
        key_version=number,
        activated_at=None if activated is None else hour(activated),
        rotated_at=None if rotated is None else hour(rotated),
        base_url=url,
    )


class TestMode:
    def test_is_managed_before_anybody_chose(self) -> None:
        assert ModeTimeline([]).at(START) == INITIAL_MODE

    def test_counts_from_its_instant_on(self) -> None:
        points = [
            UsageModePoint(mode=mode, credential_id=None, effective_from=at, changed_by="x")
            for mode, at in ((UsageMode.BYO, hour(1)), (UsageMode.MANAGED, hour(2)))
        ]

        timeline = ModeTimeline(points)

        assert timeline.at(hour(1) - TICK) == INITIAL_MODE
        assert timeline.at(hour(1)) == points[0]
        assert timeline.at(hour(2) - TICK) == points[0]
        assert timeline.at(hour(2)) == points[1]
        assert timeline.at(hour(99)) == points[1]


class TestKeyVersion:
    def test_is_the_one_last_activated(self) -> None:
        keys = KeyTimeline([version(1, 0), version(2, 5, 5), version(3, 9, 9), version(4, None)])

        assert [keys.at(hour(at)) for at in (-1, 0, 4.9, 5, 8, 9, 99)] == [None, 1, 1, 2, 2, 3, 3]

    @pytest.mark.parametrize(
        "versions",
        [
            pytest.param([version(1, 7), version(2, 5, 5)], id="back to the first"),
            pytest.param([version(1, 0), version(2, 7, 3), version(3, 5, 5)], id="back to the second"),
            pytest.param([version(1, 6), version(2, 7, 3)], id="back and forth"),
        ],
    )
    def test_is_unknown_before_the_last_activation_where_one_was_rolled_back(
        self, versions: list[VersionInTime]
    ) -> None:
        keys = KeyTimeline(versions)

        assert [keys.at(hour(at)) for at in (1, 4, 6.5)] == [None, None, None]
        assert keys.at(hour(7)) == max(versions, key=lambda it: it.activated_at or START).key_version

    def test_goes_where_its_key_goes(self) -> None:
        keys = KeyTimeline([version(1, 0), version(2, 5, 5, "https://gateway.example.com")])

        assert [keys.is_compatible_endpoint(number) for number in (1, 2)] == [False, True]
        assert keys.is_compatible_endpoint(None)
        assert 2 in keys
        assert 3 not in keys
