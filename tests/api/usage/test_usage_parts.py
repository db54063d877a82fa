"""Requests that several models worked on: one event, one ledger row per model, and exact totals everywhere."""

import csv
import io
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.database.rows import fetch
from tests.support.requests.usage_events import Ledger, event

SONNET, OPUS, FABLE = "claude-sonnet-4-6", "claude-opus-4-7", "claude-fable-5"
# From a public report: an advisor that costs ten times as much as the executor.
ADVISED: dict[str, Any] = {
    "input_tokens": 2,
    "cache_creation_input_tokens": 7853,
    "cache_read_input_tokens": 226_584,
    "output_tokens": 491,
    "iterations": [
        {
            "type": "message",
            "input_tokens": 1,
            "output_tokens": 45,
            "cache_read_input_tokens": 109_696,
            "cache_creation_input_tokens": 7192,
        },
        {"type": "advisor_message", "model": OPUS, "input_tokens": 159_419, "output_tokens": 7805},
        {
            "type": "message",
            "input_tokens": 1,
            "output_tokens": 446,
            "cache_read_input_tokens": 116_888,
            "cache_creation_input_tokens": 661,
        },
    ],
}
EXECUTOR_COST, ADVISOR_COST = "0.10479495", "0.99222"
FALLBACK: dict[str, Any] = {
    "input_tokens": 412,
    "output_tokens": 264,
    "iterations": [
        {"type": "message", "model": FABLE, "input_tokens": 408, "output_tokens": 2500},
        {"type": "fallback_message", "model": "claude-opus-4-8", "input_tokens": 412, "output_tokens": 264},
    ],
}


def usd(money: Any) -> str | None:
    return None if money is None else str(money["amount"])


async def report(ledger: Ledger, **query: Any) -> list[dict[str, Any]]:
    response = await ledger.tenant.get(
        f"{ledger.tenant.path}/usage-report",
        params={"starting_at": "2026-01-01T00:00:00Z", "bucket_width": "all", **query},
    )
    assert response.status_code == 200, response.text
    return [result for bucket in response.json()["data"] for result in bucket["results"]]


class TestRowsPerModel:
    async def test_each_models_work_stands_under_its_own_model(self, ledger: Ledger) -> None:
        sent = event(model=SONNET, usage=ADVISED, feature="agents", session_id="s-1")

        await ledger.accepted(sent)

        advisor, executor = await ledger.rows()
        assert [(row["event_id"], row["part"]) for row in (executor, advisor)] == [
            (sent["event_id"], 0),
            (sent["event_id"], 1),
        ]
        assert (executor["model"], usd(executor["estimated_cost"])) == (SONNET, EXECUTOR_COST)
        assert (advisor["model"], usd(advisor["estimated_cost"])) == (OPUS, ADVISOR_COST)
        assert (advisor["uncached_input_tokens"], advisor["output_tokens"]) == (159_419, 7805)
        assert (executor["uncached_input_tokens"], executor["output_tokens"]) == (2, 491)
        assert usd(advisor["billed_cost"]) == ADVISOR_COST
        same = ("started_at", "feature", "session_id", "usage_mode", "outcome", "ingested_at")
        assert [advisor[name] for name in same] == [executor[name] for name in same]
        assert all("mixed_models" in row["flags"] for row in (executor, advisor))

    async def test_a_fallback_is_priced_at_the_models_that_ran_it(self, ledger: Ledger) -> None:
        await ledger.accepted(event(model=FABLE, usage=FALLBACK))

        declined, served = await ledger.rows()

        assert (served["model"], usd(served["estimated_cost"])) == ("claude-opus-4-8", "0.00866")
        assert (declined["model"], usd(declined["estimated_cost"])) == (FABLE, "0.12908")

    async def test_the_event_is_accepted_once_and_repeated_as_a_duplicate(self, ledger: Ledger) -> None:
        sent = event(model=SONNET, usage=ADVISED)
        await ledger.accepted(sent)

        body = (await ledger.post([sent])).json()

        assert (body["accepted"], body["duplicates"]) == (0, 1)
        assert len(await ledger.rows()) == 2

    async def test_only_the_part_without_a_price_is_unpriced(self, ledger: Ledger) -> None:
        usage = {
            "output_tokens": 10,
            "iterations": [{"type": "advisor_message", "model": "model-new", "output_tokens": 5}],
        }

        await ledger.accepted(event(model=SONNET, usage=usage))

        advisor, executor = await ledger.rows()
        assert usd(executor["estimated_cost"]) == "0.00015"
        assert (advisor["model"], advisor["estimated_cost"], usd(advisor["billed_cost"])) == (
            "model-new",
            None,
            "0.00",
        )
        (total,) = await report(ledger)
        assert (total["requests"], total["unpriced_requests"]) == (1, 1)

    async def test_pages_may_end_between_the_parts_of_an_event(self, ledger: Ledger) -> None:
        await ledger.accepted(*(event(model=SONNET, usage=ADVISED) for _ in range(3)))
        found: list[tuple[str, int]] = []
        page: dict[str, str] = {}
        while True:
            response = await ledger.tenant.get(ledger.path, params={"limit": 1, **page})
            body = response.json()
            found += [(row["event_id"], row["part"]) for row in body["data"]]
            if not body["has_more"]:
                break
            page = {"page": body["next_page"]}

        assert len(found) == len(set(found)) == 6

    async def test_the_export_has_one_line_per_part(self, ledger: Ledger) -> None:
        await ledger.accepted(event(model=SONNET, usage=ADVISED))

        response = await ledger.tenant.get(ledger.path, headers={"Accept": "text/csv"})

        rows = list(csv.DictReader(io.StringIO(response.text)))
        assert [(row["part"], row["model"], row["estimated_cost"]) for row in rows] == [
            ("1", OPUS, ADVISOR_COST),
            ("0", SONNET, EXECUTOR_COST),
        ]


