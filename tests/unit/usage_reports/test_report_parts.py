"""The parts of a report are all of its buckets, in their order."""

from datetime import UTC, datetime, timedelta

import pytest

from app.usage_reports.report_parts import OF_LEDGER, OF_ROLLUPS, PartSizes, part_values

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("sizes", [OF_LEDGER, OF_ROLLUPS])
@pytest.mark.parametrize("buckets", [1, 2, 3, 30, 31, 32, 33, 100, 10_000])
def test_parts_are_consecutive_and_complete(sizes: PartSizes, buckets: int) -> None:
    edges = [START + timedelta(hours=number) for number in range(buckets + 1)]

    found = part_values(edges, sizes)

    first, end = found["part_first_bucket"], found["part_end_bucket"]
    assert (first[0], end[-1]) == (1, buckets + 1)
    assert first[1:] == end[:-1]
    assert all(start < until for start, until in zip(first, end, strict=True))
    assert found["part_starting_at"] == [edges[number - 1] for number in first]
    assert found["part_ending_at"] == [edges[number - 1] for number in end]


@pytest.mark.parametrize(("sizes", "at_most"), [(OF_LEDGER, 45), (OF_ROLLUPS, 8)])
def test_many_buckets_have_few_parts(sizes: PartSizes, at_most: int) -> None:
    edges = [START + timedelta(hours=number) for number in range(10_001)]

    assert len(part_values(edges, sizes)["part_first_bucket"]) <= at_most


def test_a_month_of_days_from_rollups_is_one_part() -> None:
    edges = [START + timedelta(days=number) for number in range(32)]

    assert part_values(edges, OF_ROLLUPS)["part_first_bucket"] == [1]
