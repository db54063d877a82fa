"""Reports that differ only in values have the same statement, which is compiled once."""

from dataclasses import replace
from datetime import timedelta

from app.usage_reports.reports import Ranking
from app.usage_reports.repository import _shape
from tests.support.usage.rollups import QUERY


def test_any_number_of_named_groups_has_the_same_statement() -> None:
    shapes = {_shape(replace(QUERY, ranking=Ranking(top=top))) for top in (1, 2, 100)}

    assert len(shapes) == 1
    assert shapes != {_shape(replace(QUERY, ranking=Ranking()))}


def test_any_time_range_has_the_same_statement() -> None:
    later = replace(QUERY, starting_at=QUERY.starting_at + timedelta(days=1))

    assert _shape(later) == _shape(QUERY)
