"""Taking events into the ledger: exactly once, with the mode and the price of the instant at which they started."""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from app.core.clock import now
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.observability.metrics import USAGE_EVENTS
from app.usage.admission import AdmissionQueue
from app.usage.anthropic_usage import parts_of, total_of
from app.usage.events import EventBatch, EventCode, EventStatus, Ingested, NotAccepted, UsageEvent
from app.usage.last_used_repository import KeyLastUsedRepository
from app.usage.ledger_rows import LedgerRows
from app.usage.ports import Pricer, PriceSource, SpendRecorder
from app.usage.records import FURTHEST_AHEAD, FURTHEST_BACK, UsageFlag
from app.usage.repository import UsageRepository
from app.usage_mode.history import KeyTimeline, ModeTimeline
from app.usage_mode.modes import UsageMode

_MISMATCH = int(UsageFlag.MODE_MISMATCH)
_LARGEST_COST = 2**63 - 1
_NOBODY = UUID(int=0)
# Rows that are prepared before others get a turn on the loop.
_SLICE = 250


class IngestionService:
    """Ingestion. What was answered as accepted is in the ledger; what was not may be sent again as it was."""

    def __init__(
        self, units: UnitsOfWork, *, prices: PriceSource, limits: SpendRecorder, turns: AdmissionQueue
    ) -> None:
        self._units = units
        self._prices = prices
        self._limits = limits
        self._turns = turns

    async def ingest(self, organization_id: str, batch: EventBatch) -> Ingested:
        """One transaction. One bad event never spoils the others.

        Raises:
            IngestionOverloaded, DatabaseUnavailable: nothing of this batch was kept.
        """
        refused: list[NotAccepted] = []
        batch = _in_time(batch, refused)
        accepted = 0
        if batch.events:
            async with self._turns.turn(), self._units.writing(organization_id) as uow:
                accepted = await self._take(uow, organization_id, batch, refused)
                await uow.commit()
        refused.sort(key=lambda it: it.index)
        _count(accepted, refused)
        return Ingested(accepted=accepted, not_accepted=refused)

    async def _take(
        self, uow: UnitOfWork, organization_id: str, batch: EventBatch, refused: list[NotAccepted]
    ) -> int:
        instant = await uow[UsageRepository].begin()
        earliest = min(event.started_at for event in batch.events)
        modes = await uow[UsageRepository].modes(earliest=earliest, now=instant)
        keys = await _keys_of(uow, batch, modes)
        # Repetitions last: what is refused takes no id, neither from the same batch nor from a later one.
        known = _with_known_credentials(batch, instant, modes, keys, refused)
        batch, repeated = _first_of_each(known)
        if not batch.events:
            return 0
        fresh = await uow[UsageRepository].claim(batch)
        if repeated.events or len(fresh) < len(batch.events):
            batch = await _without_known(uow, batch, repeated, fresh, refused)
        if not batch.events:
            return 0
        rows = await _rows(batch.events, instant, modes, keys, await self._prices.of(uow))
        await uow[UsageRepository].insert(rows)
        await self._limits.settle(uow, rows.charges())
        uses = _uses(rows)
        if uses:
            await uow[KeyLastUsedRepository].note(uses)
        # Last, since others wait for it where the item is new.
        item = DueItem(organization_id=organization_id, kind=JobKind.FOLD_USAGE, id=_NOBODY)
        await uow[QueueRepository].add(item, due_at=instant)
        return len(rows)


def _count(accepted: int, refused: Sequence[NotAccepted]) -> None:
    USAGE_EVENTS.labels("accepted").inc(accepted)
    for status, number in Counter(it.status for it in refused).items():
        USAGE_EVENTS.labels(status).inc(number)


def _refusal(
    batch: EventBatch, at: int, code: EventCode, status: EventStatus = EventStatus.REJECTED
) -> NotAccepted:
    return NotAccepted(index=batch.indexes[at], event_id=batch.events[at].event_id, status=status, code=code)


def _only(batch: EventBatch, kept: Sequence[int]) -> EventBatch:
    if len(kept) == len(batch.events):
        return batch
    return EventBatch(
        events=[batch.events[at] for at in kept],
        digests=[batch.digests[at] for at in kept],
        indexes=[batch.indexes[at] for at in kept],
    )


def _first_of_each(batch: EventBatch) -> tuple[EventBatch, EventBatch]:
    """The first of each id, and the repetitions within the batch."""
    first: dict[str, int] = {}
    for at, event in enumerate(batch.events):
        first.setdefault(event.event_id, at)
    repeated = [at for at, event in enumerate(batch.events) if first[event.event_id] != at]
    return _only(batch, list(first.values())), _only(batch, repeated)


def _known(batch: EventBatch, at: int, recorded: Mapping[str, bytes]) -> NotAccepted:
    if recorded.get(batch.events[at].event_id) == batch.digests[at]:
        return _refusal(batch, at, EventCode.DUPLICATE_EVENT, EventStatus.DUPLICATE)
    return _refusal(batch, at, EventCode.EVENT_ID_CONFLICT, EventStatus.CONFLICT)


