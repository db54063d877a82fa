"""The price backfill: corrections give unpriced events a price, each exactly once."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.engine import Database
from app.database.ledger_lock import LedgerLock
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.pricing.backfill import BackfillResult, PriceBackfillService
from app.pricing.prices import OverrideList, PriceList, PriceOverride
from app.pricing.rates import Band, DatedPrice, Rates
from app.pricing.repository import PriceRepository
from app.pricing.service import PriceService
from app.usage_events.records import Charge, UsageFlag
from tests.support.database.rows import change, fetch
from tests.support.requests.usage_events import Ledger, event, instant
from tests.support.tenant import MakeToken, Tenant

ALWAYS = datetime.min.replace(tzinfo=UTC)
YESTERDAY = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
DIMENSIONS = (
    *("organization_id", "started_at", "event_id", "completed_at", "mode", "credential_id", "key_version"),
    *(
        "model",
        "endpoint_id",
        "feature",
        "session_id",
        "prompt_id",
        "outcome",
        "usage_source",
        "service_tier",
    ),
    *("speed", "inference_geo", "provider_request_id", "reservation_id"),
)
COUNTERS = (
    *("uncached_input_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "cache_read_tokens"),
    *("output_tokens", "web_search_requests"),
)


def bands(factor: int) -> tuple[Band, ...]:
    price = factor * 1_000_000
    rates = Rates(
        uncached_input=price,
        cache_write_5m=price,
        cache_write_1h=price,
        cache_read=price,
        output=price,
        web_search=price,
    )
    return (Band(longer_than=-1, rates=rates),)


def upgraded() -> PriceList:
    """Return a newer price list with `model-new`, whose price rose yesterday, and `model-banded`."""
    long_prompts = (Band(longer_than=10, rates=bands(5)[0].rates), *bands(1))
    return PriceList(
        "list-2",
        {
            "model-new": [
                DatedPrice.of(YESTERDAY, bands(3), has_geography=True),
                DatedPrice.of(ALWAYS, bands(2), has_geography=True),
            ],
            "model-banded": [DatedPrice.of(ALWAYS, long_prompts, has_geography=True)],
        },
    )


class RecordedSpend:
    """A fake `SpendRecorder` that keeps the rows and fails on request."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.fails_after: int | None = None

    async def settle(self, _uow: UnitOfWork, rows: Sequence[Charge]) -> None:
        if self.fails_after is not None and len(self.rows) >= self.fails_after:
            raise RuntimeError
        self.rows.extend(rows)


@pytest.fixture
def limits() -> RecordedSpend:
    return RecordedSpend()


@pytest.fixture
def backfill(database: Database, limits: RecordedSpend) -> PriceBackfillService:
    units = UnitsOfWork(database)
    return PriceBackfillService(units, PriceService(units, upgraded()), limits)


async def record(superuser: AsyncEngine, tenant: Tenant, count: int = 1, **given: Any) -> str:
    """Insert events with ten uncached tokens and no cost; return the id of the first."""
    prefix = uuid4().hex
    values = {
        "started_at": YESTERDAY + timedelta(hours=1),
        "ingested_at": datetime.now(UTC),
        "mode": "managed",
        "model": "model-new",
        "flags": 0,
        "credential_id": None,
        "key_version": None,
        "service_tier": None,
        "tokens": 10,
        **given,
    }
    await change(
        superuser,
        "INSERT INTO usage_event (organization_id, started_at, event_id, correction, ingested_at, ingest_xid, mode,"
        " model, outcome, usage_source, uncached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens,"
        " cache_read_tokens, output_tokens, web_search_requests, cost, billed, flags, credential_id, key_version,"
        " service_tier, feature, endpoint_id)"
        " SELECT :organization, :started_at, :prefix || '-' || n, 0, :ingested_at, 1, :mode, :model, 'succeeded',"
        " 'reported', :tokens, 0, 0, 0, 0, 0, NULL, 0, :flags, :credential_id, CAST(:key_version AS integer),"
        " CAST(:service_tier AS text), 'chat', 'ep_1' FROM generate_series(1, :count) n",
        organization=tenant.organization,
        prefix=prefix,
        count=count,
        **values,
    )
    await change(
        superuser,
        "INSERT INTO usage_event_key SELECT organization_id, event_id, '', started_at FROM usage_event"
        " WHERE organization_id = :organization ON CONFLICT DO NOTHING",
        organization=tenant.organization,
    )
    return f"{prefix}-1"


