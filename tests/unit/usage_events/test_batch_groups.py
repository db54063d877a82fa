"""Small batches of several requests in one transaction: each request gets its own results with its own indexes."""

from datetime import UTC, datetime

from app.usage_events.anthropic_usage import UsageObject
from app.usage_events.batch_groups import combine, split
from app.usage_events.events import EventBatch, EventCode, EventStatus, Ingested, NotAccepted, UsageEvent
from app.usage_events.records import Outcome


def event(event_id: str) -> UsageEvent:
    return UsageEvent(
        event_id=event_id,
        started_at=datetime(2026, 3, 1, tzinfo=UTC),
        model="m",
        outcome=Outcome.SUCCEEDED,
        usage=UsageObject(),
    )


def batch(*ids: str, indexes: list[int]) -> EventBatch:
    return EventBatch(
        events=[event(id_) for id_ in ids],
        digests=[id_.encode() for id_ in ids],
        indexes=indexes,
        usages=[id_.encode() for id_ in ids],
        flags=[0] * len(ids),
    )


def duplicate(index: int, event_id: str) -> NotAccepted:
    return NotAccepted(
        index=index, event_id=event_id, status=EventStatus.DUPLICATE, code=EventCode.DUPLICATE_EVENT
    )


def test_results_return_to_their_requests() -> None:
    batches = [batch("a", "b", indexes=[0, 7]), batch("c", indexes=[3]), batch("d", "e", indexes=[1, 2])]

    combined = combine(batches)
    results = split(batches, [duplicate(1, "b"), duplicate(2, "c"), duplicate(3, "d")])

    assert [one.event_id for one in combined.events] == ["a", "b", "c", "d", "e"]
    assert list(combined.digests) == [b"a", b"b", b"c", b"d", b"e"]
    assert list(combined.indexes) == [0, 1, 2, 3, 4]
    assert results == [
        Ingested(accepted=1, not_accepted=[duplicate(7, "b")]),
        Ingested(accepted=0, not_accepted=[duplicate(3, "c")]),
        Ingested(accepted=1, not_accepted=[duplicate(1, "d")]),
    ]
