"""Combines small batches of one organization into one, and gives each its own results. No I/O."""

from collections.abc import Sequence
from dataclasses import replace

from app.usage_events.events import EventBatch, Ingested, NotAccepted

# A batch with more events gets its own transaction: its commit is a small part of its work.
LARGEST_GROUPED_BATCH = 50
LARGEST_GROUP = 1000


def size(batch: EventBatch) -> int:
    return len(batch.events)


def combine(batches: Sequence[EventBatch]) -> EventBatch:
    """Return one batch with all events, in order. The indexes are positions in it."""
    events = [event for batch in batches for event in batch.events]
    return EventBatch(
        events=events,
        digests=[digest for batch in batches for digest in batch.digests],
        indexes=range(len(events)),
        usages=[usage for batch in batches for usage in batch.usages],
        flags=[flag for batch in batches for flag in batch.flags],
    )


def split(batches: Sequence[EventBatch], not_accepted: Sequence[NotAccepted]) -> list[Ingested]:
    """Return the result of each batch, with the indexes that its own request has."""
    position_of_batch = [(number, at) for number, batch in enumerate(batches) for at in range(size(batch))]
    by_batch: list[list[NotAccepted]] = [[] for _ in batches]
    for one in not_accepted:
        number, at = position_of_batch[one.index]
        by_batch[number].append(replace(one, index=batches[number].indexes[at]))
    return [
        Ingested(accepted=size(batch) - len(others), not_accepted=others)
        for batch, others in zip(batches, by_batch, strict=True)
    ]
