"""Corrections: an event replaces an earlier one. Exactly one of the two counts: in rows, reports, limits and statements."""

import asyncio
import csv
import io
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.billing.month import BillingMonth
from app.core.clock import new_id
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.usage_reports.rollup_worker import RollupWorker
from tests.support.database.rows import change
from tests.support.requests.spend_limits import SpendClients, usd_of
from tests.support.requests.statements import billing_service_of, close_statement
from tests.support.requests.usage_events import Ledger, event, instant
from tests.support.tenant import MakeTenant, MakeToken

# 1 USD per million input tokens, 5 USD per million output tokens.
MODEL = "claude-haiku-4-5"
UNPRICED = "model-without-a-price"
DIMENSIONS = (
    *("usage_mode", "model", "endpoint_id", "feature", "session_id"),
    *("prompt_id", "credential_id", "key_version", "outcome"),
)


def tokens(output: int, **fields: Any) -> dict[str, Any]:
    """Return an event of a priced model with output tokens: 5 USD per million."""
    usage = {"input_tokens": 0, "output_tokens": output}
    return event(**{"model": MODEL, "usage": usage, "feature": "chat"} | fields)


def correction(of: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return an event with other content that corrects this one."""
    return of | {"event_id": str(new_id()), "corrects": of["event_id"]} | fields


def usage(output: int) -> dict[str, Any]:
    return {"usage": {"input_tokens": 0, "output_tokens": output}}


async def result_of(ledger: Ledger, wrong: Any) -> tuple[str, str]:
    """Send an event that is not accepted; return its status and code."""
    body = (await ledger.post([wrong])).json()
    assert body["accepted"] == 0, body
    (result,) = body["results"]
    return result["status"], result["code"]


async def report(ledger: Ledger, *group_by: str) -> list[dict[str, Any]]:
    response = await ledger.tenant.get(
        f"{ledger.tenant.path}/usage-report",
        params={
            "starting_at": instant(days=60),
            "ending_at": instant(days=-1),
            "bucket_width": "all",
            "group_by[]": list(group_by),
        },
    )
    assert response.status_code == 200, response.text
    return [result for bucket in response.json()["data"] for result in bucket["results"]]


async def totals(ledger: Ledger) -> tuple[int, int, str, int]:
    """Requests, output tokens, estimated cost and unpriced requests of the whole ledger."""
    (found,) = await report(ledger)
    return (
        *(found["requests"], found["output_tokens"], usd_of(found["estimated_cost"])),
        found["unpriced_requests"],
    )


async def statement_lines(ledger: Ledger, month: str) -> list[tuple[str, int, str, str | None]]:
    response = await ledger.tenant.get(f"{ledger.tenant.path}/billing-statements/{month}")
    assert response.status_code == 200, response.text
    return [
        (line["model"], line["quantity"], line["amount"]["amount"], line["adjusts_month"])
        for line in response.json()["lines"]
    ]


@pytest.fixture
def spend(ledger: Ledger) -> SpendClients:
    """Limits and reservations of the ledger's organization."""
    return SpendClients(admin=ledger.tenant, service=ledger.service)


class TestCorrect:
    @pytest.mark.parametrize("is_rolled_up", [False, True])
    async def test_replaces_a_partial_count(
        self, ledger: Ledger, database: Database, is_rolled_up: bool
    ) -> None:
        partial = tokens(1_000, usage_source="estimated", outcome="aborted")
        whole = correction(partial, usage_source="reported", outcome="succeeded", **usage(1_000_000))
        await ledger.accepted(partial)
        if is_rolled_up:
            await RollupWorker(UnitsOfWork(database)).roll_up(ledger.tenant.organization)

        await ledger.accepted(whole)

        if is_rolled_up:
            await RollupWorker(UnitsOfWork(database)).roll_up(ledger.tenant.organization)
        assert await totals(ledger) == (1, 1_000_000, "5.00", 0)
        (by_outcome,) = await report(ledger, *DIMENSIONS)
        assert (by_outcome["outcome"], by_outcome["requests"]) == ("succeeded", 1)
        month = f"{datetime.fromisoformat(whole['started_at']):%Y-%m}"
        assert await statement_lines(ledger, month) == [(MODEL, 1_000_000, "5.00", None)]

    async def test_lists_the_event_its_cancellation_and_its_replacement(self, ledger: Ledger) -> None:
        partial = tokens(1_000)
        whole = correction(partial, **usage(3_000))
        await ledger.accepted(partial)
        await ledger.accepted(whole)

        rows = {(row["event_id"], row["correction"]): row for row in await ledger.rows()}

        names = ("output_tokens", "corrects", "corrected_by")
        assert {key: tuple(row[name] for name in names) for key, row in rows.items()} == {
            (partial["event_id"], 0): (1_000, None, None),
            (partial["event_id"], -1): (-1_000, None, whole["event_id"]),
            (whole["event_id"], 0): (3_000, partial["event_id"], None),
        }
        amounts = [usd_of(row["billed_cost"]) for row in rows.values()]
        assert sorted(amounts) == ["-0.005", "0.005", "0.015"]

    async def test_exports_negative_amounts_as_numbers(self, ledger: Ledger) -> None:
        partial = tokens(1_000)
        await ledger.accepted(partial, correction(partial, **usage(3_000)))

        response = await ledger.tenant.get(ledger.path, headers={"Accept": "text/csv"})

        rows = list(csv.DictReader(io.StringIO(response.text)))
        assert sorted(row["estimated_cost"] for row in rows) == ["-0.005", "0.005", "0.015"]
        assert sorted(int(row["output_tokens"]) for row in rows) == [-1_000, 1_000, 3_000]

    async def test_leaves_no_empty_groups(self, ledger: Ledger) -> None:
        """Also if the first event was split by model, and the other one stands under another model."""
        advised = {
            "type": "advisor_message",
            "model": "claude-opus-4-7",
            "input_tokens": 5,
            "output_tokens": 7,
        }
        partial = tokens(10)
        partial["usage"]["iterations"] = [advised]
        whole = correction(partial, model="claude-sonnet-4-5", **usage(1_000_000))
        await ledger.accepted(partial)
        await ledger.accepted(whole)

        assert [it["model"] for it in await report(ledger, "model")] == ["claude-sonnet-4-5"]
        month = f"{datetime.fromisoformat(whole['started_at']):%Y-%m}"
        assert await statement_lines(ledger, month) == [("claude-sonnet-4-5", 1_000_000, "15.00", None)]

    @pytest.mark.parametrize("is_reversed", [False, True])
    async def test_works_within_one_batch(self, ledger: Ledger, is_reversed: bool) -> None:
        partial = tokens(1_000)
        batch = [partial, correction(partial, **usage(3_000)), tokens(1)]

        await ledger.accepted(*(reversed(batch) if is_reversed else batch))

        assert await totals(ledger) == (2, 3_001, "0.015005", 0)

    async def test_is_idempotent(self, ledger: Ledger) -> None:
        partial = tokens(1_000)
        whole = correction(partial, **usage(3_000))
        await ledger.accepted(partial, whole)

        again = (await ledger.post([whole, partial, whole])).json()

        assert (again["accepted"], again["duplicates"]) == (0, 3)
        assert await totals(ledger) == (1, 3_000, "0.015", 0)

    async def test_keeps_the_price_of_the_corrected_event(
        self, ledger: Ledger, make_token: MakeToken
    ) -> None:
        """The first event's client has a fast clock, so its price is that of its ingestion."""
        partial = tokens(1_000, started_at=instant(minutes=-3))
        await ledger.accepted(partial)
        prices = {"model": MODEL, "usd_per_million_tokens": {"uncached_input": "1", "output": "50"}}
        response = await billing_service_of(ledger.tenant, make_token).request(
            "PUT", f"{ledger.tenant.path}/price-overrides", json={"overrides": [prices]}
        )
        assert response.status_code == 200, response.text

        await ledger.accepted(correction(partial, **usage(1_000_000)))

        assert await totals(ledger) == (1, 1_000_000, "5.00", 0)

    async def test_happens_once_under_concurrency(self, ledger: Ledger) -> None:
        """Small batches share a transaction, large ones have their own."""
        partial = tokens(1_000)
        await ledger.accepted(partial)
        batches = [
            [correction(partial, **usage(2_000 + number)), *(tokens(0) for _ in range(others))]
            for number, others in enumerate((0, 60, 1, 60, 2, 60))
        ]

        responses = await asyncio.gather(*(ledger.post(batch) for batch in batches for _ in range(2)))

        results = [it for response in responses for it in response.json()["results"]]
        codes = Counter(it["code"] for it in results)
        assert codes == {"event_already_corrected": 10, "duplicate_event": 1 + 183}
        requests, output, _, _ = await totals(ledger)
        assert requests == 1 + 183
        assert output in range(2_000, 2_006)

    async def test_does_not_use_up_the_id_of_a_rejected_correction(self, ledger: Ledger) -> None:
        partial = tokens(1_000)
        whole = correction(partial, **usage(3_000))
        assert await result_of(ledger, whole) == ("rejected", "corrected_event_not_found")
        await ledger.accepted(partial)

        await ledger.accepted(whole)

        assert await totals(ledger) == (1, 3_000, "0.015", 0)


class TestRejectedCorrections:
    async def test_of_an_unknown_event(self, ledger: Ledger) -> None:
        assert await ledger.rejected(tokens(1, corrects="unknown")) == "corrected_event_not_found"

    async def test_of_another_organizations_event(
        self, ledger: Ledger, make_tenant: MakeTenant, make_token: MakeToken
    ) -> None:
        tenant = make_tenant()
        other = Ledger(tenant=tenant, service=replace(tenant, token=make_token("service")))
        partial = tokens(1_000)
        await other.accepted(partial)

        assert await ledger.rejected(correction(partial)) == "corrected_event_not_found"
        assert await totals(other) == (1, 1_000, "0.005", 0)

    async def test_of_itself(self, ledger: Ledger) -> None:
        assert await ledger.rejected(tokens(1, event_id="mine", corrects="mine")) == "corrects_itself"

    async def test_of_a_correction(self, ledger: Ledger) -> None:
        partial = tokens(1_000)
        whole = correction(partial)
        await ledger.accepted(partial, whole)

        assert await ledger.rejected(correction(whole)) == "corrected_event_is_correction"

    async def test_of_a_correction_in_the_same_batch(self, ledger: Ledger) -> None:
        partial = tokens(1_000)
        whole = correction(partial, **usage(2_000))

        body = (await ledger.post([partial, whole, correction(whole)])).json()

        assert [it["code"] for it in body["results"]] == ["corrected_event_is_correction"]
        assert await totals(ledger) == (1, 2_000, "0.01", 0)

    async def test_of_an_event_that_is_corrected_already(self, ledger: Ledger) -> None:
        partial = tokens(1_000)
        await ledger.accepted(partial, correction(partial, **usage(2_000)))

        found = await result_of(ledger, correction(partial, **usage(3_000)))

        assert found == ("conflict", "event_already_corrected")
        assert await totals(ledger) == (1, 2_000, "0.01", 0)

    async def test_with_other_content_under_the_same_id(self, ledger: Ledger) -> None:
        partial = tokens(1_000)
        whole = correction(partial, **usage(2_000))
        await ledger.accepted(partial, whole)

        assert await result_of(ledger, whole | usage(3_000)) == ("conflict", "event_id_conflict")

    async def test_of_an_event_that_started_35_days_ago(self, ledger: Ledger, superuser: AsyncEngine) -> None:
        partial = tokens(1_000, started_at=instant(days=34, hours=23))
        await ledger.accepted(partial)
        older = datetime.fromisoformat(partial["started_at"]) - timedelta(hours=2)
        for table in ("usage_event_key", "usage_event"):
            await change(
                superuser,
                f"UPDATE {table} SET started_at = :older WHERE organization_id = :organization",
                older=older,
                organization=ledger.tenant.organization,
            )

        found = await ledger.rejected(correction(partial, started_at=instant(hours=1)))

        assert found == "corrected_event_too_old"

    async def test_in_the_other_usage_mode(self, ledger: Ledger) -> None:
        partial = tokens(1_000, started_at=instant(seconds=30))
        await ledger.accepted(partial)
        response = await ledger.tenant.request(
            "PUT", f"{ledger.tenant.path}/usage-mode", json={"mode": "byo", "credential_id": None}
        )
        switched_at = response.json()["effective_at"]

        await ledger.accepted(correction(partial, **usage(2_000)))
        other = tokens(1_000, started_at=switched_at)
        await ledger.accepted(other)

        found = await ledger.rejected(correction(other, started_at=instant(seconds=30)))
        assert found == "corrected_usage_mode_differs"
        requests = {it["usage_mode"]: it["requests"] for it in await report(ledger, "usage_mode")}
        assert requests == {"managed": 1 + 1, "byo": 1}  # with the valid event that was sent beside it

    async def test_with_another_reservation(self, ledger: Ledger, spend: SpendClients) -> None:
        first, second = [await spend.create_reservation("1") for _ in range(2)]
        partial = tokens(1_000, reservation_id=first["id"])
        await ledger.accepted(partial)

        found = await ledger.rejected(correction(partial, reservation_id=second["id"]))

        assert found == "corrected_reservation_differs"

    @pytest.mark.parametrize("corrects", ["", "x" * 65, 7])
    async def test_with_an_invalid_id(self, ledger: Ledger, corrects: Any) -> None:
        assert await ledger.rejected(tokens(1, corrects=corrects)) == "invalid_corrects"


class TestLimits:
    async def test_count_only_the_correcting_event(self, ledger: Ledger, spend: SpendClients) -> None:
        limit = await spend.create_limit(enforcement="notify", thresholds=[20, 50, 100])
        chat = await spend.create_limit(scope={"feature": "chat"}, enforcement="notify")
        partial = tokens(600_000)  # 3 USD
        await ledger.accepted(partial)

        await ledger.accepted(correction(partial, feature="search", **usage(1_200_000)))

        found = await spend.get_limit(limit)
        assert (usd_of(found["spent"]), found["unpriced_requests"]) == ("6.00", 0)
        assert [it["threshold"] for it in found["crossings"]] == [20, 50]
        assert usd_of((await spend.get_limit(chat))["spent"]) == "0.00"
        recounted = (await spend.update_limit(limit, period="total")).json()
        assert usd_of(recounted["spent"]) == "6.00"

    async def test_report_a_threshold_once_although_the_spend_fell_below_it(
        self, ledger: Ledger, spend: SpendClients
    ) -> None:
        limit = await spend.create_limit(enforcement="notify", thresholds=[50])
        wrong = tokens(1_200_000)
        await ledger.accepted(wrong)
        await ledger.accepted(correction(wrong, **usage(1_000)))
        await ledger.accepted(tokens(1_200_000))

        found = await spend.get_limit(limit)

        assert usd_of(found["spent"]) == "6.005"
        assert [(it["threshold"], usd_of(it["spent"])) for it in found["crossings"]] == [(50, "6.00")]

    async def test_settle_the_reservation_of_the_corrected_event_once(
        self, ledger: Ledger, spend: SpendClients
    ) -> None:
        limit = await spend.create_limit()
        reservation = await spend.create_reservation("4")
        partial = tokens(200_000, reservation_id=reservation["id"])
        await ledger.accepted(partial)

        whole = correction(partial, reservation_id=None, **usage(400_000))
        await ledger.accepted({name: value for name, value in whole.items() if value is not None})

        found = await spend.get_limit(limit)
        assert (usd_of(found["spent"]), usd_of(found["reserved"])) == ("2.00", "0.00")
        rows = [row for row in await ledger.rows() if row["event_id"] == whole["event_id"]]
        assert [row["reservation_id"] for row in rows] == [reservation["id"]]

    async def test_charge_the_estimate_again_if_the_correction_has_no_price(
        self, ledger: Ledger, spend: SpendClients
    ) -> None:
        limit = await spend.create_limit()
        reservation = await spend.create_reservation("4")
        partial = tokens(200_000, reservation_id=reservation["id"])
        await ledger.accepted(partial)

        await ledger.accepted(correction(partial, model=UNPRICED))

        found = await spend.get_limit(limit)
        assert (usd_of(found["spent"]), usd_of(found["reserved"])) == ("0.00", "4.00")
        assert found["unpriced_requests"] == 1
        recounted = (await spend.update_limit(limit, period="total")).json()
        assert (usd_of(recounted["spent"]), usd_of(recounted["reserved"])) == ("0.00", "4.00")
        held = await spend.admin.get(spend.reservations_path)
        assert [it["state"] for it in held.json()["data"]] == ["unpriced"]

    async def test_release_the_estimate_if_the_correction_has_a_price(
        self, ledger: Ledger, spend: SpendClients
    ) -> None:
        limit = await spend.create_limit()
        reservation = await spend.create_reservation("4")
        partial = tokens(200_000, model=UNPRICED, reservation_id=reservation["id"])
        await ledger.accepted(partial)
        before = await spend.get_limit(limit)

        await ledger.accepted(correction(partial, model=MODEL))

        found = await spend.get_limit(limit)
        assert (usd_of(before["reserved"]), before["unpriced_requests"]) == ("4.00", 1)
        assert (usd_of(found["spent"]), usd_of(found["reserved"])) == ("1.00", "0.00")
        assert found["unpriced_requests"] == 0
        assert await totals(ledger) == (1, 200_000, "1.00", 0)


class TestStatements:
    async def test_adjust_a_closed_month(self, ledger: Ledger, make_token: MakeToken) -> None:
        last = datetime.now(UTC).replace(day=1) - timedelta(days=1)
        this = f"{datetime.now(UTC):%Y-%m}"
        partial = tokens(2_000_000, started_at=instant(last))
        await ledger.accepted(partial)
        await close_statement(billing_service_of(ledger.tenant, make_token), BillingMonth.of(last))

        await ledger.accepted(correction(partial, **usage(500_000)))

        assert await statement_lines(ledger, f"{last:%Y-%m}") == [(MODEL, 2_000_000, "10.00", None)]
        assert await statement_lines(ledger, this) == [(MODEL, -1_500_000, "-7.50", f"{last:%Y-%m}")]


class TestRepeatedProviderRequests:
    async def flags(self, ledger: Ledger) -> dict[str, list[str]]:
        return {row["event_id"]: row["flags"] for row in await ledger.rows()}

    async def test_flags_a_new_event_id_for_a_known_request(self, ledger: Ledger) -> None:
        first, again = [tokens(1_000, provider_request_id="req_1") for _ in range(2)]
        others = [tokens(1, provider_request_id="req_2"), tokens(1), tokens(1)]
        await ledger.accepted(first, *others)

        await ledger.accepted(again)

        repeated = {id_ for id_, flags in (await self.flags(ledger)).items() if flags}
        assert (await self.flags(ledger))[again["event_id"]] == ["provider_request_repeated"]
        assert repeated == {again["event_id"]}
        assert (await totals(ledger))[0] == 5

    async def test_flags_all_but_the_first_of_a_batch(self, ledger: Ledger) -> None:
        batch = [tokens(1, provider_request_id="req_1", started_at=instant(minutes=ago)) for ago in (1, 3, 2)]

        await ledger.accepted(*batch)

        flags = await self.flags(ledger)
        assert [bool(flags[it["event_id"]]) for it in batch] == [True, False, True]

    async def test_flags_all_but_one_of_concurrent_events(self, ledger: Ledger) -> None:
        batches = [[tokens(1, provider_request_id=f"req_{number}") for number in range(60)] for _ in range(6)]

        await asyncio.gather(*(ledger.accepted(*batch) for batch in batches))

        flags = await self.flags(ledger)
        for number in range(60):
            assert sum(not flags[batch[number]["event_id"]] for batch in batches) == 1

    async def test_does_not_flag_a_repeated_event_or_a_correction(self, ledger: Ledger) -> None:
        first = tokens(1_000, provider_request_id="req_1")
        await ledger.accepted(first)

        await ledger.post([first])
        await ledger.accepted(correction(first, **usage(2_000)))

        assert not any((await self.flags(ledger)).values())

    async def test_does_not_compare_organizations(
        self, ledger: Ledger, make_tenant: MakeTenant, make_token: MakeToken
    ) -> None:
        tenant = make_tenant()
        other = Ledger(tenant=tenant, service=replace(tenant, token=make_token("service")))
        await other.accepted(tokens(1, provider_request_id="req_1"))

        await ledger.accepted(tokens(1, provider_request_id="req_1"))

        assert not any((await self.flags(ledger)).values())
