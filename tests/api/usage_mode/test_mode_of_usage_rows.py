"""Each usage row has the usage mode, the credential and the key version that were active when its request started."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.admission import AdmissionQueue
from app.core.services import Services
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.usage.service import IngestionService
from app.usage_events.records import ModelUsage, UsageFlag
from tests.support.database.rows import change, fetch
from tests.support.provider.fake_anthropic import make_key
from tests.support.requests.usage_events import Ledger, event, instant
from tests.support.service_builder import client_of
from tests.support.tenant import Tenant
from tests.support.usage.unpriced_ingestion import NoLimits


async def switch(tenant: Tenant, mode: str, credential_id: str | None = None) -> datetime:
    body = {"mode": mode, "credential_id": credential_id}
    response = await tenant.request("PUT", f"{tenant.path}/usage-mode", json=body)
    assert response.status_code == 200, response.text
    return datetime.fromisoformat(response.json()["effective_from"])


async def insert_mode_change(
    superuser: AsyncEngine, tenant: Tenant, at: datetime, mode: str, credential: Any
) -> None:
    """Insert a usage mode change that took effect at that time."""
    await change(
        superuser,
        "INSERT INTO usage_mode_change VALUES (:organization, :at, :mode, :credential, 'test')",
        organization=tenant.organization,
        at=at,
        mode=mode,
        credential=credential,
    )


class TestUsageMode:
    async def test_is_the_one_active_when_the_request_started(
        self, ledger: Ledger, superuser: AsyncEngine
    ) -> None:
        now = datetime.now(UTC)
        byo, managed = now - timedelta(hours=5), now - timedelta(hours=2)
        await insert_mode_change(superuser, ledger.tenant, byo, "byo", None)
        await insert_mode_change(superuser, ledger.tenant, managed, "managed", None)
        microsecond = timedelta(microseconds=1)
        expected = {
            byo - timedelta(days=10): "managed",
            byo - microsecond: "managed",
            byo: "byo",
            managed - microsecond: "byo",
            managed: "managed",
            now: "managed",
        }

        await ledger.accepted(*(event(event_id=instant(at), started_at=instant(at)) for at in expected))

        assert {row["event_id"]: row["usage_mode"] for row in await ledger.rows()} == {
            instant(at): mode for at, mode in expected.items()
        }

    async def test_of_a_future_start_is_the_active_one(self, ledger: Ledger, superuser: AsyncEngine) -> None:
        scheduled_at = datetime.now(UTC) + timedelta(minutes=2)
        await insert_mode_change(superuser, ledger.tenant, scheduled_at, "byo", None)
        sent = event(started_at=instant(scheduled_at + timedelta(minutes=1)))

        await ledger.accepted(sent)

        assert (await ledger.row(sent["event_id"]))["usage_mode"] == "managed"

    async def test_of_a_future_start_ignores_scheduled_changes(
        self, ledger: Ledger, superuser: AsyncEngine
    ) -> None:
        scheduled_at = datetime.now(UTC) + timedelta(minutes=2)
        await switch(ledger.tenant, "byo")
        await insert_mode_change(superuser, ledger.tenant, scheduled_at, "managed", None)
        sent = event(started_at=instant(scheduled_at + timedelta(minutes=1)))

        await ledger.accepted(sent)

        assert (await ledger.row(sent["event_id"]))["usage_mode"] == "byo"

    async def test_does_not_change_with_a_later_switch(self, ledger: Ledger) -> None:
        sent = event()
        await ledger.accepted(sent)
        before = await ledger.row(sent["event_id"])

        await switch(ledger.tenant, "byo")

        assert await ledger.row(sent["event_id"]) == before

    async def test_equals_the_history_under_concurrent_switches(
        self, ledger: Ledger, superuser: AsyncEngine
    ) -> None:
        stop = asyncio.Event()

        async def ingest_until_stopped() -> None:
            while not stop.is_set():
                batch = [event(started_at=instant(seconds=random.uniform(-0.05, 0.05))) for _ in range(50)]
                response = await ledger.post(batch)
                assert response.json()["accepted"] == 50

        ingesting = [asyncio.create_task(ingest_until_stopped()) for _ in range(3)]
        for number in range(25):
            await switch(ledger.tenant, ("byo", "managed")[number % 2])
        stop.set()
        await asyncio.gather(*ingesting)

        wrong = await fetch(
            superuser,
            "SELECT e.event_id FROM usage_event e WHERE e.organization_id = :organization AND e.mode <> coalesce(("
            " SELECT m.mode FROM usage_mode_change m WHERE m.organization_id = e.organization_id"
            " AND m.effective_from <= least(e.started_at, e.ingested_at)"
            " ORDER BY m.effective_from DESC LIMIT 1), 'managed')",
            organization=ledger.tenant.organization,
        )
        assert wrong == []
        assert len({row["usage_mode"] for row in await ledger.rows(limit=100)}) == 2


class TestCredential:
    async def test_of_byo_defaults_to_the_active_credential(self, ledger: Ledger) -> None:
        credential = await ledger.tenant.created()
        at = await switch(ledger.tenant, "byo", credential["id"])
        sent = event(started_at=instant(at))

        await ledger.accepted(sent)

        row = await ledger.row(sent["event_id"])
        assert (row["usage_mode"], row["credential_id"], row["key_version"]) == ("byo", credential["id"], 1)
        assert row["billed_cost"]["amount"] == "0.00"
        assert row["flags"] == []

    async def test_defaults_to_the_active_one_if_only_the_version_is_given(self, ledger: Ledger) -> None:
        credential = await ledger.tenant.created()
        at = await switch(ledger.tenant, "byo", credential["id"])
        sent = event(started_at=instant(at), key_version=1)

        await ledger.accepted(sent)
        code = await ledger.rejected(event(started_at=instant(at), key_version=2))

        row = await ledger.row(sent["event_id"])
        assert (row["credential_id"], row["key_version"]) == (credential["id"], 1)
        assert code == "key_version_not_found"

    async def test_of_the_event_is_kept(self, ledger: Ledger) -> None:
        named, active = await ledger.tenant.created(), await ledger.tenant.created()
        at = await switch(ledger.tenant, "byo", active["id"])
        sent = event(started_at=instant(at), credential_id=named["id"], key_version=1)

        await ledger.accepted(sent)

        row = await ledger.row(sent["event_id"])
        assert (row["credential_id"], row["key_version"]) == (named["id"], 1)
        assert len(await ledger.rows(credential_id=named["id"], key_version=1)) == 1

    async def test_in_a_managed_event_is_a_mismatch(self, ledger: Ledger) -> None:
        credential = await ledger.tenant.created()
        sent = event(credential_id=credential["id"], started_at=instant())

        await ledger.accepted(sent)

        row = await ledger.row(sent["event_id"])
        assert (row["usage_mode"], row["credential_id"]) == ("managed", credential["id"])
        assert row["flags"] == ["mode_mismatch"]
        assert row["billed_cost"]["amount"] == "0.00"

    async def test_of_another_organization_is_rejected(self, ledger: Ledger, make_tenant: Any) -> None:
        credential = await make_tenant().created()

        assert await ledger.rejected(event(credential_id=credential["id"])) == "credential_not_found"

    async def test_may_be_deleted(self, ledger: Ledger) -> None:
        credential = await ledger.tenant.created()
        await ledger.tenant.request("DELETE", f"{ledger.tenant.credentials}/{credential['id']}")

        await ledger.accepted(event(credential_id=credential["id"]))

    async def test_with_an_unknown_version_is_rejected(self, ledger: Ledger) -> None:
        credential = await ledger.tenant.created()

        code = await ledger.rejected(event(credential_id=credential["id"], key_version=2))

        assert code == "key_version_not_found"

    async def test_defaults_to_the_version_active_at_that_time(self, ledger: Ledger) -> None:
        credential = await ledger.tenant.created()
        first = datetime.now(UTC)
        path = f"{ledger.tenant.credentials}/{credential['id']}/rotations"
        rotated = await ledger.tenant.post(path, json={"api_key": make_key()})
        assert rotated.json()["state"] == "activated"
        second = datetime.now(UTC)
        sent = {at: event(started_at=instant(at), credential_id=credential["id"]) for at in (first, second)}

        await ledger.accepted(*sent.values())

        assert [(await ledger.row(sent[at]["event_id"]))["key_version"] for at in sent] == [1, 2]


class TestLastUsed:
    async def get_last_used(self, ledger: Ledger, credential_id: str) -> tuple[str | None, str | None]:
        path = f"{ledger.tenant.credentials}/{credential_id}"
        versions = (await ledger.tenant.get(f"{path}/versions")).json()["data"]
        credential = (await ledger.tenant.get(path)).json()
        return credential["last_used_at"], versions[0]["last_used_at"]

    async def test_is_the_latest_start_of_a_batch(self, ledger: Ledger) -> None:
        credential = await ledger.tenant.created()
        times = [instant(minutes=minutes) for minutes in (50, 10, 30)]

        await ledger.accepted(
            *(event(started_at=at, credential_id=credential["id"], key_version=1) for at in times)
        )

        assert await self.get_last_used(ledger, credential["id"]) == (times[1], times[1])

    async def test_never_moves_back_and_moves_at_most_once_a_minute(self, ledger: Ledger) -> None:
        credential = await ledger.tenant.created()
        latest = datetime.now(UTC) - timedelta(minutes=30)
        for offset in (0, -600, 30):
            at = instant(latest + timedelta(seconds=offset))
            await ledger.accepted(event(started_at=at, credential_id=credential["id"], key_version=1))
        assert await self.get_last_used(ledger, credential["id"]) == (instant(latest), instant(latest))

        later = instant(latest + timedelta(seconds=61))
        await ledger.accepted(event(started_at=later, credential_id=credential["id"], key_version=1))

        assert await self.get_last_used(ledger, credential["id"]) == (later, later)

    async def test_does_not_change_the_etag(self, ledger: Ledger) -> None:
        credential = await ledger.tenant.created()
        path = f"{ledger.tenant.credentials}/{credential['id']}"
        before = (await ledger.tenant.get(path)).headers["ETag"]

        await ledger.accepted(event(credential_id=credential["id"]))

        assert (await ledger.tenant.get(path)).headers["ETag"] == before

    async def test_is_never_in_the_future(self, ledger: Ledger) -> None:
        credential = await ledger.tenant.created()

        await ledger.accepted(event(started_at=instant(minutes=-3), credential_id=credential["id"]))

        at, _ = await self.get_last_used(ledger, credential["id"])
        assert at is not None
        assert datetime.fromisoformat(at) <= datetime.now(UTC)


@dataclass(frozen=True)
class FlatPrices:
    """The same price for every token. Records its calls."""

    calls: list[tuple[Sequence[ModelUsage], datetime, bool]]
    price_per_token: int = 1
    cost: int | None = None
    price_version: str | None = "test"
    flags: UsageFlag = UsageFlag.TIER_ASSUMED

    async def load(self, _uow: UnitOfWork) -> "FlatPrices":
        return self

    def without_overrides(self) -> "FlatPrices":
        return self

    def price(
        self, parts: Sequence[ModelUsage], *, at: datetime, is_compatible_endpoint: bool = False
    ) -> "FlatPrices":
        raise NotImplementedError  # ingestion prices each part

    def price_each(
        self, parts: Sequence[ModelUsage], *, at: datetime, is_compatible_endpoint: bool = False
    ) -> "Sequence[FlatPrices]":
        self.calls.append((parts, at, is_compatible_endpoint))
        costs = [self.price_per_token * (it.tokens.prompt + it.tokens.output) for it in parts]
        return [replace(self, cost=cost) for cost in costs]


class TestPricing:
    @pytest.fixture
    def prices(self) -> FlatPrices:
        return FlatPrices([])

    async def ingest_with_prices(
        self, ledger: Ledger, services: Services, prices: FlatPrices, *events: Any
    ) -> None:
        usage = IngestionService(
            UnitsOfWork(services[IngestionService]._units._database),
            prices=prices,
            limits=NoLimits(),
            admission=AdmissionQueue(1, queue_timeout_seconds=5, max_waiting=1),
        )
        async with client_of(services.replacing(usage)) as client:
            await replace(ledger, service=replace(ledger.service, http=client)).accepted(*events)

    async def test_bills_managed_usage(self, ledger: Ledger, services: Services, prices: FlatPrices) -> None:
        sent = event(usage={"input_tokens": 3, "output_tokens": 4}, outcome="failed")

        await self.ingest_with_prices(ledger, services, prices, sent)

        row = await ledger.row(sent["event_id"])
        assert row["estimated_cost"] == row["billed_cost"] == {"amount": "0.000000000007", "currency": "USD"}
        assert (row["price_version"], row["flags"]) == ("test", ["tier_assumed"])

    async def test_estimates_but_does_not_bill_byo_usage_and_mismatches(
        self, ledger: Ledger, services: Services, prices: FlatPrices
    ) -> None:
        credential = await ledger.tenant.created()
        mismatch = event(credential_id=credential["id"])
        at = await switch(ledger.tenant, "byo")
        byo = event(started_at=instant(at))

        await self.ingest_with_prices(ledger, services, prices, mismatch, byo)

        for sent in (mismatch, byo):
            row = await ledger.row(sent["event_id"])
            assert row["estimated_cost"]["amount"] == "0.000000000018"
            assert row["billed_cost"]["amount"] == "0.00"

    async def test_uses_the_prices_at_the_start_but_not_in_the_future(
        self, ledger: Ledger, services: Services, prices: FlatPrices
    ) -> None:
        past, future = datetime.now(UTC) - timedelta(days=3), datetime.now(UTC) + timedelta(minutes=4)

        await self.ingest_with_prices(
            ledger, services, prices, event(started_at=instant(past)), event(started_at=instant(future))
        )

        (_, first, _), (_, second, _) = prices.calls
        assert first == past
        assert second <= datetime.now(UTC)

    async def test_skips_duplicates(self, ledger: Ledger, services: Services, prices: FlatPrices) -> None:
        sent = event()
        await self.ingest_with_prices(ledger, services, prices, sent)

        with pytest.raises(AssertionError):
            await self.ingest_with_prices(ledger, services, prices, sent)

        assert len(prices.calls) == 1

    async def test_distinguishes_compatible_endpoints(
        self, ledger: Ledger, services: Services, superuser: AsyncEngine, prices: FlatPrices
    ) -> None:
        credential = await ledger.tenant.created()
        await change(
            superuser,
            "UPDATE credential_version SET base_url = 'https://gateway.example.com' WHERE credential_id = :id",
            id=UUID(credential["id"]),
        )

        await self.ingest_with_prices(
            ledger, services, prices, event(credential_id=credential["id"]), event()
        )

        assert [compatible for _, _, compatible in prices.calls] == [True, False]

    async def test_leaves_costs_that_do_not_fit_unpriced(self, ledger: Ledger, services: Services) -> None:
        sent = event()

        await self.ingest_with_prices(ledger, services, FlatPrices([], price_per_token=2**63), sent)

        row = await ledger.row(sent["event_id"])
        assert (row["estimated_cost"], row["price_version"]) == (None, None)


class TestConcurrentIngestion:
    async def test_counts_each_event_of_overlapping_batches_once(
        self, ledger: Ledger, superuser: AsyncEngine
    ) -> None:
        pool = [event() for _ in range(400)]
        batches = [random.sample(pool, 250) for _ in range(12)]
        for batch in batches:
            random.shuffle(batch)

        responses = await asyncio.gather(*(ledger.post(batch) for batch in batches))

        assert {response.status_code for response in responses} == {200}
        bodies = [response.json() for response in responses]
        event_ids = {it["event_id"] for batch in batches for it in batch}
        assert sum(body["accepted"] for body in bodies) == len(event_ids)
        assert all(body["accepted"] + body["duplicates"] == 250 for body in bodies)
        counted = await fetch(
            superuser,
            "SELECT (SELECT count(*) FROM usage_event WHERE organization_id = :o) AS rows,"
            " (SELECT count(*) FROM usage_event_key WHERE organization_id = :o) AS keys",
            o=ledger.tenant.organization,
        )
        assert counted == [{"rows": len(event_ids), "keys": len(event_ids)}]

    async def test_keeps_one_of_conflicting_events(self, ledger: Ledger) -> None:
        sent = [event(event_id="one", feature=str(number)) for number in range(6)]

        responses = await asyncio.gather(*(ledger.post([it]) for it in sent))

        bodies = [response.json() for response in responses]
        assert sum(body["accepted"] for body in bodies) == 1
        assert [it["status"] for body in bodies for it in body["results"]] == ["conflict"] * 5
