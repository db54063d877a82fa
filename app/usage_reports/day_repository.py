"""Finds the days on which rows can match a filter, from a rollup and the unaggregated rows."""

from collections.abc import Sequence

import sqlalchemy as sa

from app.database.repository import Repository
from app.database.statements import Query, cached_statements
from app.usage.filter_conditions import filter_conditions, filter_values
from app.usage.filters import FilterShape, MatchingDay, UsageFilters
from app.usage.tables import usage_event as e
from app.usage_reports.report_statement import narrowest_rollups
from app.usage_reports.rollup_columns import ORGANIZATION, unaggregated_from

_UTC_DAY: sa.ColumnElement[object] = sa.func.date_trunc(
    sa.literal_column("'day'"), e.c.started_at, sa.literal_column("'UTC'"), type_=e.c.started_at.type
)


@cached_statements(at_most=256)
def day_statement(shape: FilterShape) -> Query:
    """Build one statement per set of filters. `rows` counts requests, which are never more than rows."""
    _, day, _, watermark = narrowest_rollups(shape.dimensions)
    rolled_up = sa.select(day.c.starting_at.label("day"), day.c.requests.label("rows")).where(
        day.c.organization_id == ORGANIZATION, *filter_conditions(day, shape)
    )
    found = sa.union_all(
        rolled_up,
        sa.select(_UTC_DAY, sa.literal_column("1")).where(
            e.c.organization_id == ORGANIZATION,
            unaggregated_from(watermark),
            *filter_conditions(e, shape),
        ),
    ).subquery("found")
    return Query(
        sa.select(found.c.day, sa.func.sum(found.c.rows).label("rows"))
        .group_by(found.c.day)
        .order_by(found.c.day.desc())
    )


class DayRepository(Repository):
    """Reads the rollups of one organization."""

    async def days(self, filters: UsageFilters) -> Sequence[MatchingDay]:
        """Return the UTC days with matching rows, newest first. Not for sessions and prompts, which no rollup has."""
        found = await self._session.rows(
            day_statement(filters.shape), organization_id=self._organization_id, **filter_values(filters)
        )
        return [MatchingDay(row["day"], int(row["rows"])) for row in found]
