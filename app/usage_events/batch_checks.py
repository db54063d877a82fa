"""Checks of a batch: which events cannot be accepted, and why. No I/O."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from app.core.clock import now
from app.usage_events.events import EventBatch, EventCode, EventStatus, NotAccepted, UsageEvent
from app.usage_events.records import MAX_EVENT_AGE, MAX_EVENT_LEAD
from app.usage_mode.history import KeyVersionHistory, ModeHistory


def rejection(
    batch: EventBatch, at: int, code: EventCode, status: EventStatus = EventStatus.REJECTED
) -> NotAccepted:
    """Return the result of an event that is not accepted."""
    return NotAccepted(index=batch.indexes[at], event_id=batch.events[at].event_id, status=status, code=code)


def select(batch: EventBatch, kept: Sequence[int]) -> EventBatch:
    """Return the events at these positions."""
    if len(kept) == len(batch.events):
        return batch
    return EventBatch(
        events=[batch.events[at] for at in kept],
        digests=[batch.digests[at] for at in kept],
        indexes=[batch.indexes[at] for at in kept],
        usages=[batch.usages[at] for at in kept],
        flags=[batch.flags[at] for at in kept],
    )


def split_repetitions(batch: EventBatch) -> tuple[EventBatch, EventBatch]:
    """Return the first event of each id, and the repetitions within the batch."""
    first: dict[str, int] = {}
    for at, event in enumerate(batch.events):
        first.setdefault(event.event_id, at)
    repeated = [at for at, event in enumerate(batch.events) if first[event.event_id] != at]
    return select(batch, list(first.values())), select(batch, repeated)


def split_corrections(batch: EventBatch) -> tuple[EventBatch, EventBatch]:
    """Return the events that correct no other event, and those that do."""
    correcting = [at for at, event in enumerate(batch.events) if event.corrects is not None]
    if not correcting:
        return batch, select(batch, [])
    others = [at for at, event in enumerate(batch.events) if event.corrects is None]
    return select(batch, others), select(batch, correcting)


def compare_with_recorded(batch: EventBatch, at: int, recorded: Mapping[str, bytes]) -> NotAccepted:
    """Return the result of an event whose id is recorded: a duplicate, or a conflict if the content differs."""
    if recorded.get(batch.events[at].event_id) == batch.digests[at]:
        return rejection(batch, at, EventCode.DUPLICATE_EVENT, EventStatus.DUPLICATE)
    return rejection(batch, at, EventCode.EVENT_ID_CONFLICT, EventStatus.CONFLICT)


def within_time_range(batch: EventBatch, not_accepted: list[NotAccepted]) -> EventBatch:
    """Remove events whose start or end is outside the accepted time range."""
    current_time = now()
    oldest, newest = current_time - MAX_EVENT_AGE, current_time + MAX_EVENT_LEAD
    kept: list[int] = []
    for at, event in enumerate(batch.events):
        started_at, completed_at = event.started_at, event.completed_at
        if started_at < oldest:
            not_accepted.append(rejection(batch, at, EventCode.STARTED_AT_TOO_OLD))
        elif started_at > newest:
            not_accepted.append(rejection(batch, at, EventCode.STARTED_AT_IN_FUTURE))
        elif completed_at is not None and completed_at < started_at:
            not_accepted.append(rejection(batch, at, EventCode.COMPLETED_BEFORE_STARTED))
        elif completed_at is not None and completed_at > newest:
            not_accepted.append(rejection(batch, at, EventCode.COMPLETED_AT_IN_FUTURE))
        else:
            kept.append(at)
    return select(batch, kept)


def with_known_credentials(
    batch: EventBatch,
    rated_at: Callable[[UsageEvent], datetime],
    mode_history: ModeHistory,
    keys: Mapping[UUID, KeyVersionHistory],
    not_accepted: list[NotAccepted],
) -> EventBatch:
    """Remove events that refer to an unknown credential or key version.

    A key version without a credential id belongs to the credential that was active at the event's start.
    """
    kept: list[int] = []
    for at, event in enumerate(batch.events):
        credential_id, key_version = event.credential_id, event.key_version
        if credential_id is None and key_version is not None:
            credential_id = mode_history.at(rated_at(event)).credential_id
            if credential_id is None:
                not_accepted.append(rejection(batch, at, EventCode.CREDENTIAL_ID_REQUIRED))
                continue
        if credential_id is None:
            kept.append(at)
        elif (key_history := keys.get(credential_id)) is None:
            not_accepted.append(rejection(batch, at, EventCode.CREDENTIAL_NOT_FOUND))
        elif key_version is not None and key_version not in key_history:
            not_accepted.append(rejection(batch, at, EventCode.KEY_VERSION_NOT_FOUND))
        else:
            kept.append(at)
    return select(batch, kept)
