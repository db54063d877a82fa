"""Ends calls whose process died. Any number of instances may run it: the event's id makes each end count once."""

import structlog

from app.core.clock import now
from app.core.errors import DatabaseUnavailable, IngestionOverloaded
from app.database.unit_of_work import UnitsOfWork
from app.observability.metrics import RELAY_LOST
from app.relay.ending.call_event import batch_of
from app.relay.records import CallEnd, EndedBy, counters
from app.relay.repository import CallRepository, LostCall
from app.usage.service import IngestionService
from app.usage_events.records import Outcome, UsageSource

_ORGANIZATIONS_AT_ONCE = 100
_CALLS_AT_ONCE = 500

log = structlog.get_logger("byok.relay")


class LostCallWorker:
    """Records an estimated event for every call that no process has reported for too long.

    The reservation stays charged until then. If the call was not lost after all, its own event comes too late and is a
    conflict, never a second row.
    """

    def __init__(self, units: UnitsOfWork, ingestion: IngestionService) -> None:
        self._units = units
        self._ingestion = ingestion

    async def run(self) -> int:
        """End the calls that are lost now; returns how many.

        An organization whose rows cannot be reached, because it moves to another cell, or whose batches use all its slots
        of ingestion, does not keep the others waiting for the next run.

        Raises:
            DatabaseUnavailable: the next run continues.
        """
        async with self._units.unscoped(CallRepository) as (calls, _):
            organizations = await calls.organizations_with_lost(at_most=_ORGANIZATIONS_AT_ONCE)
        ended = 0
        for organization_id in organizations:
            try:
                ended += await self._end_all(organization_id)
            except (DatabaseUnavailable, IngestionOverloaded) as error:
                log.warning("lost_calls_postponed", organization_id=organization_id, code=error.code)
        return ended

    async def _end_all(self, organization_id: str) -> int:
        async with self._units.reading(organization_id) as uow:
            lost = await uow[CallRepository].lost(at_most=_CALLS_AT_ONCE)
        if not lost:
            return 0
        ingested = await self._ingestion.ingest(organization_id, await batch_of([_end(one) for one in lost]))
        RELAY_LOST.inc(ingested.accepted)
        return ingested.accepted


def _end(lost: LostCall) -> CallEnd:
    """The end of a lost call, whose time is not known: it was still open when it was seen last."""
    return CallEnd(
        call=lost.call,
        by=EndedBy.FAULT,
        outcome=Outcome.ABORTED,
        usage_source=UsageSource.ESTIMATED,
        usage=lost.usage_so_far or counters(input_tokens=lost.call.request.input_tokens),
        completed_at=now(),
    )