def _in_time(batch: EventBatch, refused: list[NotAccepted]) -> EventBatch:
    """Without those that start, or end, where nothing can have started or ended."""
    instant = now()
    oldest, newest = instant - FURTHEST_BACK, instant + FURTHEST_AHEAD
    kept: list[int] = []
    for at, event in enumerate(batch.events):
        started_at, completed_at = event.started_at, event.completed_at
        if started_at < oldest:
            refused.append(_refusal(batch, at, EventCode.STARTED_AT_TOO_OLD))
        elif started_at > newest:
            refused.append(_refusal(batch, at, EventCode.STARTED_AT_IN_FUTURE))
        elif completed_at is not None and completed_at < started_at:
            refused.append(_refusal(batch, at, EventCode.COMPLETED_BEFORE_STARTED))
        elif completed_at is not None and completed_at > newest:
            refused.append(_refusal(batch, at, EventCode.COMPLETED_AT_IN_FUTURE))
        else:
            kept.append(at)
    return _only(batch, kept)


async def _keys_of(uow: UnitOfWork, batch: EventBatch, modes: ModeTimeline) -> dict[UUID, KeyTimeline]:
    """Of the credentials that the events or the timeline name."""
    named = {event.credential_id for event in batch.events}
    named |= {point.credential_id for point in modes.points}
    named.discard(None)
    return await uow[KeyLastUsedRepository].timelines(it for it in named if it is not None) if named else {}


def _with_known_credentials(
    batch: EventBatch,
    instant: datetime,
    modes: ModeTimeline,
    keys: dict[UUID, KeyTimeline],
    refused: list[NotAccepted],
) -> EventBatch:
    """Without those whose key is not on record. A version alone is one of the credential that paid then."""
    kept: list[int] = []
    for at, event in enumerate(batch.events):
        credential_id, key_version = event.credential_id, event.key_version
        if credential_id is None and key_version is not None:
            credential_id = modes.at(min(event.started_at, instant)).credential_id
            if credential_id is None:
                refused.append(_refusal(batch, at, EventCode.CREDENTIAL_ID_REQUIRED))
                continue
        if credential_id is None:
            kept.append(at)
        elif (timeline := keys.get(credential_id)) is None:
            refused.append(_refusal(batch, at, EventCode.CREDENTIAL_NOT_FOUND))
        elif key_version is not None and key_version not in timeline:
            refused.append(_refusal(batch, at, EventCode.KEY_VERSION_NOT_FOUND))
        else:
            kept.append(at)
    return _only(batch, kept)


async def _without_known(
    uow: UnitOfWork,
    batch: EventBatch,
    repeated: EventBatch,
    fresh: Collection[str],
    refused: list[NotAccepted],
) -> EventBatch:
    """Without those that were recorded before. They and the repetitions are compared with what is recorded."""
    kept = _only(batch, [at for at, event in enumerate(batch.events) if event.event_id in fresh])
    known = _only(batch, [at for at, event in enumerate(batch.events) if event.event_id not in fresh])
    recorded = dict(await uow[UsageRepository].digests([event.event_id for event in known.events]))
    recorded |= {event.event_id: digest for event, digest in zip(kept.events, kept.digests, strict=True)}
    for others in (known, repeated):
        refused.extend(_known(others, at, recorded) for at in range(len(others.events)))
    return kept


async def _rows(
    events: Sequence[UsageEvent],
    instant: datetime,
    modes: ModeTimeline,
    keys: dict[UUID, KeyTimeline],
    prices: Pricer,
) -> LedgerRows:
    rows = LedgerRows(instant)
    for number, event in enumerate(events):
        _append(rows, event, modes=modes, keys=keys, prices=prices)
        if number % _SLICE == _SLICE - 1:
            await asyncio.sleep(0)
    return rows


def _append(
    rows: LedgerRows,
    event: UsageEvent,
    *,
    modes: ModeTimeline,
    keys: dict[UUID, KeyTimeline],
    prices: Pricer,
) -> None:
    # By the server's clock at the latest: a client's may be ahead of the next switch.
    at = min(event.started_at, rows.ingested_at)
    point = modes.at(at)
    is_managed = point.mode is UsageMode.MANAGED
    credential_id, key_version = event.credential_id, event.key_version
    is_mismatch = is_managed and credential_id is not None
    if credential_id is None and not is_managed:
        credential_id = point.credential_id
    is_compatible = False
    if credential_id is not None and (timeline := keys.get(credential_id)) is not None:
        key_version = key_version or timeline.at(at)
        is_compatible = timeline.is_compatible_endpoint(key_version)
    parts, flags = parts_of(event.model, event.usage)
    priced = prices.price(parts, at=at, is_compatible_endpoint=is_compatible)
    cost, price_version = priced.cost, priced.price_version
    if cost is not None and cost > _LARGEST_COST:
        cost, price_version = None, None  # no request costs that much, so this is no price
    rows.append(
        event,
        mode=point.mode,
        credential_id=credential_id,
        key_version=key_version,
        tokens=total_of(parts),
        cost=cost,
        billed=cost if is_managed and not is_mismatch and cost is not None else 0,
        price_version=price_version,
        flags=flags | int(priced.flags) | (_MISMATCH if is_mismatch else 0),
    )


def _uses(rows: LedgerRows) -> dict[tuple[UUID, int | None], datetime]:
    """The latest use of each key version, never in the future."""
    latest: dict[tuple[UUID, int | None], datetime] = {}
    for credential_id, key_version, started_at in rows.uses():
        key = credential_id, key_version
        if key not in latest or latest[key] < started_at:
            latest[key] = started_at
    return {key: min(at, rows.ingested_at) for key, at in latest.items()}
