"""Whose key paid: each row has the mode, the credential and the key version of the instant at which it started."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.usage.admission import AdmissionQueue
from app.usage.records import ModelUsage, UsageFlag
from app.usage.service import IngestionService
from tests.api.usage import Ledger, event, instant
from tests.assembly import client_of
from tests.conftest import Tenant
from tests.fake_anthropic import make_key
from tests.rows import change, fetch
from tests.unpriced import Unlimited


async def switch(tenant: Tenant, mode: str, credential_id: str | None = None) -> datetime:
    body = {"mode": mode, "credential_id": credential_id}
    response = await tenant.request("PUT", f"{tenant.path}/usage-mode", json=body)
    assert response.status_code == 200, response.text
    return datetime.fromisoformat(response.json()["effective_from"])


async def switched_at(owner: AsyncEngine, tenant: Tenant, at: datetime, mode: str, credential: Any) -> None:
    """A point of the timeline as if it had been set then."""
    await change(
        owner,
        "INSERT INTO usage_mode_change VALUES (:organization, :at, :mode, :credential, 'test')",
        organization=tenant.organization,
        at=at,
        mode=mode,
        credential=credential,
    )


class TestMode:
    async def test_is_the_one_of_the_instant_at_which_it_started(
        self, ledger: Ledger, owner: AsyncEngine
    ) -> None:
        now = datetime.now(UTC)
        byo, managed = now - timedelta(hours=5), now - timedelta(hours=2)
        await switched_at(owner, ledger.tenant, byo, "byo", None)
        await switched_at(owner, ledger.tenant, managed, "managed", None)
        tick = timedelta(microseconds=1)
        expected = {
            byo - timedelta(days=10): "managed",
            byo - tick: "managed",
            byo: "byo",
            managed - tick: "byo",
            managed: "managed",
            now: "managed",
        }

        await ledger.accepted(*(event(event_id=instant(at), started_at=instant(at)) for at in expected))

        assert {row["event_id"]: row["usage_mode"] for row in await ledger.rows()} == {
            instant(at): mode for at, mode in expected.items()
        }

    async def test_of_a_start_in_the_future_is_the_present_one(
        self, ledger: Ledger, owner: AsyncEngine
    ) -> None:
        soon = datetime.now(UTC) + timedelta(minutes=2)
        await switched_at(owner, ledger.tenant, soon, "byo", None)
        sent = event(started_at=instant(soon + timedelta(minutes=1)))

        await ledger.accepted(sent)

        assert (await ledger.row(sent["event_id"]))["usage_mode"] == "managed"

    async def test_of_a_start_past_a_switch_to_come_is_the_present_one(
        self, ledger: Ledger, owner: AsyncEngine
    ) -> None:
        soon = datetime.now(UTC) + timedelta(minutes=2)
        await switch(ledger.tenant, "byo")
        await switched_at(owner, ledger.tenant, soon, "managed", None)
        sent = event(started_at=instant(soon + timedelta(minutes=1)))

        await ledger.accepted(sent)

        assert (await ledger.row(sent["event_id"]))["usage_mode"] == "byo"

    async def test_stays_what_it_was_when_the_organization_switches(self, ledger: Ledger) -> None:
        sent = event()
        await ledger.accepted(sent)
        before = await ledger.row(sent["event_id"])

        await switch(ledger.tenant, "byo")

        assert await ledger.row(sent["event_id"]) == before

    async def test_under_concurrent_switches_is_the_timelines(
        self, ledger: Ledger, owner: AsyncEngine
    ) -> None:
        done = asyncio.Event()

        async def report() -> None:
            while not done.is_set():
                batch = [event(started_at=instant(seconds=random.uniform(-0.05, 0.05))) for _ in range(50)]
                response = await ledger.post(batch)
                assert response.json()["accepted"] == 50

        reporting = [asyncio.create_task(report()) for _ in range(3)]
        for number in range(25):
            await switch(ledger.tenant, ("byo", "managed")[number % 2])
        done.set()
        await asyncio.gather(*reporting)

        wrong = await fetch(
            owner,
            "SELECT e.event_id FROM usage_event e WHERE e.organization_id = :organization AND e.mode <> coalesce(("
            " SELECT m.mode FROM usage_mode_change m WHERE m.organization_id = e.organization_id"
            " AND m.effective_from <= least(e.started_at, e.ingested_at)"
            " ORDER BY m.effective_from DESC LIMIT 1), 'managed')",
            organization=ledger.tenant.organization,
        )
        assert wrong == []
        assert len({row["usage_mode"] for row in await ledger.rows(limit=100)}) == 2


class TestCredential:
    async def test_of_byo_is_the_timelines_where_the_event_names_none(self, ledger: Ledger) -> None:
        credential = await ledger.tenant.created()
        at = await switch(ledger.tenant, "byo", credential["id"])
        sent = event(started_at=instant(at))

        await ledger.accepted(sent)

        row = await ledger.row(sent["event_id"])
        assert (row["usage_mode"], row["credential_id"], row["key_version"]) == ("byo", credential["id"], 1)
        assert row["billed_cost"]["amount"] == "0.00"
        assert row["flags"] == []

    async def test_of_which_only_the_version_is_named_is_that_of_the_timeline(self, ledger: Ledger) -> None:
        credential = await ledger.tenant.created()
        at = await switch(ledger.tenant, "byo", credential["id"])
        sent = event(started_at=instant(at), key_version=1)

        await ledger.accepted(sent)
        code = await ledger.rejected(event(started_at=instant(at), key_version=2))

        row = await ledger.row(sent["event_id"])
        assert (row["credential_id"], row["key_version"]) == (credential["id"], 1)
        assert code == "key_version_not_found"

    async def test_that_is_named_is_kept(self, ledger: Ledger) -> None:
        named, in_force = await ledger.tenant.created(), await ledger.tenant.created()
        at = await switch(ledger.tenant, "byo", in_force["id"])
        sent = event(started_at=instant(at), credential_id=named["id"], key_version=1)

        await ledger.accepted(sent)

        row = await ledger.row(sent["event_id"])
        assert (row["credential_id"], row["key_version"]) == (named["id"], 1)
        assert len(await ledger.rows(credential_id=named["id"], key_version=1)) == 1

    async def test_named_by_a_managed_row_is_a_mismatch(self, ledger: Ledger) -> None:
        credential = await ledger.tenant.created()
        sent = event(credential_id=credential["id"], started_at=instant())

        await ledger.accepted(sent)

        row = await ledger.row(sent["event_id"])
        assert (row["usage_mode"], row["credential_id"]) == ("managed", credential["id"])
        assert row["flags"] == ["mode_mismatch"]
        assert row["billed_cost"]["amount"] == "0.00"

    async def test_of_another_organization_is_not_found(self, ledger: Ledger, make_tenant: Any) -> None:
        credential = await make_tenant().created()

        assert await ledger.rejected(event(credential_id=credential["id"])) == "credential_not_found"

    async def test_that_was_deleted_may_still_be_named(self, ledger: Ledger) -> None:
        credential = await ledger.tenant.created()
        await ledger.tenant.request("DELETE", f"{ledger.tenant.credentials}/{credential['id']}")

        await ledger.accepted(event(credential_id=credential["id"]))

    async def test_has_only_the_versions_that_it_has(self, ledger: Ledger) -> None:
        credential = await ledger.tenant.created()

        code = await ledger.rejected(event(credential_id=credential["id"], key_version=2))

        assert code == "key_version_not_found"

    async def test_has_the_version_in_use_at_that_instant(self, ledger: Ledger) -> None:
        credential = await ledger.tenant.created()
        first = datetime.now(UTC)
        path = f"{ledger.tenant.credentials}/{credential['id']}/rotations"
        rotated = await ledger.tenant.post(path, json={"api_key": make_key()})
        assert rotated.json()["state"] == "activated"
        second = datetime.now(UTC)
        sent = {at: event(started_at=instant(at), credential_id=credential["id"]) for at in (first, second)}

        await ledger.accepted(*sent.values())

        assert [(await ledger.row(sent[at]["event_id"]))["key_version"] for at in sent] == [1, 2]


class TestLastUse:
    async def last_uses(self, ledger: Ledger, credential_id: str) -> tuple[str | None, str | None]:
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

        assert await self.last_uses(ledger, credential["id"]) == (times[1], times[1])

    async def test_never_moves_back_and_not_within_a_minute(self, ledger: Ledger) -> None:
        credential = await ledger.tenant.created()
        latest = datetime.now(UTC) - timedelta(minutes=30)
        for offset in (0, -600, 30):
            at = instant(latest + timedelta(seconds=offset))
            await ledger.accepted(event(started_at=at, credential_id=credential["id"], key_version=1))
        assert await self.last_uses(ledger, credential["id"]) == (instant(latest), instant(latest))

        later = instant(latest + timedelta(seconds=61))
        await ledger.accepted(event(started_at=later, credential_id=credential["id"], key_version=1))

        assert await self.last_uses(ledger, credential["id"]) == (later, later)

    async def test_is_no_change_of_the_etag(self, ledger: Ledger) -> None:
        credential = await ledger.tenant.created()
        path = f"{ledger.tenant.credentials}/{credential['id']}"
        before = (await ledger.tenant.get(path)).headers["ETag"]

        await ledger.accepted(event(credential_id=credential["id"]))

        assert (await ledger.tenant.get(path)).headers["ETag"] == before

    async def test_is_never_in_the_future(self, ledger: Ledger) -> None:
        credential = await ledger.tenant.created()

        await ledger.accepted(event(started_at=instant(minutes=-3), credential_id=credential["id"]))

        at, _ = await self.last_uses(ledger, credential["id"])
        assert at is not None
        assert datetime.fromisoformat(at) <= datetime.now(UTC)


@dataclass(frozen=True)
class Penny:
    """Every token costs the same; says what it was asked."""

    asked: list[tuple[Sequence[ModelUsage], datetime, bool]]
    each: int = 1
    cost: int | None = None
    price_version: str | None = "test"
    flags: UsageFlag = UsageFlag.TIER_ASSUMED

    async def of(self, _uow: UnitOfWork) -> "Penny":
        return self

    def price(
        self, parts: Sequence[ModelUsage], *, at: datetime, is_compatible_endpoint: bool = False
    ) -> "Penny":
        self.asked.append((parts, at, is_compatible_endpoint))
        return replace(self, cost=self.each * sum(it.tokens.prompt + it.tokens.output for it in parts))


class TestPrice:
    @pytest.fixture
    def prices(self) -> Penny:
        return Penny([])

    async def priced(self, ledger: Ledger, services: Services, prices: Penny, *events: Any) -> None:
        usage = IngestionService(
            UnitsOfWork(services[IngestionService]._units._database),
            prices=prices,
            limits=Unlimited(),
            turns=AdmissionQueue(1, patience_seconds=5, at_most_waiting=1),
        )
        async with client_of(services.replacing(usage)) as client:
            await replace(ledger, service=replace(ledger.service, http=client)).accepted(*events)

    async def test_of_managed_use_is_billed(self, ledger: Ledger, services: Services, prices: Penny) -> None:
        sent = event(usage={"input_tokens": 3, "output_tokens": 4}, outcome="failed")

        await self.priced(ledger, services, prices, sent)

        row = await ledger.row(sent["event_id"])
        assert row["estimated_cost"] == row["billed_cost"] == {"amount": "0.000000000007", "currency": "USD"}
        assert (row["price_version"], row["flags"]) == ("test", ["tier_assumed"])

    async def test_of_byo_and_of_a_mismatch_is_estimated_and_not_billed(
        self, ledger: Ledger, services: Services, prices: Penny
    ) -> None:
        credential = await ledger.tenant.created()
        mismatch = event(credential_id=credential["id"])
        at = await switch(ledger.tenant, "byo")
        byo = event(started_at=instant(at))

        await self.priced(ledger, services, prices, mismatch, byo)

        for sent in (mismatch, byo):
            row = await ledger.row(sent["event_id"])
            assert row["estimated_cost"]["amount"] == "0.000000000018"
            assert row["billed_cost"]["amount"] == "0.00"

    async def test_is_asked_of_the_instant_at_which_it_started(
        self, ledger: Ledger, services: Services, prices: Penny
    ) -> None:
        past, future = datetime.now(UTC) - timedelta(days=3), datetime.now(UTC) + timedelta(minutes=4)

        await self.priced(
            ledger, services, prices, event(started_at=instant(past)), event(started_at=instant(future))
        )

        (_, first, _), (_, second, _) = prices.asked
        assert first == past
        assert second <= datetime.now(UTC)

    async def test_is_not_asked_of_duplicates(
        self, ledger: Ledger, services: Services, prices: Penny
    ) -> None:
        sent = event()
        await self.priced(ledger, services, prices, sent)

        with pytest.raises(AssertionError):
            await self.priced(ledger, services, prices, sent)

        assert len(prices.asked) == 1

    async def test_of_another_endpoint_is_not_anthropics(
        self, ledger: Ledger, services: Services, owner: AsyncEngine, prices: Penny
    ) -> None:
        credential = await ledger.tenant.created()
        await change(
            owner,
            "UPDATE credential_version SET base_url = 'https://gateway.example.com' WHERE credential_id = :id",
            id=UUID(credential["id"]),
        )

        await self.priced(ledger, services, prices, event(credential_id=credential["id"]), event())

        assert [compatible for _, _, compatible in prices.asked] == [True, False]

    async def test_beyond_all_bounds_is_none(self, ledger: Ledger, services: Services) -> None:
        sent = event()

        await self.priced(ledger, services, Penny([], each=2**63), sent)

        row = await ledger.row(sent["event_id"])
        assert (row["estimated_cost"], row["price_version"]) == (None, None)


class TestConcurrency:
    async def test_of_overlapping_batches_counts_each_event_once(
        self, ledger: Ledger, owner: AsyncEngine
    ) -> None:
        pool = [event() for _ in range(400)]
        batches = [random.sample(pool, 250) for _ in range(12)]
        for batch in batches:
            random.shuffle(batch)

        answers = await asyncio.gather(*(ledger.post(batch) for batch in batches))

        assert {answer.status_code for answer in answers} == {200}
        bodies = [answer.json() for answer in answers]
        named = {it["event_id"] for batch in batches for it in batch}
        assert sum(body["accepted"] for body in bodies) == len(named)
        assert all(body["accepted"] + body["duplicates"] == 250 for body in bodies)
        counted = await fetch(
            owner,
            "SELECT (SELECT count(*) FROM usage_event WHERE organization_id = :o) AS rows,"
            " (SELECT count(*) FROM usage_event_key WHERE organization_id = :o) AS keys",
            o=ledger.tenant.organization,
        )
        assert counted == [{"rows": len(named), "keys": len(named)}]

    async def test_of_one_id_with_two_contents_keeps_one(self, ledger: Ledger) -> None:
        sent = [event(event_id="one", feature=str(number)) for number in range(6)]

        answers = await asyncio.gather(*(ledger.post([it]) for it in sent))

        bodies = [answer.json() for answer in answers]
        assert sum(body["accepted"] for body in bodies) == 1
        assert [it["status"] for body in bodies for it in body["results"]] == ["conflict"] * 5
