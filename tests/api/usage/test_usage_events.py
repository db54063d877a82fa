"""Ingestion of usage events: which events are accepted, why others are not, and that each one counts once."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.database.rows import fetch
from tests.support.problems import assert_problem
from tests.support.provider.fake_anthropic import make_key
from tests.support.requests.usage_events import JSON, Ledger, event, instant, lines
from tests.support.tenant import MakeTenant, MakeToken

KEY = make_key()
REJECTED: dict[str, tuple[Any, str]] = {
    "nothing": (None, "invalid_event"),
    "a list": ([], "invalid_event"),
    "a text": ("event", "invalid_event"),
    "an unknown field": (event(cost=1), "unknown_field"),
    "the mode": (event(usage_mode="managed"), "unknown_field"),
    "no event_id": (event(event_id=None), "required"),
    "no started_at": (event(started_at=None), "required"),
    "no model": (event(model=None), "required"),
    "no outcome": (event(outcome=None), "required"),
    "no usage": (event(usage=None), "required"),
    "empty event_id": (event(event_id=""), "invalid_event_id"),
    "long event_id": (event(event_id="x" * 65), "invalid_event_id"),
    "number as event_id": (event(event_id=7), "invalid_event_id"),
    "null byte in event_id": (event(event_id="a\0b"), "invalid_event_id"),
    "newline in model": (event(model="a\nb"), "invalid_model"),
    "long model": (event(model="x" * 129), "invalid_model"),
    "empty feature": (event(feature=""), "invalid_feature"),
    "number as session_id": (event(session_id=7), "invalid_session_id"),
    "time without zone": (event(started_at="2026-11-23T14:05:06"), "invalid_started_at"),
    "date as time": (event(started_at="2026-11-23"), "invalid_started_at"),
    "number as time": (event(started_at=1_790_000_000), "invalid_started_at"),
    "time outside all calendars": (event(started_at="0001-01-01T00:00:00+05:00"), "invalid_started_at"),
    "unknown outcome": (event(outcome="done"), "invalid_outcome"),
    "unknown source": (event(usage_source="guessed"), "invalid_usage_source"),
    "usage as a list": (event(usage=[1]), "invalid_usage"),
    "negative tokens": (event(usage={"input_tokens": -1}), "invalid_usage"),
    "broken tokens": (event(usage={"input_tokens": 1.5}), "invalid_usage"),
    "tokens as text": (event(usage={"output_tokens": "5"}), "invalid_usage"),
    "too many tokens": (event(usage={"output_tokens": 10**12}), "invalid_usage"),
    "no UUID": (event(credential_id="mine"), "invalid_credential_id"),
    "version 0": (event(credential_id=str(uuid4()), key_version=0), "invalid_key_version"),
    "version without credential": (event(key_version=1), "credential_id_required"),
    "end outside all calendars": (event(completed_at="9999-12-31T23:59:59-05:00"), "invalid_completed_at"),
    "reservation without UUID": (event(reservation_id="mine"), "invalid_reservation_id"),
    "unknown credential": (event(credential_id=str(uuid4())), "credential_not_found"),
    "too old": (event(started_at=instant(days=35, minutes=1)), "started_at_too_old"),
    "too far ahead": (event(started_at=instant(days=-1)), "started_at_in_future"),
    "end before start": (event(completed_at=instant(days=1)), "completed_before_started"),
    "end far ahead": (event(completed_at=instant(days=-1)), "completed_at_in_future"),
    "key as event_id": (event(event_id=KEY[:64]), "looks_like_key"),
    "key as model": (event(model=f"my {KEY}"), "looks_like_key"),
    "key as feature": (event(feature=KEY), "looks_like_key"),
    "key as tier": (event(usage={"input_tokens": 1, "service_tier": KEY[:64]}), "looks_like_key"),
}


class TestIngestUsageEvents:
    @pytest.mark.parametrize("case", REJECTED)
    async def test_rejects_an_invalid_event_and_accepts_the_others(self, ledger: Ledger, case: str) -> None:
        wrong, code = REJECTED[case]

        assert await ledger.rejected(wrong) == code

    async def test_names_the_fields_that_are_missing(self, ledger: Ledger) -> None:
        response = await ledger.post([event(model=None, outcome=None)])

        (result,) = response.json()["results"]
        assert (result["code"], sorted(result["fields"])) == ("required", ["model", "outcome"])

    async def test_accepts_events_at_the_ends_of_the_time_range(self, ledger: Ledger) -> None:
        await ledger.accepted(
            event(started_at=instant(days=34, hours=23)), event(started_at=instant(minutes=-4))
        )

    async def test_lists_an_event_as_it_was_reported(self, ledger: Ledger) -> None:
        reservation_id = str(uuid4())
        sent = event(
            started_at=instant(hours=1),
            completed_at=instant(minutes=59),
            endpoint_id="chat",
            feature="support",
            session_id="s-1",
            prompt_id="p-1",
            outcome="aborted",
            usage_source="estimated",
            provider_request_id="req_1",
            reservation_id=reservation_id,
        )

        await ledger.accepted(sent)

        row = await ledger.row(sent["event_id"])
        same = (
            *("event_id", "started_at", "completed_at", "model", "endpoint_id", "feature", "session_id"),
            *("prompt_id", "outcome", "usage_source", "provider_request_id", "reservation_id"),
        )
        assert {name: row[name] for name in same} == {name: sent[name] for name in same}
        assert (row["usage_mode"], row["credential_id"], row["key_version"]) == ("managed", None, None)
        assert row["correction"] == 0
        assert row["uncached_input_tokens"] == 12
        assert row["output_tokens"] == 6

    async def test_shows_no_cost_for_a_model_without_a_price(self, ledger: Ledger) -> None:
        sent = event(model="model-without-a-price")

        await ledger.accepted(sent)

        row = await ledger.row(sent["event_id"])
        assert row["estimated_cost"] is None
        assert row["billed_cost"] == {"amount": "0.00", "currency": "USD"}

    async def test_shows_times_in_utc(self, ledger: Ledger) -> None:
        moment = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
        sent = event(started_at=f"{(moment + timedelta(hours=5)).isoformat()[:19]}+05:00")

        await ledger.accepted(sent)

        assert (await ledger.row(sent["event_id"]))["started_at"] == instant(moment)


class TestEventResults:
    async def test_repeats_the_event_id(self, ledger: Ledger) -> None:
        body = (await ledger.post([event(event_id="mine", outcome="done")])).json()

        assert body["results"] == [
            {"index": 0, "event_id": "mine", "status": "rejected", "code": "invalid_outcome"}
        ]

    @pytest.mark.parametrize(
        "wrong",
        [
            event(event_id=KEY[:64]),
            event(event_id=KEY),
            event(event_id={"a": KEY}),
            {KEY[:60]: 1},
            event(event_id=f"x {KEY[:60]}", outcome="done"),
        ],
    )
    async def test_never_repeats_a_key_sent_as_event_id(self, ledger: Ledger, wrong: Any) -> None:
        response = await ledger.post([wrong])

        (result,) = response.json()["results"]
        assert KEY[16:24] not in response.text
        assert result["event_id"] is None or "sk-ant" not in result["event_id"]

    async def test_lists_at_most_ten_thousand_results(self, ledger: Ledger) -> None:
        response = await ledger.stream(b"{}\n" * 10_001)

        body = response.json()
        assert (body["accepted"], len(body["results"]), body["results_truncated"]) == (0, 10_000, True)

    async def test_lists_results_in_request_order(self, ledger: Ledger) -> None:
        first = event()
        events = [{}, first, event(started_at=instant(days=40)), first, event(), event(outcome="done")]

        body = (await ledger.post(events)).json()

        assert (body["accepted"], body["duplicates"]) == (2, 1)
        assert [(it["index"], it["status"]) for it in body["results"]] == [
            (0, "rejected"),
            (2, "rejected"),
            (3, "duplicate"),
            (5, "rejected"),
        ]


class TestIdempotency:
    async def test_the_same_event_again_is_a_duplicate(self, ledger: Ledger) -> None:
        sent = event(feature="x")
        await ledger.accepted(sent)

        body = (await ledger.post([sent, event()])).json()

        assert (body["accepted"], body["duplicates"]) == (1, 1)
        assert body["results"] == [
            {"index": 0, "event_id": sent["event_id"], "status": "duplicate", "code": "duplicate_event"}
        ]
        assert len(await ledger.rows()) == 2

    async def test_the_same_event_in_another_notation_is_a_duplicate(self, ledger: Ledger) -> None:
        moment = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
        sent = event(started_at=instant(moment), completed_at=instant(moment), feature="x")
        await ledger.accepted(sent)
        again = sent | {"completed_at": f"{(moment + timedelta(hours=2)).isoformat()[:19]}+02:00"}
        assert (await ledger.post([again])).json()["duplicates"] == 1
        spelled = dict(reversed(sent.items())) | {
            "started_at": f"{(moment - timedelta(hours=3)).isoformat()[:19]}.000-03:00",
            "session_id": None,
            "usage": {"output_tokens": 6, "input_tokens": 12, "something_new": {"a": [1]}},
        }

        body = (await ledger.stream(json.dumps(spelled, indent=1).replace("\n", " ").encode())).json()

        assert (body["accepted"], body["duplicates"]) == (0, 1)

    @pytest.mark.parametrize(
        "changed",
        [
            {"model": "claude-opus-5-5"},
            {"started_at": instant(days=2)},
            {"outcome": "failed"},
            {"usage": {"input_tokens": 13, "output_tokens": 6}},
            {"feature": "another"},
        ],
    )
    async def test_the_same_id_with_other_content_is_a_conflict(
        self, ledger: Ledger, changed: dict[str, Any]
    ) -> None:
        sent = event()
        await ledger.accepted(sent)
        before = await ledger.rows()

        body = (await ledger.post([sent | changed])).json()

        assert (body["accepted"], body["duplicates"]) == (0, 0)
        assert [(it["status"], it["code"]) for it in body["results"]] == [("conflict", "event_id_conflict")]
        assert await ledger.rows() == before

    async def test_the_first_event_of_a_batch_wins(self, ledger: Ledger) -> None:
        sent = event()

        body = (await ledger.post([sent, sent, sent | {"outcome": "failed"}])).json()

        assert (body["accepted"], body["duplicates"]) == (1, 1)
        assert [it["status"] for it in body["results"]] == ["duplicate", "conflict"]

    async def test_repetitions_in_a_batch_are_compared_with_the_recorded_event(self, ledger: Ledger) -> None:
        sent = event()
        other = sent | {"outcome": "failed"}
        await ledger.accepted(sent)

        body = (await ledger.post([other, other, sent, sent])).json()

        assert (body["accepted"], body["duplicates"]) == (0, 2)
        assert [it["status"] for it in body["results"]] == ["conflict", "conflict", "duplicate", "duplicate"]

    @pytest.mark.parametrize(
        ("wrong", "code"),
        [
            ({"started_at": instant(days=36)}, "started_at_too_old"),
            ({"credential_id": str(uuid4())}, "credential_not_found"),
        ],
    )
    async def test_a_rejected_event_does_not_claim_its_id(
        self, ledger: Ledger, wrong: dict[str, Any], code: str
    ) -> None:
        sent = event()

        body = (await ledger.post([sent | wrong, sent | wrong, sent])).json()

        assert (body["accepted"], body["duplicates"]) == (1, 0)
        assert [(it["index"], it["code"]) for it in body["results"]] == [(0, code), (1, code)]
        assert len(await ledger.rows()) == 1

    async def test_two_organizations_may_use_the_same_id(
        self, ledger: Ledger, make_tenant: MakeTenant
    ) -> None:
        other = Ledger(tenant=(tenant := make_tenant()), service=tenant)
        sent = event()

        await ledger.accepted(sent)
        response = await ledger.service.post(other.path, json={"events": [sent]})

        assert response.json()["accepted"] == 1
        assert len(await other.rows()) == 1

    async def test_a_rejected_event_may_be_sent_again_corrected(self, ledger: Ledger) -> None:
        sent = event(credential_id=str(uuid4()))
        assert await ledger.rejected(sent) == "credential_not_found"

        await ledger.accepted({name: value for name, value in sent.items() if name != "credential_id"})


class TestJsonBatch:
    async def test_accepts_at_most_five_thousand_events(self, ledger: Ledger) -> None:
        assert (await ledger.post(event() for _ in range(5000))).json()["accepted"] == 5000

        response = await ledger.post([{}] * 5001)

        assert_problem(response, 422, "too_many_events")

    async def test_rejects_only_the_event_with_invalid_unicode(self, ledger: Ledger) -> None:
        # Half of a surrogate pair: JSON's grammar allows it, but it is not valid Unicode.
        body = json.dumps({"events": [event(feature="ä"), event(event_id="\ud800")]}).encode()

        response = (await ledger.service.post(ledger.path, content=body, headers=JSON)).json()

        assert response["accepted"] == 1
        assert response["results"] == [
            {"index": 1, "event_id": None, "status": "rejected", "code": "malformed_json"}
        ]

    @pytest.mark.parametrize("first", [event(), event(feature="\ud800")], ids=["valid", "surrogate"])
    async def test_with_many_commas_is_split_like_any_other(self, ledger: Ledger, first: Any) -> None:
        # More commas than a batch may have for the fast way to split it.
        listed = event(
            feature="," * 100, usage={"input_tokens": 1, "unknown": [[1, "]"], {"a": '\\"'}] * 1000}
        )
        others = [listed | {"event_id": f"e{number}"} for number in range(100)]

        body = json.dumps({"events": [first, *others, {"event_id": "e0"}]}).encode()
        response = await ledger.service.post(ledger.path, content=body, headers=JSON)

        found = response.json()
        codes = [(result["index"], result["code"]) for result in found["results"]]
        is_surrogate = first.get("feature") is not None
        assert codes == [*([(0, "malformed_json")] if is_surrogate else []), (101, "required")]
        assert found["accepted"] == 101 - is_surrogate

    @pytest.mark.parametrize("body", [b"1,", b"[],", b'"\\ud800",', b'{"a":[{}]},'])
    async def test_counts_the_items_of_the_largest_bodies(self, ledger: Ledger, body: bytes) -> None:
        items = body * (15 * 1024 * 1024 // len(body))
        whole = b'{"events":[' + items[:-1] + b"]}"

        response = await ledger.service.post(ledger.path, content=whole, headers=JSON)

        assert_problem(response, 422, "too_many_events")

    async def test_rejects_only_the_event_that_is_too_large(self, ledger: Ledger) -> None:
        large = event(usage={"input_tokens": 1, "unknown": "x" * 256 * 1024})

        assert await ledger.rejected(large) == "event_too_large"

    async def test_bounds_the_iterations_of_all_events_together(self, ledger: Ledger) -> None:
        iterations = event(usage={"input_tokens": 1, "iterations": [{"type": "message"}] * 250})
        events = [iterations | {"event_id": f"e{number}"} for number in range(41)]

        response = (await ledger.post([*events, event(event_id="without")])).json()
        repeated = await ledger.post(events[40:])

        assert response["accepted"] == 41
        assert response["results"] == [
            {"index": 40, "event_id": "e40", "status": "rejected", "code": "too_many_iterations"}
        ]
        assert repeated.json()["accepted"] == 1

    async def test_may_be_empty(self, ledger: Ledger) -> None:
        await ledger.accepted()

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            (b"", 400, "malformed_json"),
            (b"{", 400, "malformed_json"),
            (b'{"events": [{}, nul]}', 400, "malformed_json"),
            (b'{"events": [{]}', 400, "malformed_json"),
            (b"[" * 100_000, 400, "malformed_json"),
            (b'{"events": [{"event_id": "\\ud800"}, NaN]}', 400, "malformed_json"),
            (b'{"events": [{"event_id": "\\ud800"}], "more": 1}', 400, "malformed_json"),
            (b'{"events": {"event_id": "\\ud800"}}', 400, "malformed_json"),
            (b"[]", 422, "validation_failed"),
            (b"{}", 422, "validation_failed"),
            (b'{"events": {}}', 422, "validation_failed"),
            (b'{"events": [], "more": 1}', 422, "unknown_field"),
        ],
    )
    async def test_rejects_malformed_batches(
        self, ledger: Ledger, body: bytes, status: int, code: str
    ) -> None:
        response = await ledger.service.post(ledger.path, content=body, headers=JSON)

        assert_problem(response, status, code)

    @pytest.mark.parametrize("texts", [1, 4000], ids=["small", "large"])
    @pytest.mark.parametrize(
        ("end", "status", "code"),
        [
            (b', "source" : "x"}', 422, "unknown_field"),
            (b',"\\u0073ource":[]}', 422, "unknown_field"),
            (b',"source" "x"}', 400, "malformed_json"),
            (b",source:1}", 400, "malformed_json"),
            (b",}", 400, "malformed_json"),
            (b"", 400, "malformed_json"),
        ],
    )
    async def test_rejects_what_follows_the_events_whatever_their_size(
        self, ledger: Ledger, texts: int, end: bytes, status: int, code: str
    ) -> None:
        events = b",".join([b'"' + b"x" * 100 + b'"'] * texts)

        response = await ledger.service.post(
            ledger.path, content=b'{"events":[' + events + b"]" + end, headers=JSON
        )

        assert_problem(response, status, code)

    async def test_rejects_events_twice(self, ledger: Ledger) -> None:
        events = b'"events":["' + b"x" * 400_000 + b'"]'

        response = await ledger.service.post(
            ledger.path, content=b"{" + events + b"," + events + b"}", headers=JSON
        )

        assert_problem(response, 400, "malformed_json")

    async def test_accepts_bodies_up_to_16_mib(self, ledger: Ledger) -> None:
        large = json.dumps({"events": [event()]}).encode().ljust(16 * 1024 * 1024)

        response = await ledger.service.post(ledger.path, content=large, headers=JSON)
        larger = await ledger.service.post(ledger.path, content=large + b" ", headers=JSON)

        assert response.json()["accepted"] == 1
        assert_problem(larger, 413, "payload_too_large")

    @pytest.mark.parametrize("media_type", ["text/plain", "application/ndjson", "text/csv", ""])
    async def test_rejects_other_media_types(self, ledger: Ledger, media_type: str) -> None:
        response = await ledger.service.post(
            ledger.path, content=lines([event()]), headers={"Content-Type": media_type}
        )

        assert_problem(response, 415, "unsupported_media_type")

    async def test_ignores_the_idempotency_key(self, ledger: Ledger) -> None:
        sent = {"events": [event()]}

        responses = [
            (await ledger.service.post(ledger.path, json=sent, headers={"Idempotency-Key": "1"})).json()
            for _ in range(2)
        ]

        assert [(it["accepted"], it["duplicates"]) for it in responses] == [(1, 0), (0, 1)]


class TestPermissions:
    async def test_organization_tokens_cannot_ingest(self, ledger: Ledger) -> None:
        response = await ledger.tenant.post(ledger.path, json={"events": []})

        assert_problem(response, 403, "insufficient_scope")

    async def test_organization_tokens_cannot_ingest_even_with_the_scope(
        self, ledger: Ledger, make_token: MakeToken
    ) -> None:
        token = make_token("service", ledger.tenant.organization, scopes=frozenset({"usage:write"}))

        response = await ledger.tenant.http.post(
            ledger.path, json={"events": []}, headers={"Authorization": f"Bearer {token}"}
        )

        assert_problem(response, 403, "insufficient_scope")

    async def test_other_organizations_get_404(self, ledger: Ledger, make_tenant: MakeTenant) -> None:
        other_tenant = make_tenant()

        assert_problem(await other_tenant.post(ledger.path, json={"events": []}), 404, "not_found")
        assert_problem(await other_tenant.get(ledger.path), 404, "not_found")


class TestRollupJob:
    async def test_is_queued_with_the_events(self, ledger: Ledger, superuser: AsyncEngine) -> None:
        await ledger.accepted(event())
        await ledger.accepted(event())

        queued = await fetch(
            superuser,
            "SELECT kind FROM job_queue WHERE organization_id = :organization",
            organization=ledger.tenant.organization,
        )
        assert [row["kind"] for row in queued] == ["fold_usage"]
