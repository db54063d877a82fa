"""The table of ends: outcome, source and counters of every way in which a call can end."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from app.relay.ending.call_event import batch_of
from app.relay.ending.ends import Progress, end_of
from app.relay.records import AdmittedCall, CallEnd, CallRequest, Dimensions, EndedBy
from app.relay.usage_meter import Metered, UsageSource
from app.usage_events.records import UsageFlag
from app.usage_mode.modes import UsageMode

CALL = AdmittedCall(
    organization_id="org_acme",
    request=CallRequest(
        id=UUID(int=7),
        subject="agent",
        model="claude-haiku-5-5",
        max_tokens=100,
        input_tokens=50,
        is_stream=True,
        dimensions=Dimensions(feature="assistant"),
    ),
    started_at=datetime(2026, 11, 29, tzinfo=UTC),
    mode=UsageMode.BYO,
    credential_id=UUID(int=8),
    key_version=3,
)
USAGE = {"input_tokens": 12, "output_tokens": 34}
REPORTED = Metered(usage=USAGE, source=UsageSource.REPORTED, is_complete=True)
PARTIAL = Metered(usage=USAGE, source=UsageSource.ESTIMATED)
NOTHING = Metered()


def ended(progress: Progress, by: EndedBy) -> CallEnd:
    found = end_of(CALL, progress, by)
    assert found is not None
    return found


class TestEnd:
    @pytest.mark.parametrize("by", EndedBy)
    def test_is_a_release_if_nothing_was_sent(self, by: EndedBy) -> None:
        assert end_of(CALL, Progress(), by) is None

    @pytest.mark.parametrize(
        ("by", "status", "metered", "expected"),
        [
            (EndedBy.COMPLETE, 200, REPORTED, ("succeeded", "reported", 12, 34)),
            (EndedBy.COMPLETE, 200, NOTHING, ("failed", "estimated", 0, 0)),
            (EndedBy.PROVIDER_ERROR, 529, NOTHING, ("failed", "reported", 0, 0)),
            (EndedBy.CLIENT, 400, NOTHING, ("failed", "reported", 0, 0)),
            (EndedBy.PROVIDER_ERROR, None, None, ("failed", "estimated", 50, 0)),
            (EndedBy.PROVIDER_CUT, None, None, ("failed", "estimated", 0, 0)),
            (EndedBy.PROVIDER_SILENT, None, None, ("failed", "estimated", 50, 0)),
            (EndedBy.CLIENT, None, None, ("aborted", "estimated", 50, 0)),
            (EndedBy.DRAIN, None, None, ("aborted", "estimated", 50, 0)),
            (EndedBy.CLIENT, 200, PARTIAL, ("aborted", "estimated", 12, 34)),
            (EndedBy.CLIENT, 200, REPORTED, ("aborted", "reported", 12, 34)),
            (EndedBy.SLOW_CLIENT, 200, PARTIAL, ("aborted", "estimated", 12, 34)),
            (EndedBy.TOO_LONG, 200, PARTIAL, ("aborted", "estimated", 12, 34)),
            (EndedBy.PROVIDER_CUT, 200, PARTIAL, ("failed", "estimated", 12, 34)),
            (EndedBy.PROVIDER_CUT, 200, REPORTED, ("failed", "reported", 12, 34)),
            (EndedBy.PROVIDER_CUT, 200, NOTHING, ("failed", "estimated", 50, 0)),
            (EndedBy.FAULT, 200, PARTIAL, ("aborted", "estimated", 12, 34)),
        ],
    )
    def test_costs_what_is_known(
        self,
        by: EndedBy,
        status: int | None,
        metered: Metered | None,
        expected: tuple[str, str, int, int],
    ) -> None:
        found = ended(Progress(was_sent=True, status=status, metered=metered), by)

        usage = json.loads(found.usage)
        counted = (usage["input_tokens"], usage["output_tokens"])
        assert (found.outcome, found.usage_source, *counted) == expected


class TestEvent:
    async def test_names_the_reservation_and_the_key_version(self) -> None:
        progress = Progress(was_sent=True, status=200, metered=REPORTED, provider_request_id="req_1")

        batch = await batch_of([ended(progress, EndedBy.COMPLETE)])

        (event,) = batch.events
        assert event.event_id == str(event.reservation_id) == str(CALL.request.id)
        assert (event.credential_id, event.key_version) == (CALL.credential_id, 3)
        assert (event.feature, event.provider_request_id) == ("assistant", "req_1")

    @pytest.mark.parametrize("model", ["sk-ant-api03-abcdefgh", "a\nb", "x" * 129])
    async def test_keeps_the_requested_model_if_the_named_one_cannot_be_stored(self, model: str) -> None:
        metered = Metered(usage=USAGE, source=UsageSource.REPORTED, model=model, is_complete=True)

        batch = await batch_of(
            [ended(Progress(was_sent=True, status=200, metered=metered), EndedBy.COMPLETE)]
        )

        assert [it.model for it in batch.events] == [CALL.request.model]
        assert batch.events[0].usage.output_tokens == 34

    @pytest.mark.parametrize(
        ("category", "expected"),
        [("bio", "bio"), (None, None), ("cyber", None), ("AbCdEfGh", None), ("x" * 65, None)],
    )
    async def test_says_that_a_model_declined(self, category: str | None, expected: str | None) -> None:
        metered = replace(REPORTED, stop_reason="refusal", refusal_category=category)

        batch = await batch_of(
            [ended(Progress(was_sent=True, status=200, metered=metered), EndedBy.COMPLETE)]
        )

        assert [(it.stop_reason, it.refusal_category) for it in batch.events] == [("refusal", expected)]

    async def test_is_estimated_if_the_usage_cannot_be_read(self) -> None:
        metered = Metered(
            usage={"input_tokens": -1, "output_tokens": "many"}, source=UsageSource.REPORTED, is_complete=True
        )

        batch = await batch_of(
            [ended(Progress(was_sent=True, status=200, metered=metered), EndedBy.COMPLETE)]
        )

        (event,) = batch.events
        assert (event.usage_source, event.usage.input_tokens) == ("estimated", 50)
        assert batch.flags == [UsageFlag.NONE]

    async def test_those_of_many_calls_let_other_tasks_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("app.core.event_loop.SLICE_SECONDS", 0)
        ends, iterations = [ended(Progress(was_sent=True), EndedBy.CLIENT)] * 40, 0

        async def count() -> None:
            nonlocal iterations
            while True:
                iterations += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        batch = await batch_of(ends)

        counting.cancel()
        assert len(batch.events) == len(ends)
        assert iterations >= len(ends) / 4
