"""Usage reports: exact at every moment, in every zone, whatever is folded and what is not."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.database.engine import Database
from app.usage_reports.rollup_worker import RollupWorker
from tests.api.reporting import STARTS, WIDTHS, ZONES, corrections, random_event, random_question, report
from tests.conftest import MakeTenant, MakeToken, Tenant
from tests.ledger import Event, event, ingest, make_room
from tests.report_oracle import Asked, expected, told, utc


@pytest.fixture(scope="module", autouse=True)
async def _room(owner: AsyncEngine) -> None:
    await make_room(owner, utc(2026, 1, 1), utc(2027, 1, 31))


class TestReport:
    @pytest.mark.parametrize("seed", range(12))
    async def test_is_what_one_event_after_the_other_adds_up_to(
        self, tenant: Tenant, database: Database, services: Services, seed: int
    ) -> None:
        chance = random.Random(seed)
        start, length = chance.choice(STARTS), timedelta(hours=chance.choice((9, 60, 24 * 40)))
        events: list[Event] = []
        for _ in range(3):
            fresh = [random_event(chance, start, length) for _ in range(chance.randrange(1, 60))]
            fresh += corrections(
                chance, [*events, *fresh] if not any(it.correction for it in events) else fresh
            )
            await ingest(database, tenant.organization, *fresh)
            events += fresh
            if chance.random() < 0.6:
                await services[RollupWorker].fold(tenant.organization)

            for _ in range(8):
                asked = random_question(chance, start, length)
                found = await report(tenant, asked)

                assert told(found, asked) == expected(events, asked), asked
                assert not found["has_more"]

    @pytest.mark.parametrize("width", WIDTHS)
    @pytest.mark.parametrize("zone", ZONES)
    async def test_cuts_buckets_by_the_clock_of_the_zone(
        self, tenant: Tenant, database: Database, services: Services, zone: str, width: str
    ) -> None:
        events = [event(start + timedelta(minutes=15 * number)) for start in STARTS for number in range(24)]
        await ingest(database, tenant.organization, *events)
        await services[RollupWorker].fold(tenant.organization)
        asked = Asked(
            starting_at=utc(2026, 3, 1), ending_at=utc(2026, 11, 20), bucket_width=width, time_zone=zone
        )

        found = await report(tenant, asked)

        assert told(found, asked) == expected(events, asked)

    async def test_knows_days_of_23_and_25_hours(self, tenant: Tenant, database: Database) -> None:
        events = [event(utc(2026, 3, 8, 12)), event(utc(2026, 11, 1, 12))]
        await ingest(database, tenant.organization, *events)
        asked = Asked(starting_at=utc(2026, 3, 1), ending_at=utc(2026, 11, 20), time_zone="America/New_York")

        found = (await report(tenant, asked))["data"]

        assert [(bucket["starting_at"], bucket["ending_at"]) for bucket in found] == [
            ("2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z"),
            ("2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"),
        ]

    async def test_holds_what_was_just_accepted_and_says_as_of_when(
        self, tenant: Tenant, database: Database
    ) -> None:
        before = datetime.now(UTC)
        await ingest(database, tenant.organization, event(before - timedelta(seconds=5), cost=7))

        response = await tenant.get(
            f"{tenant.path}/usage-report", params={"starting_at": (before - timedelta(hours=1)).isoformat()}
        )

        found = response.json()
        assert sum(result["requests"] for bucket in found["data"] for result in bucket["results"]) == 1
        assert datetime.fromisoformat(found["data_as_of"]) >= before - timedelta(seconds=1)
        assert found["data"][-1]["ending_at"] <= found["data_as_of"]

    async def test_bills_nothing_of_the_organizations_own_key(
        self, tenant: Tenant, database: Database, services: Services
    ) -> None:
        at = utc(2026, 5, 5)
        await ingest(
            database, tenant.organization, event(at, mode="byo", cost=10**12), event(at, cost=10**12)
        )
        await services[RollupWorker].fold(tenant.organization)
        asked = Asked(starting_at=at, ending_at=utc(2026, 5, 6), group_by=["usage_mode"])

        byo, managed = (await report(tenant, asked))["data"][0]["results"]

        assert (byo["usage_mode"], byo["estimated_cost"]["amount"], byo["billed_cost"]["amount"]) == (
            *("byo", "1.00", "0.00"),
        )
        assert (managed["estimated_cost"], managed["billed_cost"]) == (
            {"amount": "1.00", "currency": "USD"},
        ) * 2

    async def test_is_empty_where_there_is_nothing(self, tenant: Tenant) -> None:
        asked = Asked(starting_at=utc(1970, 1, 1), ending_at=utc(9998, 1, 1), bucket_width="1h")

        found = await report(tenant, asked)

        assert (found["data"], found["has_more"], found["next_page"]) == ([], False, None)

    async def test_of_all_of_history_by_the_hour_looks_where_there_is_something(
        self, tenant: Tenant, database: Database
    ) -> None:
        await ingest(database, tenant.organization, event(utc(2026, 5, 5, 3, 20)))
        asked = Asked(starting_at=utc(1970, 1, 1), ending_at=utc(9998, 1, 1), bucket_width="1h")

        found = await report(tenant, asked)

        assert [bucket["starting_at"] for bucket in found["data"]] == ["2026-05-05T03:00:00Z"]

    async def test_shows_nothing_of_other_organizations(
        self, make_tenant: MakeTenant, database: Database
    ) -> None:
        await ingest(database, make_tenant().organization, event(utc(2026, 5, 5)))
        asked = Asked(starting_at=utc(2026, 5, 1), ending_at=utc(2026, 6, 1))

        assert (await report(make_tenant(), asked))["data"] == []

    async def test_needs_its_scope(self, tenant: Tenant, make_token: MakeToken) -> None:
        token = make_token("ci", tenant.organization, scopes=["billing:read"])

        response = await tenant.http.get(
            f"{tenant.path}/usage-report?starting_at=2026-05-01T00:00:00Z",
            headers={"Authorization": f"Bearer {token}"},
        )

        assert (response.status_code, response.json()["code"]) == (403, "insufficient_scope")