async def rows_of(superuser: AsyncEngine, tenant: Tenant, event_id: str) -> list[dict[str, Any]]:
    return await fetch(
        superuser,
        "SELECT * FROM usage_event WHERE organization_id = :organization AND event_id = :event_id ORDER BY correction",
        organization=tenant.organization,
        event_id=event_id,
    )


async def corrections(superuser: AsyncEngine, tenant: Tenant) -> list[dict[str, Any]]:
    return await fetch(
        superuser,
        "SELECT * FROM usage_event WHERE organization_id = :organization AND correction > 0",
        organization=tenant.organization,
    )


async def override(
    database: Database, tenant: Tenant, model: str, factor: int, *, at: datetime | None = None
) -> None:
    async with UnitsOfWork(database).writing(tenant.organization) as uow:
        await uow[LedgerLock].lock_exclusively()
        now = await uow[PriceRepository].clock()
        added = OverrideList(
            number=await uow[PriceRepository].last_number() + 1,
            effective_from=at or now,
            set_at=now,
            set_by="ada",
            overrides=[PriceOverride(model=model, rates=bands(factor)[0].rates)],
        )
        await uow[PriceRepository].append(added)
        await uow.commit()


class TestBackfill:
    async def test_adds_a_correction_and_leaves_the_event_unchanged(
        self, backfill: PriceBackfillService, superuser: AsyncEngine, tenant: Tenant
    ) -> None:
        event_id = await record(
            superuser, tenant, service_tier="priority", flags=int(UsageFlag.CACHE_TTL_ASSUMED)
        )
        [before] = await rows_of(superuser, tenant, event_id)

        done = await backfill.run_for(tenant.organization)

        assert (done.priced, done.unpriced) == (1, 0)
        first, correction = await rows_of(superuser, tenant, event_id)
        assert first == before
        assert {name: correction[name] for name in DIMENSIONS} == {name: before[name] for name in DIMENSIONS}
        assert [correction[name] for name in COUNTERS] == [0] * len(COUNTERS)
        assert (correction["correction"], correction["cost"], correction["billed"]) == (
            1,
            30_000_000,
            30_000_000,
        )
        assert correction["price_version"] == "list-2"
        assert correction["flags"] == UsageFlag.CACHE_TTL_ASSUMED | UsageFlag.TIER_ASSUMED
        assert correction["ingest_xid"] > before["ingest_xid"]
        assert correction["ingested_at"] > before["ingested_at"]

    async def test_uses_the_price_at_the_start_of_the_event(
        self, backfill: PriceBackfillService, superuser: AsyncEngine, tenant: Tenant
    ) -> None:
        await record(superuser, tenant, started_at=YESTERDAY - timedelta(seconds=1))

        await backfill.run_for(tenant.organization)

        assert [row["cost"] for row in await corrections(superuser, tenant)] == [20_000_000]

    async def test_uses_the_ingestion_time_for_an_event_from_the_future(
        self, backfill: PriceBackfillService, superuser: AsyncEngine, tenant: Tenant
    ) -> None:
        await record(superuser, tenant, started_at=YESTERDAY, ingested_at=YESTERDAY - timedelta(seconds=1))

        await backfill.run_for(tenant.organization)

        assert [row["cost"] for row in await corrections(superuser, tenant)] == [20_000_000]

    @pytest.mark.parametrize(
        ("mode", "flags", "billed"),
        [("managed", 0, 30_000_000), ("byo", 0, 0), ("managed", int(UsageFlag.MODE_MISMATCH), 0)],
    )
    async def test_bills_only_what_ingestion_would_have_billed(
        self,
        backfill: PriceBackfillService,
        superuser: AsyncEngine,
        tenant: Tenant,
        mode: str,
        flags: int,
        billed: int,
    ) -> None:
        await record(superuser, tenant, mode=mode, flags=flags)

        await backfill.run_for(tenant.organization)

        assert [(row["cost"], row["billed"]) for row in await corrections(superuser, tenant)] == [
            (30_000_000, billed)
        ]

    async def test_counts_against_limits_and_queues_a_rollup(
        self, backfill: PriceBackfillService, limits: RecordedSpend, superuser: AsyncEngine, tenant: Tenant
    ) -> None:
        event_id = await record(superuser, tenant)

        await backfill.run_for(tenant.organization)

        assert [(row.event_id, row.correction, row.billed, row.feature) for row in limits.rows] == [
            (event_id, 1, 30_000_000, "chat")
        ]
        queued = await fetch(
            superuser,
            "SELECT kind FROM job_queue WHERE organization_id = :organization",
            organization=tenant.organization,
        )
        assert [row["kind"] for row in queued] == ["fold_usage"]


