"""Records the events of one transaction: claims their ids, prices them, and writes their rows.

Events that correct others are recorded after all others, because they may correct an event of the same batch.
"""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

import msgspec

from app.core.event_loop import TimeSlice, list_in_slices
from app.database.unit_of_work import UnitOfWork
from app.usage.correction_repository import CorrectionRepository
from app.usage.corrections import CorrectedEvent, Corrections
from app.usage.last_used_repository import KeyLastUsedRepository
from app.usage.ledger_rows import LedgerRows
from app.usage.ports import PriceSource
from app.usage.repository import ClaimedIds, UsageRepository
from app.usage_events.batch_checks import (
    compare_with_recorded,
    select,
    split_repetitions,
    with_known_credentials,
)
from app.usage_events.events import EventBatch, NotAccepted, UsageEvent
from app.usage_events.kept_usage import pack
from app.usage_events.priced_event import Pricer, price_event
from app.usage_events.records import Charge, UsageFlag
from app.usage_mode.history import KeyVersionHistory, ModeHistory
from app.usage_mode.modes import UsageMode

_MISMATCH = int(UsageFlag.MODE_MISMATCH)
_REPEATED = int(UsageFlag.PROVIDER_REQUEST_REPEATED)
_PACK_IN_THREAD_FROM = 250
_PACK_IN_THREAD_FROM_BYTES = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Context:
    """What the mode, the key version and the price of an event depend on."""

    ingested_at: datetime
    mode_history: ModeHistory
    keys: Mapping[UUID, KeyVersionHistory]
    corrections: Corrections
    has_price_overrides: bool

    def rated_at(self, event: UsageEvent) -> datetime:
        """The instant whose mode and price an event has.

        Not later than the server's clock: a client's clock may already be past a scheduled usage mode change. A
        correction has the clock of the event that it corrects, so that both are rated alike.
        """
        corrected = self.corrections.target_of(event)
        return min(event.started_at, self.ingested_at if corrected is None else corrected.ingested_at)


class EventRecorder:
    """Records events in a transaction that holds the ledger lock. `charges` are the rows that spend limits count.

    After all of them, and after the counters of the limits, call `record_key_uses`.
    """

    def __init__(self, uow: UnitOfWork, prices: PriceSource) -> None:
        self._uow = uow
        self._prices = prices
        self.accepted = 0
        self.charges: list[Charge] = []
        self.not_accepted: list[NotAccepted] = []
        self._uses: dict[tuple[UUID, int | None], datetime] = {}

    async def record(self, batch: EventBatch) -> None:
        """Record events of which none corrects another one."""
        await self._record(batch, await self._context(batch, Corrections()))

    async def correct(self, batch: EventBatch) -> None:
        """Record events of which each one corrects another one. Take the lock for corrections first.

        Raises no error for a second correction of an event: it is not accepted.
        """
        corrections = Corrections(
            targets=await self._uow[CorrectionRepository].find([it.corrects or "" for it in batch.events]),
            recorded=(await self._uow[UsageRepository].digests([it.event_id for it in batch.events])).keys(),
        )
        await self._record(batch, await self._context(batch, corrections))

    async def record_key_uses(self) -> None:
        """Record when the keys of the accepted events were last used.

        Its locks on key versions come after those on counters, as in the admission of the relay's calls: no deadlocks.
        """
        if self._uses:
            await self._uow[KeyLastUsedRepository].record_uses(self._uses)

    async def _record(self, batch: EventBatch, context: _Context) -> None:
        # Check repetitions last, so that a rejected event does not claim its id: the client may send it again, corrected.
        batch = with_known_credentials(
            batch, context.rated_at, context.mode_history, context.keys, self.not_accepted
        )
        if context.corrections.targets is not None:
            batch = context.corrections.admitted(
                batch, lambda event: context.mode_history.at(context.rated_at(event)).mode, self.not_accepted
            )
        await asyncio.sleep(0)  # of 5,000 events, each step takes 1 to 2 ms
        batch, repeated = split_repetitions(batch)
        if not batch.events:
            return
        claimed = await self._uow[UsageRepository].claim(batch)
        if repeated.events or len(claimed.event_ids) < len(batch.events):
            batch = await self._without_recorded(batch, repeated, claimed.event_ids)
        if not batch.events:
            return
        if context.corrections.targets is None:
            batch = _flag_repeated_requests(batch, claimed)
        await self._write(batch, context)

    async def _write(self, batch: EventBatch, context: _Context) -> None:
        has_overrides = context.has_price_overrides
        prices = await self._prices.load(self._uow) if has_overrides else self._prices.without_overrides()
        rows = await _rows(batch, context, prices)
        await self._uow[UsageRepository].insert(rows, await _pack(batch))
        if context.corrections.targets is not None:
            corrected = {it.event_id: context.corrections.target_of(it) for it in batch.events}
            self.charges += await self._uow[CorrectionRepository].cancel(
                {by: target for by, target in corrected.items() if target is not None}, context.ingested_at
            )
        self.charges += await list_in_slices(rows.charges(), in_transaction=True)
        self.accepted += len(batch.events)
        for key, at in _latest_uses(rows).items():
            self._uses[key] = max(at, self._uses.get(key, at))

    async def _context(self, batch: EventBatch, corrections: Corrections) -> _Context:
        """Read what the rows depend on. Its clock is the ingestion time, which identifies the usage objects of a batch."""
        earliest = [event.started_at for event in batch.events]
        earliest += [target.ingested_at for target in (corrections.targets or {}).values()]
        since = min(earliest)
        rating = await self._uow[UsageRepository].rating_context(earliest=since)
        return _Context(
            ingested_at=rating.now,
            mode_history=rating.mode_history,
            keys=await self._key_histories(batch, rating.mode_history, since=min(since, rating.now)),
            corrections=replace(corrections, now=rating.now),
            has_price_overrides=rating.has_price_overrides,
        )

    async def _key_histories(
        self, batch: EventBatch, mode_history: ModeHistory, *, since: datetime
    ) -> Mapping[UUID, KeyVersionHistory]:
        """Return the key version histories of all credentials that the events or the mode history refer to."""
        repository = self._uow[KeyLastUsedRepository]
        named = {event.credential_id for event in batch.events}
        named |= {change.credential_id for change in mode_history.changes}
        known = [it for it in named if it is not None]
        if not known:
            return {}
        key_versions = {event.key_version for event in batch.events if event.key_version is not None}
        return await repository.key_histories(known, since=since, key_versions=key_versions)

    async def _without_recorded(
        self, batch: EventBatch, repeated: EventBatch, new_ids: Collection[str]
    ) -> EventBatch:
        """Remove events that were recorded before, and report them and the repetitions as duplicates or conflicts."""
        kept = select(batch, [at for at, event in enumerate(batch.events) if event.event_id in new_ids])
        known = select(batch, [at for at, event in enumerate(batch.events) if event.event_id not in new_ids])
        recorded = dict(await self._uow[UsageRepository].digests([event.event_id for event in known.events]))
        recorded |= {event.event_id: digest for event, digest in zip(kept.events, kept.digests, strict=True)}
        for others in (known, repeated):
            compared = (compare_with_recorded(others, at, recorded) for at in range(len(others.events)))
            self.not_accepted += await list_in_slices(compared, in_transaction=True)
        return kept


