"""Reading usage: sums over time, exact and up to this moment."""

from dataclasses import replace

from app.core.errors import InvalidInput
from app.database.unit_of_work import UnitsOfWork
from app.usage_reports.reports import Position, Report, ReportQuery
from app.usage_reports.repository import ReportRepository
from app.usage_reports.time_buckets import bucket_edges


class ReportService:
    """What was accepted before the question was asked is in the answer."""

    def __init__(self, units: UnitsOfWork) -> None:
        self._units = units

    async def read(
        self, organization_id: str, query: ReportQuery, *, after: Position | None = None, at_most: int
    ) -> Report:
        """Rows in order, after the position if there is one.

        Raises:
            InvalidInput: nothing stands at the position.
            DatabaseUnavailable
        """
        async with self._units.reading(organization_id) as uow:
            extent = await uow[ReportRepository].extent()
            starting_at, ending_at = query.starting_at, query.ending_at or extent.as_of
            if after is not None:
                starting_at, ending_at = after.starting_at, after.ending_at
            nothing = Report(rows=(), ending_at=ending_at, as_of=extent.as_of)
            edges = (
                bucket_edges(query.bucket_width, query.zone, starting_at, ending_at, within=extent.stretch)
                if extent.stretch is not None and starting_at < ending_at
                else []
            )
            if not edges:
                return nothing
            rows = await uow[ReportRepository].rows(
                query, edges, after=after, at_most=at_most + (after is not None)
            )
        if after is not None:
            if not rows or (rows[0].starting_at, rows[0].digest) != (after.starting_at, after.digest):
                raise position_invalid()
            rows = rows[1:]
        return replace(nothing, rows=rows)


def position_invalid() -> InvalidInput:
    """The same for every cursor that is none."""
    return InvalidInput.of(
        "page", "page_invalid", "This is not a cursor of this report. Pass next_page back as it was."
    )