class TestStillUnpriced:
    async def test_gets_no_correction_without_a_price(
        self, backfill: PriceBackfillService, superuser: AsyncEngine, tenant: Tenant
    ) -> None:
        await record(superuser, tenant, model="model-secret")

        done = await backfill.run_for(tenant.organization)

        assert (done.priced, done.unpriced) == (0, 1)
        assert await corrections(superuser, tenant) == []

    @pytest.mark.parametrize(
        ("model", "flags", "is_priced"),
        [
            ("model-new", UsageFlag.COMPACTION_ADDED, True),
            ("model-new", UsageFlag.MIXED_MODELS, True),
            ("model-new", UsageFlag.COMPACTION_ADDED | UsageFlag.MIXED_MODELS, False),
            ("model-banded", UsageFlag.NONE, True),
            ("model-banded", UsageFlag.COMPACTION_ADDED, False),
        ],
    )
    async def test_gets_no_correction_if_the_ledger_lacks_the_parts(
        self,
        backfill: PriceBackfillService,
        superuser: AsyncEngine,
        tenant: Tenant,
        model: str,
        flags: UsageFlag,
        is_priced: bool,
    ) -> None:
        await record(superuser, tenant, model=model, flags=int(flags))

        done = await backfill.run_for(tenant.organization, with_overrides=True)

        assert done.priced == is_priced


class TestBackfillWithOverrides:
    async def test_uses_later_overrides_only_on_request(
        self, backfill: PriceBackfillService, database: Database, superuser: AsyncEngine, tenant: Tenant
    ) -> None:
        await record(superuser, tenant, model="model-secret")
        await override(database, tenant, "model-*", 7)

        assert (await backfill.run_for(tenant.organization)).priced == 0
        assert (await backfill.run_for(tenant.organization, with_overrides=True)).priced == 1

        assert [(row["cost"], row["price_version"]) for row in await corrections(superuser, tenant)] == [
            (70_000_000, "override-1")
        ]

    async def test_prefers_the_list_price_at_the_start_of_the_event(
        self, backfill: PriceBackfillService, database: Database, superuser: AsyncEngine, tenant: Tenant
    ) -> None:
        await record(superuser, tenant)
        await override(database, tenant, "model-new", 7)

        await backfill.run_for(tenant.organization, with_overrides=True)

        assert [row["price_version"] for row in await corrections(superuser, tenant)] == ["list-2"]

    async def test_ignores_scheduled_overrides(
        self, backfill: PriceBackfillService, database: Database, superuser: AsyncEngine, tenant: Tenant
    ) -> None:
        await record(superuser, tenant, model="model-secret")
        await override(database, tenant, "model-*", 7, at=datetime.now(UTC) + timedelta(days=1))

        assert (await backfill.run_for(tenant.organization, with_overrides=True)).priced == 0

    @pytest.mark.parametrize("is_version_known", [True, False])
    async def test_uses_only_overrides_for_compatible_endpoints(
        self,
        backfill: PriceBackfillService,
        database: Database,
        superuser: AsyncEngine,
        tenant: Tenant,
        is_version_known: bool,
    ) -> None:
        credential = await tenant.created()
        await change(
            superuser,
            "UPDATE credential_version SET base_url = 'https://gw.example.com' WHERE credential_id = :id",
            id=credential["id"],
        )
        version = 1 if is_version_known else None
        await record(superuser, tenant, mode="byo", credential_id=credential["id"], key_version=version)

        assert (await backfill.run_for(tenant.organization)).priced == 0
        await override(database, tenant, "model-new", 7)
        assert (await backfill.run_for(tenant.organization)).priced == 0
        assert (await backfill.run_for(tenant.organization, with_overrides=True)).priced == 1

    async def test_uses_list_prices_for_anthropics_endpoint(
        self, backfill: PriceBackfillService, superuser: AsyncEngine, tenant: Tenant
    ) -> None:
        credential = await tenant.created()
        await record(superuser, tenant, mode="byo", credential_id=credential["id"], key_version=1)

        assert (await backfill.run_for(tenant.organization)).priced == 1