async def _pack(batch: EventBatch) -> Mapping[datetime, bytes]:
    """Compress the usage objects. In a thread if they are many or large, because that takes some milliseconds."""
    objects = list(zip(batch.events, batch.usages, strict=True))
    size = sum(len(usage or b"") for usage in batch.usages)
    is_small = len(objects) < _PACK_IN_THREAD_FROM and size < _PACK_IN_THREAD_FROM_BYTES
    return pack(objects) if is_small else await asyncio.to_thread(pack, objects)


def _flag_repeated_requests(batch: EventBatch, claimed: ClaimedIds) -> EventBatch:
    """Flag every event whose provider request another event has named before."""
    first: dict[str, int] = {}
    for at, event in enumerate(batch.events):
        request_id = event.provider_request_id
        if request_id in claimed.request_ids and request_id is not None:
            earlier = first.setdefault(request_id, at)
            if event.started_at < batch.events[earlier].started_at:
                first[request_id] = at
    flags = [
        flags
        if event.provider_request_id is None or first.get(event.provider_request_id) == at
        else flags | _REPEATED
        for at, (event, flags) in enumerate(zip(batch.events, batch.flags, strict=True))
    ]
    return replace(batch, flags=flags)


async def _rows(batch: EventBatch, context: _Context, prices: Pricer) -> LedgerRows:
    rows = LedgerRows(context.ingested_at)
    time_slice = TimeSlice(in_transaction=True)
    for event, flags in zip(batch.events, batch.flags, strict=True):
        _append(rows, _with_reservation(event, context.corrections.target_of(event)), flags, context, prices)
        await time_slice.pause_if_used()
    return rows


def _with_reservation(event: UsageEvent, corrected: CorrectedEvent | None) -> UsageEvent:
    """A correction settles the reservation of the event that it corrects."""
    if corrected is None or corrected.reservation_id is None:
        return event
    return msgspec.structs.replace(event, reservation_id=corrected.reservation_id)


def _append(rows: LedgerRows, event: UsageEvent, flags: int, context: _Context, prices: Pricer) -> None:
    at = context.rated_at(event)
    change = context.mode_history.at(at)
    is_managed = change.mode is UsageMode.MANAGED
    credential_id, key_version = event.credential_id, event.key_version
    is_mismatch = is_managed and credential_id is not None
    if credential_id is None and not is_managed:
        credential_id = change.credential_id
    is_compatible = False
    if credential_id is not None and (key_history := context.keys.get(credential_id)) is not None:
        key_version = key_version or key_history.at(at)
        is_compatible = key_history.is_compatible_endpoint(key_version)
    if is_mismatch:
        flags |= _MISMATCH
    parts = price_event(event, prices, at=at, is_compatible_endpoint=is_compatible, flags=flags)
    for number, part in enumerate(parts):
        rows.append(
            event,
            part=number,
            model=part.model,
            mode=change.mode,
            credential_id=credential_id,
            key_version=key_version,
            tokens=part.tokens,
            cost=part.cost,
            billed=part.cost or 0 if is_managed and not is_mismatch else 0,
            price_version=part.price_version,
            flags=part.flags,
        )


def _latest_uses(rows: LedgerRows) -> dict[tuple[UUID, int | None], datetime]:
    """Return the latest use of each key version, never in the future."""
    latest: dict[tuple[UUID, int | None], datetime] = {}
    for credential_id, key_version, started_at in rows.uses():
        key = credential_id, key_version
        if key not in latest or latest[key] < started_at:
            latest[key] = started_at
    return {key: min(at, rows.ingested_at) for key, at in latest.items()}