class TestTotals:
    async def test_a_report_shows_each_model_and_counts_the_request_once(self, ledger: Ledger) -> None:
        await ledger.accepted(event(model=SONNET, usage=ADVISED))

        by_model = await report(ledger, **{"group_by[]": ["model"]})
        (total,) = await report(ledger)

        assert [(it["model"], it["requests"], usd(it["estimated_cost"])) for it in by_model] == [
            (OPUS, 0, ADVISOR_COST),
            (SONNET, 1, EXECUTOR_COST),
        ]
        assert (total["requests"], usd(total["estimated_cost"])) == (1, "1.09701495")
        assert total["output_tokens"] == 491 + 7805

    async def test_a_limit_counts_the_part_of_its_model(self, ledger: Ledger) -> None:
        limits = f"{ledger.tenant.path}/spend-limits"
        names = {"advisor": OPUS, "executor": SONNET, "all": None}
        for name, model in names.items():
            body = {
                "name": name,
                "amount": {"amount": "10", "currency": "USD"},
                "period": "month",
                "scope": {} if model is None else {"model": model},
                "enforcement": "notify",
            }
            assert (await ledger.tenant.post(limits, json=body)).status_code == 201

        await ledger.accepted(event(model=SONNET, usage=ADVISED))

        found = {it["name"]: it["spent"]["amount"] for it in (await ledger.tenant.get(limits)).json()["data"]}
        assert found == {"advisor": ADVISOR_COST, "executor": EXECUTOR_COST, "all": "1.09701495"}

    async def test_a_statement_has_a_line_per_model(self, ledger: Ledger) -> None:
        sent = event(model=SONNET, usage=ADVISED)
        await ledger.accepted(sent)

        response = await ledger.tenant.get(
            f"{ledger.tenant.path}/billing-statements/{sent['started_at'][:7]}"
        )

        lines = {it["model"]: (it["quantity"], it["amount"]["amount"]) for it in response.json()["lines"]}
        assert lines == {SONNET: (234_930, "0.10"), OPUS: (167_224, "0.99")}


class TestRefusals:
    @pytest.mark.parametrize(
        ("category", "cost"),
        [(None, "0.00"), ("cyber", "0.00"), ("bio", "0.00106"), ("frontier_llm", "0.00106")],
    )
    async def test_before_output_cost_what_the_provider_bills_for_the_category(
        self, ledger: Ledger, category: str | None, cost: str
    ) -> None:
        sent = event(
            model=FABLE,
            usage={"input_tokens": 106, "output_tokens": 0},
            stop_reason="refusal",
            refusal_category=category,
        )

        await ledger.accepted(sent)

        row = await ledger.row(sent["event_id"])
        assert (usd(row["estimated_cost"]), usd(row["billed_cost"])) == (cost, cost)
        assert row["flags"] == ["refusal"]
        assert row["uncached_input_tokens"] == 106

    async def test_after_output_cost_the_counters(self, ledger: Ledger) -> None:
        usage = {"input_tokens": 106, "output_tokens": 1}
        sent = event(model=FABLE, usage=usage, stop_reason="refusal")

        await ledger.accepted(sent)

        row = await ledger.row(sent["event_id"])
        assert (usd(row["estimated_cost"]), row["flags"]) == ("0.00111", [])


class TestRejectedUsage:
    @pytest.mark.parametrize(
        ("usage", "code", "fields"),
        [
            ({"input_tokens": 5, "output_tokens": -1}, "invalid_usage", ["usage.output_tokens"]),
            ({"prompt_tokens": 5}, "usage_unrecognized", ["usage.prompt_tokens"]),
            ({"my own counter": 5}, "usage_unrecognized", None),
        ],
    )
    async def test_names_the_fields(
        self, ledger: Ledger, usage: dict[str, Any], code: str, fields: list[str] | None
    ) -> None:
        sent = event(usage=usage)

        (result,) = (await ledger.post([sent])).json()["results"]

        named = {} if fields is None else {"fields": fields}
        assert result == {
            "index": 0,
            "event_id": sent["event_id"],
            "status": "rejected",
            "code": code,
            **named,
        }

    async def test_one_odd_field_does_not_reject_the_event(self, ledger: Ledger) -> None:
        sent = event(usage={"input_tokens": 1000.0, "service_tier": 7, "iterations": "none"})

        await ledger.accepted(sent)

        row = await ledger.row(sent["event_id"])
        assert (row["uncached_input_tokens"], row["service_tier"]) == (1000, None)
        assert Decimal(row["estimated_cost"]["amount"]) == Decimal("0.0001")
        assert row["flags"] == ["tier_assumed", "usage_field_ignored"]


class TestKeptUsageObjects:
    async def test_are_stored_as_one_row_per_batch_and_month(
        self, ledger: Ledger, superuser: AsyncEngine
    ) -> None:
        await ledger.accepted(*(event() for _ in range(20)))

        stored = await fetch(
            superuser,
            "SELECT count(*) AS batches, max(length(objects)) AS bytes FROM usage_object"
            " WHERE organization_id = :organization",
            organization=ledger.tenant.organization,
        )

        assert stored[0]["batches"] == 1
        assert stored[0]["bytes"] < 20 * 70