class TestRepeatedBackfill:
    async def test_finds_no_more_events(
        self, backfill: PriceBackfillService, limits: RecordedSpend, superuser: AsyncEngine, tenant: Tenant
    ) -> None:
        await record(superuser, tenant)
        await backfill.run_for(tenant.organization)

        done = await backfill.run_for(tenant.organization)

        assert (done.priced, done.unpriced) == (0, 0)
        assert len(limits.rows) == 1

    async def test_continues_after_an_interruption(
        self, backfill: PriceBackfillService, limits: RecordedSpend, superuser: AsyncEngine, tenant: Tenant
    ) -> None:
        await record(superuser, tenant, 1200)
        limits.fails_after = 1000
        with pytest.raises(RuntimeError):
            await backfill.run_for(tenant.organization)
        assert len(await corrections(superuser, tenant)) == 1000
        limits.fails_after = None

        done = await backfill.run_for(tenant.organization)

        assert (done.priced, done.unpriced) == (200, 0)
        found = await corrections(superuser, tenant)
        assert len({row["event_id"] for row in found}) == len(found) == len(limits.rows) == 1200

    async def test_concurrent_runs_price_each_event_once(
        self, backfill: PriceBackfillService, limits: RecordedSpend, superuser: AsyncEngine, tenant: Tenant
    ) -> None:
        await record(superuser, tenant, 1100)
        await record(superuser, tenant, 20, model="model-secret")

        done = await asyncio.gather(*(backfill.run_for(tenant.organization) for _ in range(4)))

        assert sum(one.priced for one in done) == 1100
        found = await corrections(superuser, tenant)
        assert len({row["event_id"] for row in found}) == len(found) == len(limits.rows) == 1100
        assert {row["correction"] for row in found} == {1}


class TestBackfillAllOrganizations:
    async def test_visits_and_reports_every_organization(
        self, backfill: PriceBackfillService, superuser: AsyncEngine, make_tenant: Any
    ) -> None:
        tenants = [make_tenant() for _ in range(3)]
        for number, tenant in enumerate(tenants, start=1):
            await record(superuser, tenant, number)
        reported: list[BackfillResult] = []

        done = await backfill.run(progress=reported.append)

        mine = {tenant.organization: number for number, tenant in enumerate(tenants, start=1)}
        assert reported == list(done)
        assert {one.organization_id: one.priced for one in done if one.organization_id in mine} == mine
        assert [one.organization_id for one in done] == sorted(one.organization_id for one in done)


class TestKeptUsage:
    """Events that came through the API, so that their usage objects are kept."""

    @pytest.fixture
    def ledger(self, tenant: Tenant, make_token: MakeToken) -> Ledger:
        return Ledger(tenant=tenant, service=replace(tenant, token=make_token("service")))

    async def costs(
        self, superuser: AsyncEngine, ledger: Ledger, usage: dict[str, Any], backfill: PriceBackfillService
    ) -> list[tuple[str, int | None]]:
        """Ingest an event without a price, backfill, and return model and cost of its corrections."""
        sent = event(model="model-banded", usage=usage)
        await ledger.accepted(sent, event())
        await backfill.run_for(ledger.tenant.organization)
        found = await corrections(superuser, ledger.tenant)
        assert {row["event_id"] for row in found} <= {sent["event_id"]}
        return [(row["model"], row["cost"]) for row in sorted(found, key=lambda row: row["part"])]

    async def test_prices_each_call_by_its_own_prompt(
        self, backfill: PriceBackfillService, superuser: AsyncEngine, ledger: Ledger
    ) -> None:
        usage = {
            "input_tokens": 16,
            "iterations": [
                {"type": "message", "input_tokens": 8},
                {"type": "message", "input_tokens": 8},
                {"type": "compaction", "input_tokens": 11},
            ],
        }

        assert await self.costs(superuser, ledger, usage, backfill) == [
            ("model-banded", (16 + 5 * 11) * 1_000_000)
        ]

    async def test_prices_the_part_of_each_model(
        self, backfill: PriceBackfillService, superuser: AsyncEngine, ledger: Ledger
    ) -> None:
        usage = {
            "input_tokens": 2,
            "iterations": [
                {"type": "advisor_message", "model": "model-new", "input_tokens": 7},
                {"type": "advisor_message", "model": "model-secret", "input_tokens": 5},
            ],
        }

        found = await self.costs(superuser, ledger, usage, backfill)

        assert found == [("model-banded", 2_000_000), ("model-new", 21_000_000)]
        again = await backfill.run_for(ledger.tenant.organization)
        assert (again.priced, again.unpriced) == (0, 1)

    async def test_finds_the_objects_of_concurrent_batches(
        self, backfill: PriceBackfillService, superuser: AsyncEngine, ledger: Ledger
    ) -> None:
        def events() -> list[Any]:
            usage = {
                "input_tokens": 4,
                "iterations": [
                    {"type": "compaction", "model": "model-new", "input_tokens": 1},
                    {"type": "compaction", "input_tokens": 11},
                ],
            }
            times = (instant(days=34), instant(seconds=5))
            return [event(model="model-banded", usage=usage, started_at=at) for at in times]

        await asyncio.gather(*(ledger.accepted(*events()) for _ in range(10)))

        done = await backfill.run_for(ledger.tenant.organization)

        assert (done.priced, done.unpriced) == (40, 0)
        assert {row["cost"] for row in await corrections(superuser, ledger.tenant) if row["part"] == 0} == {
            (4 + 5 * 11) * 1_000_000
        }


