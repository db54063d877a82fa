"""Events that had no price when they came get one later: by corrections, each exactly once."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.engine import Database
from app.database.ledger_lock import LedgerLock
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.pricing.backfill import Backfilled, PriceBackfillService
from app.pricing.prices import OverrideList, PriceList, PriceOverride
from app.pricing.rates import Band, DatedPrice, Rates
from app.pricing.repository import PriceRepository
from app.pricing.service import PriceService
from app.usage.records import Charge, UsageFlag
from tests.conftest import Tenant
from tests.rows import change, fetch

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
    """A list that has come to know `model-new`, dearer since yesterday, and `model-banded`."""
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


class Settled:
    """Stands for the limits: keeps what it is told, and fails when it is to."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.fails_after: int | None = None

    async def settle(self, _uow: UnitOfWork, rows: Sequence[Charge]) -> None:
        if self.fails_after is not None and len(self.rows) >= self.fails_after:
            raise RuntimeError
        self.rows.extend(rows)


@pytest.fixture
def limits() -> Settled:
    return Settled()


@pytest.fixture
def backfill(database: Database, limits: Settled) -> PriceBackfillService:
    units = UnitsOfWork(database)
    return PriceBackfillService(units, PriceService(units, upgraded()), limits)


async def record(owner: AsyncEngine, tenant: Tenant, count: int = 1, **given: Any) -> str:
    """Events of ten uncached tokens each, without a cost; returns the id of the first."""
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
        owner,
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
        owner,
        "INSERT INTO usage_event_key SELECT organization_id, event_id, '', started_at FROM usage_event"
        " WHERE organization_id = :organization ON CONFLICT DO NOTHING",
        organization=tenant.organization,
    )
    return f"{prefix}-1"


async def rows_of(owner: AsyncEngine, tenant: Tenant, event_id: str) -> list[dict[str, Any]]:
    return await fetch(
        owner,
        "SELECT * FROM usage_event WHERE organization_id = :organization AND event_id = :event_id ORDER BY correction",
        organization=tenant.organization,
        event_id=event_id,
    )


async def corrections(owner: AsyncEngine, tenant: Tenant) -> list[dict[str, Any]]:
    return await fetch(
        owner,
        "SELECT * FROM usage_event WHERE organization_id = :organization AND correction > 0",
        organization=tenant.organization,
    )


async def override(
    database: Database, tenant: Tenant, model: str, factor: int, *, at: datetime | None = None
) -> None:
    async with UnitsOfWork(database).writing(tenant.organization) as uow:
        await uow[LedgerLock].exclusive()
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


class TestKnownByNow:
    async def test_is_added_beside_the_event_which_stays_as_it_was(
        self, backfill: PriceBackfillService, owner: AsyncEngine, tenant: Tenant
    ) -> None:
        event_id = await record(
            owner, tenant, service_tier="priority", flags=int(UsageFlag.CACHE_TTL_ASSUMED)
        )
        [before] = await rows_of(owner, tenant, event_id)

        done = await backfill.run_for(tenant.organization)

        assert (done.priced, done.unpriced) == (1, 0)
        first, correction = await rows_of(owner, tenant, event_id)
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

    async def test_is_the_price_of_the_event_s_own_instant(
        self, backfill: PriceBackfillService, owner: AsyncEngine, tenant: Tenant
    ) -> None:
        await record(owner, tenant, started_at=YESTERDAY - timedelta(seconds=1))

        await backfill.run_for(tenant.organization)

        assert [row["cost"] for row in await corrections(owner, tenant)] == [20_000_000]

    async def test_of_an_event_ahead_of_our_clock_is_that_of_its_arrival(
        self, backfill: PriceBackfillService, owner: AsyncEngine, tenant: Tenant
    ) -> None:
        await record(owner, tenant, started_at=YESTERDAY, ingested_at=YESTERDAY - timedelta(seconds=1))

        await backfill.run_for(tenant.organization)

        assert [row["cost"] for row in await corrections(owner, tenant)] == [20_000_000]

    @pytest.mark.parametrize(
        ("mode", "flags", "billed"),
        [("managed", 0, 30_000_000), ("byo", 0, 0), ("managed", int(UsageFlag.MODE_MISMATCH), 0)],
    )
    async def test_is_billed_where_the_event_would_have_been(
        self,
        backfill: PriceBackfillService,
        owner: AsyncEngine,
        tenant: Tenant,
        mode: str,
        flags: int,
        billed: int,
    ) -> None:
        await record(owner, tenant, mode=mode, flags=flags)

        await backfill.run_for(tenant.organization)

        assert [(row["cost"], row["billed"]) for row in await corrections(owner, tenant)] == [
            (30_000_000, billed)
        ]

    async def test_is_counted_against_limits_and_folded(
        self, backfill: PriceBackfillService, limits: Settled, owner: AsyncEngine, tenant: Tenant
    ) -> None:
        event_id = await record(owner, tenant)

        await backfill.run_for(tenant.organization)

        assert [(row.event_id, row.correction, row.billed, row.feature) for row in limits.rows] == [
            (event_id, 1, 30_000_000, "chat")
        ]
        queued = await fetch(
            owner,
            "SELECT kind FROM job_queue WHERE organization_id = :organization",
            organization=tenant.organization,
        )
        assert [row["kind"] for row in queued] == ["fold_usage"]


