"""Reads usage reports."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import pairwise

from app.core.admission import AdmissionQueue
from app.core.errors import InvalidInput
from app.core.event_loop import in_slices
from app.database.found_rows import FoundRows
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.usage_reports.reports import Position, Report, ReportQuery, ReportRow
from app.usage_reports.repository import Extent, ReportRepository, prepare_statements
from app.usage_reports.time_buckets import MAX_BUCKETS, TooManyBuckets, bucket_edges


class ReportService:
    """Reports are exact: they include every event that was accepted before the request or, on a replica, before `as_of`."""

    def __init__(self, units: UnitsOfWork, admission: AdmissionQueue) -> None:
        self._units = units
        self._admission = admission

    async def read(
        self,
        organization_id: str,
        query: ReportQuery,
        *,
        after: Position | None = None,
        at_most: int,
        is_started: bool = False,
    ) -> Report:
        """Return rows in order, after the position if there is one.

        Args:
            organization_id: the organization.
            query: the report.
            after: where the page begins.
            at_most: the size of the page.
            is_started: an export has sent earlier pages, so this one waits for a slot as long as it takes.

        Raises:
            InvalidInput: the row at the position does not exist, or there are too many buckets.
            ConcurrencyLimited, DatabaseUnavailable
        """
        prepare = partial(prepare_statements, query, is_first_page=after is None)
        async with self._admission.slot(organization_id, is_started=is_started, prepare=prepare):
            async with self._units.reading_in_bulk(organization_id) as uow:
                extent = await uow[ReportRepository].extent()
                starting_at, ending_at = query.starting_at, query.ending_at or extent.open_end
                if after is not None:
                    starting_at, ending_at = after.starting_at, after.ending_at
                edges = await _edges(query, starting_at, ending_at, extent)
                # Empty buckets before the position, and its own bucket, are on earlier pages.
                buckets = list(pairwise(edges if after is None else edges[1:])) if query.include_empty else ()
                report = Report(
                    rows=(), ending_at=ending_at, as_of=uow.complete_until or extent.as_of, buckets=buckets
                )
                if not edges:
                    return report
                found, named = await _find(uow, query, edges, after=after, at_most=at_most)
            rows: Sequence[ReportRow] = await found.records()
            previous = _previous_row(query, after)
            if previous is not None:
                rows = _require_first(rows, previous)
            return replace(report, rows=rows, named=named)


async def _edges(
    query: ReportQuery, starting_at: datetime, ending_at: datetime, extent: Extent
) -> list[datetime]:
    """Compute the edges of the buckets: all of them if the report includes empty ones, else where there is data.

    Raises:
        InvalidInput: there are too many.
    """
    within = (starting_at, ending_at) if query.include_empty else extent.time_range
    if within is None or starting_at >= ending_at:
        return []
    limit = MAX_BUCKETS if query.include_empty else None
    try:
        return await in_slices(
            bucket_edges(
                query.bucket_width, query.zone, starting_at, ending_at, within=within, at_most=limit
            ),
            in_transaction=True,
        )
    except TooManyBuckets:
        raise InvalidInput.of(
            "include_empty",
            "too_many_buckets",
            f"The range has more than {MAX_BUCKETS:,} buckets. Choose a shorter range or longer buckets.",
        ) from None


async def _find(
    uow: UnitOfWork,
    query: ReportQuery,
    edges: Sequence[datetime],
    *,
    after: Position | None,
    at_most: int,
) -> tuple[FoundRows[ReportRow], tuple[bytes, ...]]:
    """Find the rows of a page, and the first groups of the whole report."""
    reports, ranking = uow[ReportRepository], query.ranking
    named = () if after is None else after.named
    if after is None and ranking is not None and ranking.top is not None:
        named = await reports.top(query, edges, at_most=ranking.top)
    more = 0 if _previous_row(query, after) is None else 1
    return await reports.rows(query, edges, after=after, named=named, at_most=at_most + more), named


def _previous_row(query: ReportQuery, after: Position | None) -> Position | None:
    """The row before the page, by which it is found, and which must still exist. By a measure, it may have moved."""
    return after if query.ranking is None else None


def _require_first(rows: Sequence[ReportRow], previous: Position) -> Sequence[ReportRow]:
    """Return the rows after the first one.

    Raises:
        InvalidInput: the first one is another one.
    """
    if not rows or (rows[0].starting_at, rows[0].digest) != (previous.starting_at, previous.digest):
        raise invalid_cursor()
    return rows[1:]


def invalid_cursor() -> InvalidInput:
    """Return the error for every kind of invalid cursor."""
    return InvalidInput.of(
        "page",
        "page_invalid",
        "Invalid cursor for this report. Pass `next_page` and all other parameters unchanged.",
    )
