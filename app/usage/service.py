"""Ingests events into the ledger: exactly once, with the mode and the price at the time when they started."""

from collections import Counter
from collections.abc import Sequence

from app.core.admission import AdmissionQueue
from app.core.errors import IngestionOverloaded
from app.database.group_commit import GroupCommit, WaitLimits
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.jobs.queue import ENQUEUE_ROLLUP
from app.observability.metrics import USAGE_EVENTS
from app.usage.correction_repository import CorrectionRepository
from app.usage.ports import PriceSource, SpendRecorder
from app.usage.recorder import EventRecorder
from app.usage_events import batch_checks, batch_groups
from app.usage_events.events import EventBatch, Ingested, NotAccepted


class IngestionService:
    """Ingests batches of events. Accepted events are in the ledger; clients may repeat any request unchanged."""

    def __init__(
        self, units: UnitsOfWork, *, prices: PriceSource, limits: SpendRecorder, admission: AdmissionQueue
    ) -> None:
        self._units = units
        self._prices = prices
        self._limits = limits
        self._admission = admission
        self._groups = GroupCommit(
            self._ingest_group,
            at_most=batch_groups.LARGEST_GROUP,
            weight=batch_groups.size,
            limits=WaitLimits(
                seconds=admission.queue_timeout_seconds,
                at_most=admission.max_waiting,
                error=IngestionOverloaded,
            ),
        )

    async def ingest(self, organization_id: str, batch: EventBatch) -> Ingested:
        """Ingest a batch in one transaction. A bad event does not affect the others.

        Small batches of one organization that arrive at the same time share a transaction.

        Raises:
            IngestionOverloaded, DatabaseUnavailable: no event of this batch was recorded.
        """
        not_accepted: list[NotAccepted] = []
        batch = batch_checks.within_time_range(batch, not_accepted)
        accepted = 0
        if batch.events:
            is_small = len(batch.events) <= batch_groups.LARGEST_GROUPED_BATCH
            ingested = (
                await self._groups.submit(organization_id, batch)
                if is_small
                else await self._ingest_batch(organization_id, batch)
            )
            accepted = ingested.accepted
            not_accepted.extend(ingested.not_accepted)
        not_accepted.sort(key=lambda it: it.index)
        _count_events(accepted, not_accepted)
        return Ingested(accepted=accepted, not_accepted=not_accepted)

    async def _ingest_group(
        self, organization_id: str, batches: Sequence[EventBatch]
    ) -> Sequence[Ingested | Exception]:
        ingested = await self._ingest_batch(organization_id, batch_groups.combine(batches))
        return batch_groups.split(batches, ingested.not_accepted)

    async def _ingest_batch(self, organization_id: str, batch: EventBatch) -> Ingested:
        not_accepted: list[NotAccepted] = []
        async with (
            self._admission.slot(organization_id),
            self._units.writing_with_shared_lock(
                organization_id, has_few_rows=len(batch.events) <= batch_groups.LARGEST_GROUPED_BATCH
            ) as uow,
        ):
            accepted = await self._write(uow, batch, not_accepted)
            # Last, because concurrent transactions wait for this one if it inserts the item.
            await uow.commit(last_statement=ENQUEUE_ROLLUP if accepted else None)
        return Ingested(accepted=accepted, not_accepted=not_accepted)

    async def _write(self, uow: UnitOfWork, batch: EventBatch, not_accepted: list[NotAccepted]) -> int:
        others, correcting = batch_checks.split_corrections(batch)
        if correcting.events:
            await uow[CorrectionRepository].lock()
        recorder = EventRecorder(uow, self._prices)
        if others.events:
            await recorder.record(others)
        if correcting.events:
            await recorder.correct(correcting)
        not_accepted.extend(recorder.not_accepted)
        if recorder.accepted:
            await self._limits.settle(uow, recorder.charges)
            await recorder.record_key_uses()
        return recorder.accepted


def _count_events(accepted: int, not_accepted: Sequence[NotAccepted]) -> None:
    USAGE_EVENTS.labels("accepted").inc(accepted)
    for status, number in Counter(it.status for it in not_accepted).items():
        USAGE_EVENTS.labels(status).inc(number)
