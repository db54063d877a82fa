"""Taking in usage events: what is accepted, what is not and why, and that each counts once."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.api.test_conventions import assert_problem
from tests.api.usage import JSON, Ledger, event, instant, lines
from tests.conftest import MakeTenant, MakeToken
from tests.fake_anthropic import make_key
from tests.rows import fetch

KEY = make_key()
NEVER: dict[str, tuple[Any, str]] = {
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
    "key as tier": (event(usage={"service_tier": KEY[:64]}), "looks_like_key"),
}


class TestEvent:
    @pytest.mark.parametrize("case", NEVER)
    async def test_that_is_wrong_is_rejected_and_spoils_no_other(self, ledger: Ledger, case: str) -> None:
        wrong, code = NEVER[case]

        assert await ledger.rejected(wrong) == code

    async def test_may_be_as_old_and_as_far_ahead_as_is_said(self, ledger: Ledger) -> None:
        await ledger.accepted(
            event(started_at=instant(days=34, hours=23)), event(started_at=instant(minutes=-4))
        )

    async def test_is_read_back_as_it_was_reported(self, ledger: Ledger) -> None:
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

    async def test_without_a_price_costs_nothing_that_is_known(self, ledger: Ledger) -> None:
        sent = event(model="a-model-that-nobody-prices")

        await ledger.accepted(sent)

        row = await ledger.row(sent["event_id"])
        assert row["estimated_cost"] is None
        assert row["billed_cost"] == {"amount": "0.00", "currency": "USD"}

    async def test_is_shown_in_utc_whatever_its_zone(self, ledger: Ledger) -> None:
        moment = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
        sent = event(started_at=f"{(moment + timedelta(hours=5)).isoformat()[:19]}+05:00")

        await ledger.accepted(sent)

        assert (await ledger.row(sent["event_id"]))["started_at"] == instant(moment)


class TestResult:
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
    async def test_repeats_no_key_pasted_as_one(self, ledger: Ledger, wrong: Any) -> None:
        response = await ledger.post([wrong])

        (result,) = response.json()["results"]
        assert KEY[16:24] not in response.text
        assert result["event_id"] is None or "sk-ant" not in result["event_id"]

    async def test_is_listed_for_ten_thousand_at_most(self, ledger: Ledger) -> None:
        response = await ledger.stream(b"{}\n" * 10_001)

        body = response.json()
        assert (body["accepted"], len(body["results"]), body["results_truncated"]) == (0, 10_000, True)

    async def test_stands_in_the_requests_order(self, ledger: Ledger) -> None:
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


class TestOnce:
    async def test_the_same_event_again_is_a_duplicate(self, ledger: Ledger) -> None:
        sent = event(feature="x")
        await ledger.accepted(sent)

        body = (await ledger.post([sent, event()])).json()

        assert (body["accepted"], body["duplicates"]) == (1, 1)
        assert body["results"] == [
            {"index": 0, "event_id": sent["event_id"], "status": "duplicate", "code": "duplicate_event"}
        ]
        assert len(await ledger.rows()) == 2

    async def test_the_same_event_in_another_spelling_is_a_duplicate(self, ledger: Ledger) -> None:
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

    async def test_in_one_batch_the_first_one_counts(self, ledger: Ledger) -> None:
        sent = event()

        body = (await ledger.post([sent, sent, sent | {"outcome": "failed"}])).json()

        assert (body["accepted"], body["duplicates"]) == (1, 1)
        assert [it["status"] for it in body["results"]] == ["duplicate", "conflict"]

    async def test_in_one_batch_all_are_compared_with_the_one_recorded_before(self, ledger: Ledger) -> None:
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
    async def test_in_one_batch_a_rejected_one_takes_no_id(
        self, ledger: Ledger, wrong: dict[str, Any], code: str
    ) -> None:
        sent = event()

        body = (await ledger.post([sent | wrong, sent | wrong, sent])).json()

        assert (body["accepted"], body["duplicates"]) == (1, 0)
        assert [(it["index"], it["code"]) for it in body["results"]] == [(0, code), (1, code)]
        assert len(await ledger.rows()) == 1

    async def test_an_id_may_be_had_by_two_organizations(
        self, ledger: Ledger, make_tenant: MakeTenant
    ) -> None:
        other = Ledger(tenant=(tenant := make_tenant()), service=tenant)
        sent = event()

        await ledger.accepted(sent)
        response = await ledger.service.post(other.path, json={"events": [sent]})

        assert response.json()["accepted"] == 1
        assert len(await other.rows()) == 1

    async def test_a_rejected_event_may_come_again_mended(self, ledger: Ledger) -> None:
        sent = event(credential_id=str(uuid4()))
        assert await ledger.rejected(sent) == "credential_not_found"

        await ledger.accepted({name: value for name, value in sent.items() if name != "credential_id"})


class TestBatch:
    async def test_holds_five_thousand_at_most(self, ledger: Ledger) -> None:
        assert (await ledger.post(event() for _ in range(5000))).json()["accepted"] == 5000

        response = await ledger.post([{}] * 5001)

        assert_problem(response, 422, "too_many_events")

    async def test_is_not_spoilt_by_a_text_that_nobody_can_read(self, ledger: Ledger) -> None:
        # Half of a surrogate pair: JSON's grammar allows it, and no text has it.
        body = json.dumps({"events": [event(feature="ä"), event(event_id="\ud800")]}).encode()

        answer = (await ledger.service.post(ledger.path, content=body, headers=JSON)).json()

        assert answer["accepted"] == 1
        assert answer["results"] == [
            {"index": 1, "event_id": None, "status": "rejected", "code": "malformed_json"}
        ]

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
    async def test_that_is_none_is_refused_whole(
        self, ledger: Ledger, body: bytes, status: int, code: str
    ) -> None:
        response = await ledger.service.post(ledger.path, content=body, headers=JSON)

        assert_problem(response, status, code)

    async def test_may_be_larger_than_other_bodies(self, ledger: Ledger) -> None:
        large = json.dumps({"events": [event()]}).encode().ljust(16 * 1024 * 1024)

        response = await ledger.service.post(ledger.path, content=large, headers=JSON)
        larger = await ledger.service.post(ledger.path, content=large + b" ", headers=JSON)

        assert response.json()["accepted"] == 1
        assert_problem(larger, 413, "payload_too_large")

    @pytest.mark.parametrize("media_type", ["text/plain", "application/ndjson", "text/csv", ""])
    async def test_of_another_type_is_415(self, ledger: Ledger, media_type: str) -> None:
        response = await ledger.service.post(
            ledger.path, content=lines([event()]), headers={"Content-Type": media_type}
        )

        assert_problem(response, 415, "unsupported_media_type")

    async def test_ignores_the_idempotency_key(self, ledger: Ledger) -> None:
        sent = {"events": [event()]}

        answers = [
            (await ledger.service.post(ledger.path, json=sent, headers={"Idempotency-Key": "1"})).json()
            for _ in range(2)
        ]

        assert [(it["accepted"], it["duplicates"]) for it in answers] == [(1, 0), (0, 1)]


class TestCaller:
    async def test_of_the_organization_itself_may_not_report(self, ledger: Ledger) -> None:
        response = await ledger.tenant.post(ledger.path, json={"events": []})

        assert_problem(response, 403, "insufficient_scope")

    async def test_of_the_organization_may_not_even_with_the_scope(
        self, ledger: Ledger, make_token: MakeToken
    ) -> None:
        token = make_token("service", ledger.tenant.organization, scopes=frozenset({"usage:write"}))

        response = await ledger.tenant.http.post(
            ledger.path, json={"events": []}, headers={"Authorization": f"Bearer {token}"}
        )

        assert_problem(response, 403, "insufficient_scope")

    async def test_of_another_organization_finds_nothing(
        self, ledger: Ledger, make_tenant: MakeTenant
    ) -> None:
        stranger = make_tenant()

        assert_problem(await stranger.post(ledger.path, json={"events": []}), 404, "not_found")
        assert_problem(await stranger.get(ledger.path), 404, "not_found")


class TestFold:
    async def test_is_asked_for_in_the_same_transaction(self, ledger: Ledger, owner: AsyncEngine) -> None:
        await ledger.accepted(event())
        await ledger.accepted(event())

        queued = await fetch(
            owner,
            "SELECT kind FROM job_queue WHERE organization_id = :organization",
            organization=ledger.tenant.organization,
        )
        assert [row["kind"] for row in queued] == ["fold_usage"]
