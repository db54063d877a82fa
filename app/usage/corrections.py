"""Which events may correct which others. No I/O."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from app.usage_events.batch_checks import rejection, select
from app.usage_events.events import EventBatch, EventCode, EventStatus, NotAccepted, UsageEvent
from app.usage_events.records import MAX_EVENT_AGE
from app.usage_mode.modes import UsageMode


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectedEvent:
    """A recorded event that another event corrects.

    `is_correction`: it corrects an event itself. `is_corrected`: another event has corrected it already.
    """

    event_id: str
    started_at: datetime
    ingested_at: datetime
    mode: UsageMode
    reservation_id: UUID | None
    is_correction: bool
    is_corrected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrections:
    """The events that a batch of correcting events refers to. Without `targets`, no event of the batch corrects another.

    Args:
        targets: the corrected events that are in the ledger.
        recorded: the correcting events that are in the ledger. They are duplicates or conflicts.
        now: the time of the ingestion.
    """

    targets: Mapping[str, CorrectedEvent] | None = None
    recorded: Collection[str] = ()
    now: datetime | None = None

    def target_of(self, event: UsageEvent) -> CorrectedEvent | None:
        """Return the recorded event that an event corrects."""
        return None if event.corrects is None or not self.targets else self.targets.get(event.corrects)

    def admitted(
        self,
        batch: EventBatch,
        mode_of: Callable[[UsageEvent], UsageMode],
        not_accepted: list[NotAccepted],
    ) -> EventBatch:
        """Remove events that may not correct what they name, and report why."""
        check = _Check(self, mode_of, {it.event_id for it in batch.events})
        kept: list[int] = []
        for at, event in enumerate(batch.events):
            code = check.code_for(event)
            if code is None:
                kept.append(at)
                continue
            is_conflict = code is EventCode.EVENT_ALREADY_CORRECTED
            status = EventStatus.CONFLICT if is_conflict else EventStatus.REJECTED
            not_accepted.append(rejection(batch, at, code, status))
        return select(batch, kept)


@dataclass(slots=True)
class _Check:
    """Checks the correcting events of a batch one after the other: the first one corrects an event."""

    corrections: Corrections
    mode_of: Callable[[UsageEvent], UsageMode]
    event_ids: Collection[str]
    admitted: dict[str, str] = field(default_factory=dict)

    def code_for(self, event: UsageEvent) -> EventCode | None:
        # Recorded events, and repetitions within the batch, are compared with the first one later.
        if event.event_id in self.corrections.recorded or event.event_id in self.admitted.values():
            return None
        corrects = event.corrects or ""
        target = self.corrections.target_of(event)
        if target is None or target.is_correction:
            return self._code_without_target(event, is_correction=target is not None)
        if target.is_corrected or corrects in self.admitted:
            return EventCode.EVENT_ALREADY_CORRECTED
        code = self._code_for_terms(event, target)
        if code is None:
            self.admitted[corrects] = event.event_id
        return code

    def _code_without_target(self, event: UsageEvent, *, is_correction: bool) -> EventCode:
        if event.corrects == event.event_id:
            return EventCode.CORRECTS_ITSELF
        if is_correction or event.corrects in self.event_ids:
            return EventCode.CORRECTED_EVENT_IS_CORRECTION
        return EventCode.CORRECTED_EVENT_NOT_FOUND

    def _code_for_terms(self, event: UsageEvent, target: CorrectedEvent) -> EventCode | None:
        now = self.corrections.now
        if now is not None and target.started_at < now - MAX_EVENT_AGE:
            return EventCode.CORRECTED_EVENT_TOO_OLD
        if self.mode_of(event) is not target.mode:
            return EventCode.CORRECTED_USAGE_MODE_DIFFERS
        if event.reservation_id is not None and target.reservation_id not in {None, event.reservation_id}:
            return EventCode.CORRECTED_RESERVATION_DIFFERS
        return None