class TestUnknownStill:
    async def test_stays_without_a_cost(
        self, backfill: PriceBackfillService, owner: AsyncEngine, tenant: Tenant
    ) -> None:
        await record(owner, tenant, model="model-secret")

        done = await backfill.run_for(tenant.organization)

        assert (done.priced, done.unpriced) == (0, 1)
        assert await corrections(owner, tenant) == []

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
    async def test_is_what_the_ledger_keeps_only_the_sum_of(
        self,
        backfill: PriceBackfillService,
        owner: AsyncEngine,
        tenant: Tenant,
        model: str,
        flags: UsageFlag,
        is_priced: bool,
    ) -> None:
        await record(owner, tenant, model=model, flags=int(flags))

        done = await backfill.run_for(tenant.organization, with_overrides=True)

        assert done.priced == is_priced


class TestOverride:
    async def test_set_since_counts_only_when_asked_for(
        self, backfill: PriceBackfillService, database: Database, owner: AsyncEngine, tenant: Tenant
    ) -> None:
        await record(owner, tenant, model="model-secret")
        await override(database, tenant, "model-*", 7)

        assert (await backfill.run_for(tenant.organization)).priced == 0
        assert (await backfill.run_for(tenant.organization, with_overrides=True)).priced == 1

        assert [(row["cost"], row["price_version"]) for row in await corrections(owner, tenant)] == [
            (70_000_000, "override-1")
        ]

    async def test_never_takes_the_place_of_the_list_price_of_the_instant(
        self, backfill: PriceBackfillService, database: Database, owner: AsyncEngine, tenant: Tenant
    ) -> None:
        await record(owner, tenant)
        await override(database, tenant, "model-new", 7)

        await backfill.run_for(tenant.organization, with_overrides=True)

        assert [row["price_version"] for row in await corrections(owner, tenant)] == ["list-2"]

    async def test_that_is_only_scheduled_does_not_count(
        self, backfill: PriceBackfillService, database: Database, owner: AsyncEngine, tenant: Tenant
    ) -> None:
        await record(owner, tenant, model="model-secret")
        await override(database, tenant, "model-*", 7, at=datetime.now(UTC) + timedelta(days=1))

        assert (await backfill.run_for(tenant.organization, with_overrides=True)).priced == 0

    @pytest.mark.parametrize("is_version_known", [True, False])
    async def test_is_all_that_counts_at_a_compatible_endpoint(
        self,
        backfill: PriceBackfillService,
        database: Database,
        owner: AsyncEngine,
        tenant: Tenant,
        is_version_known: bool,
    ) -> None:
        credential = await tenant.created()
        await change(
            owner,
            "UPDATE credential_version SET base_url = 'https://gw.example.com' WHERE credential_id = :id",
            id=credential["id"],
        )
        version = 1 if is_version_known else None
        await record(owner, tenant, mode="byo", credential_id=credential["id"], key_version=version)

        assert (await backfill.run_for(tenant.organization)).priced == 0
        await override(database, tenant, "model-new", 7)
        assert (await backfill.run_for(tenant.organization)).priced == 0
        assert (await backfill.run_for(tenant.organization, with_overrides=True)).priced == 1

    async def test_says_nothing_of_the_destination_of_another_key_version(
        self, backfill: PriceBackfillService, owner: AsyncEngine, tenant: Tenant
    ) -> None:
        credential = await tenant.created()
        await record(owner, tenant, mode="byo", credential_id=credential["id"], key_version=1)

        assert (await backfill.run_for(tenant.organization)).priced == 1


class TestAgain:
    async def test_finds_nothing_left(
        self, backfill: PriceBackfillService, limits: Settled, owner: AsyncEngine, tenant: Tenant
    ) -> None:
        await record(owner, tenant)
        await backfill.run_for(tenant.organization)

        done = await backfill.run_for(tenant.organization)

        assert (done.priced, done.unpriced) == (0, 0)
        assert len(limits.rows) == 1

    async def test_goes_on_where_it_was_interrupted(
        self, backfill: PriceBackfillService, limits: Settled, owner: AsyncEngine, tenant: Tenant
    ) -> None:
        await record(owner, tenant, 1200)
        limits.fails_after = 1000
        with pytest.raises(RuntimeError):
            await backfill.run_for(tenant.organization)
        assert len(await corrections(owner, tenant)) == 1000
        limits.fails_after = None

        done = await backfill.run_for(tenant.organization)

        assert (done.priced, done.unpriced) == (200, 0)
        found = await corrections(owner, tenant)
        assert len({row["event_id"] for row in found}) == len(found) == len(limits.rows) == 1200

    async def test_at_the_same_time_prices_each_event_once(
        self, backfill: PriceBackfillService, limits: Settled, owner: AsyncEngine, tenant: Tenant
    ) -> None:
        await record(owner, tenant, 1100)
        await record(owner, tenant, 20, model="model-secret")

        done = await asyncio.gather(*(backfill.run_for(tenant.organization) for _ in range(4)))

        assert sum(one.priced for one in done) == 1100
        found = await corrections(owner, tenant)
        assert len({row["event_id"] for row in found}) == len(found) == len(limits.rows) == 1100
        assert {row["correction"] for row in found} == {1}


class TestEveryOrganization:
    async def test_is_visited_and_told_of(
        self, backfill: PriceBackfillService, owner: AsyncEngine, make_tenant: Any
    ) -> None:
        tenants = [make_tenant() for _ in range(3)]
        for number, tenant in enumerate(tenants, start=1):
            await record(owner, tenant, number)
        told: list[Backfilled] = []

        done = await backfill.run(progress=told.append)

        mine = {tenant.organization: number for number, tenant in enumerate(tenants, start=1)}
        assert told == list(done)
        assert {one.organization_id: one.priced for one in done if one.organization_id in mine} == mine
        assert [one.organization_id for one in done] == sorted(one.organization_id for one in done)
