"""Edges of buckets, and the parts that rollups cover."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.time_zones import parse_time_zone
from app.usage.filters import TimeRange
from app.usage_reports.reports import BucketWidth
from app.usage_reports.time_buckets import bucket_edges, rollup_coverage
from tests.support.steps import finished

INSTANTS = st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1)).map(  # noqa: DTZ001  # made aware next
    lambda it: it.replace(tzinfo=UTC)
)
ZONES = st.sampled_from(
    [
        "UTC",
        "Europe/Berlin",
        "Asia/Kolkata",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "Africa/Cairo",
        "America/Havana",
    ]
)


def utc(*numbers: int) -> datetime:
    return datetime(*numbers, tzinfo=UTC)  # type: ignore[arg-type, misc]  # year, month, day, ...


def edges(width: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    return finished(bucket_edges(BucketWidth(width), ZoneInfo(zone), start, end, within=(start, end)))


class TestBucketEdges:
    @given(start=INSTANTS, hours=st.floats(0.001, 2000), zone=ZONES, width=st.sampled_from(BucketWidth))
    def test_ascend_from_the_start_to_the_end(
        self, start: datetime, hours: float, zone: str, width: BucketWidth
    ) -> None:
        end = start + timedelta(hours=hours)

        found = edges(width, zone, start, end)

        assert (found[0], found[-1]) == (start, end)
        assert all(earlier < later for earlier, later in pairwise(found))

    @given(start=INSTANTS, zone=ZONES, width=st.sampled_from(BucketWidth), cut=st.integers(1, 400))
    def test_do_not_depend_on_the_range_that_has_data(
        self, start: datetime, zone: str, width: BucketWidth, cut: int
    ) -> None:
        end = start + timedelta(hours=500)
        within = (start + timedelta(hours=cut), start + timedelta(hours=cut, minutes=90))
        whole = edges(width, zone, start, end)

        found = finished(bucket_edges(width, ZoneInfo(zone), start, end, within=within))

        assert set(found) <= set(whole)
        assert found[0] <= within[0]
        assert found[-1] >= min(within[1], end)

    @pytest.mark.parametrize(
        ("zone", "start", "hours"),
        [
            ("America/New_York", utc(2026, 3, 8, 5), 23),
            ("America/New_York", utc(2026, 11, 1, 4), 25),
            ("Australia/Lord_Howe", utc(2026, 10, 3, 13, 30), 23.5),
            ("Africa/Cairo", utc(2026, 4, 23, 22), 23),  # midnight is skipped
            ("America/Havana", utc(2026, 11, 1, 4), 25),  # midnight occurs twice
        ],
    )
    def test_follow_clock_changes(self, zone: str, start: datetime, hours: float) -> None:
        found = edges("1d", zone, start, start + timedelta(days=3))

        assert found[1] - found[0] == timedelta(hours=hours)

    def test_omit_a_day_that_the_zone_skipped(self) -> None:
        found = edges("1d", "Pacific/Apia", utc(2011, 12, 29, 10), utc(2012, 1, 1, 10))

        assert found == [
            utc(2011, 12, 29, 10),
            *(utc(2011, 12, day, 10) for day in (30, 31)),
            utc(2012, 1, 1, 10),
        ]

    def test_never_consist_of_one_edge(self) -> None:
        within = (utc(2026, 5, 1), utc(2026, 5, 2))

        for start, end in ((utc(2026, 4, 1), utc(2026, 4, 2)), (utc(2026, 6, 1), utc(2026, 6, 2))):
            found = finished(bucket_edges(BucketWidth.MONTH, ZoneInfo("UTC"), start, end, within=within))
            assert len(found) != 1


def total_length(time_ranges: list[TimeRange]) -> timedelta:
    return sum((end - start for start, end in time_ranges), timedelta())


class TestRollupCoverage:
    @given(
        start=INSTANTS,
        hours=st.floats(0.001, 2000),
        zone=ZONES,
        width=st.sampled_from(BucketWidth),
    )
    def test_covers_the_whole_range_without_crossing_an_edge(
        self, start: datetime, hours: float, zone: str, width: BucketWidth
    ) -> None:
        found = edges(width, zone, start, start + timedelta(hours=hours))

        cover = finished(rollup_coverage(found))

        all_ranges = sorted([*cover.days, *cover.hours, *cover.rows])
        assert total_length(all_ranges) == found[-1] - found[0]
        assert all(earlier[1] <= later[0] for earlier, later in pairwise(all_ranges))
        for time_ranges, unit in ((cover.days, timedelta(days=1)), (cover.hours, timedelta(hours=1))):
            for first, last in time_ranges:
                inner = [edge for edge in found if first < edge < last]
                assert all((it - utc(1970, 1, 1)) % unit == timedelta() for it in (first, *inner, last))

    def test_uses_whole_days_where_possible(self) -> None:
        cover = finished(
            rollup_coverage(edges("1mo", "Europe/Berlin", utc(2026, 1, 1, 0, 30), utc(2026, 3, 1)))
        )

        assert cover.rows == [(utc(2026, 1, 1, 0, 30), utc(2026, 1, 1, 1))]
        assert cover.days == [
            (utc(2026, 1, 2), utc(2026, 1, 31)),
            (utc(2026, 2, 1), utc(2026, 2, 28)),
        ]
        assert total_length(cover.hours) == timedelta(hours=23 + 23 + 1 + 23 + 1)


class TestParseTimeZone:
    @pytest.mark.parametrize("name", ["", "Mars/Olympus", "../UTC", "/etc/passwd", "utc\0", "europe/berlin"])
    def test_rejects_unknown_names(self, name: str) -> None:
        with pytest.raises(ValueError, match="unknown time zone"):
            parse_time_zone(name)