class TestCorrectedEvents:
    """Events that another event corrected, before or after they got a price."""

    @pytest.fixture
    def ledger(self, tenant: Tenant, make_token: MakeToken) -> Ledger:
        return Ledger(tenant=tenant, service=replace(tenant, token=make_token("service")))

    async def totals(self, superuser: AsyncEngine, ledger: Ledger, *names: str) -> tuple[Any, ...]:
        listed = ", ".join(f"sum({name}) AS {name}" for name in names)
        (row,) = await fetch(
            superuser,
            f"SELECT {listed} FROM usage_event WHERE organization_id = :organization",
            organization=ledger.tenant.organization,
        )
        return tuple(row.values())

    async def test_get_no_price_after_they_were_corrected(
        self, backfill: PriceBackfillService, superuser: AsyncEngine, ledger: Ledger
    ) -> None:
        partial = event(model="model-new")
        whole = event(model="claude-haiku-4-5", corrects=partial["event_id"], usage={"input_tokens": 7})
        await ledger.accepted(partial, whole)

        result = await backfill.run_for(ledger.tenant.organization)

        assert (result.priced, result.unpriced) == (0, 0)
        assert await self.totals(superuser, ledger, "uncached_input_tokens", "cost") == (7, 7 * 10**6)

    async def test_lose_the_price_that_became_known(
        self, backfill: PriceBackfillService, superuser: AsyncEngine, ledger: Ledger
    ) -> None:
        partial = event(model="model-new")
        await ledger.accepted(partial)
        await backfill.run_for(ledger.tenant.organization)
        priced = await report(ledger)

        await ledger.accepted(
            event(model="model-new", corrects=partial["event_id"], usage={"input_tokens": 7})
        )

        corrected = await report(ledger)
        assert [(it["requests"], it["unpriced_requests"]) for it in (priced, corrected)] == [(1, 0), (1, 1)]
        assert corrected["estimated_cost"]["amount"] == "0.00"
        assert await self.totals(superuser, ledger, "uncached_input_tokens", "billed") == (7, 0)
        assert (await backfill.run_for(ledger.tenant.organization)).priced == 1
        assert (await report(ledger))["unpriced_requests"] == 0

    async def test_are_either_priced_or_corrected_first_under_concurrency(
        self, backfill: PriceBackfillService, superuser: AsyncEngine, ledger: Ledger
    ) -> None:
        partial = [event(model="model-new") for _ in range(40)]
        await ledger.accepted(*partial)

        await asyncio.gather(
            backfill.run_for(ledger.tenant.organization),
            *(
                ledger.accepted(
                    event(model="claude-haiku-4-5", corrects=it["event_id"], usage={"input_tokens": 7})
                )
                for it in partial
            ),
        )

        cost = 40 * 7 * 10**6
        assert await self.totals(superuser, ledger, "uncached_input_tokens", "cost", "billed") == (
            280,
            cost,
            cost,
        )
        found = await report(ledger)
        assert (found["requests"], found["unpriced_requests"]) == (40, 0)


async def report(ledger: Ledger) -> dict[str, Any]:
    response = await ledger.tenant.get(
        f"{ledger.tenant.path}/usage-report", params={"starting_at": instant(days=2), "bucket_width": "all"}
    )
    ((result,),) = [bucket["results"] for bucket in response.json()["data"]]
    found: dict[str, Any] = result
    return found
