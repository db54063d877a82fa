"""Usage reports: always exact, in every time zone, whether rows are rolled up or not."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.database.engine import Database
from app.usage_reports.rollup_worker import RollupWorker
from tests.support.database.ledger import Event, create_partitions, event, ingest
from tests.support.oracles.report import ReportParameters, expected, parse_report, utc
from tests.support.requests.usage_reports import (
    STARTS,
    WIDTHS,
    ZONES,
    corrections,
    random_event,
    random_parameters,
    report,
)
from tests.support.tenant import MakeTenant, MakeToken, Tenant


@pytest.fixture(scope="module", autouse=True)
async def _partitions(superuser: AsyncEngine) -> None:
    await create_partitions(superuser, utc(2026, 1, 1), utc(2027, 1, 31))


class TestGetUsageReport:
    @pytest.mark.sampled(stride=4)
    @pytest.mark.parametrize("seed", range(12))
    async def test_matches_the_oracle(
        self, tenant: Tenant, database: Database, services: Services, seed: int
    ) -> None:
        chance = random.Random(seed)
        start, length = chance.choice(STARTS), timedelta(hours=chance.choice((9, 60, 24 * 40)))
        events: list[Event] = []
        for _ in range(3):
            new_events = [random_event(chance, start, length) for _ in range(chance.randrange(1, 60))]
            new_events += corrections(
                chance, [*events, *new_events] if not any(it.correction for it in events) else new_events
            )
            await ingest(database, tenant.organization, *new_events)
            events += new_events
            if chance.random() < 0.6:
                await services[RollupWorker].roll_up(tenant.organization)

            for _ in range(8):
                parameters = random_parameters(chance, start, length)
                found = await report(tenant, parameters)

                assert parse_report(found, parameters) == expected(events, parameters), parameters
                assert not found["has_more"]

    @pytest.mark.parametrize("width", WIDTHS)
    @pytest.mark.parametrize("zone", ZONES)
    async def test_cuts_buckets_by_local_time(
        self, tenant: Tenant, database: Database, services: Services, zone: str, width: str
    ) -> None:
        events = [event(start + timedelta(minutes=15 * number)) for start in STARTS for number in range(24)]
        await ingest(database, tenant.organization, *events)
        await services[RollupWorker].roll_up(tenant.organization)
        parameters = ReportParameters(
            starting_at=utc(2026, 3, 1), ending_at=utc(2026, 11, 20), bucket_width=width, time_zone=zone
        )

        found = await report(tenant, parameters)

        assert parse_report(found, parameters) == expected(events, parameters)

    async def test_handles_days_of_23_and_25_hours(self, tenant: Tenant, database: Database) -> None:
        events = [event(utc(2026, 3, 8, 12)), event(utc(2026, 11, 1, 12))]
        await ingest(database, tenant.organization, *events)
        parameters = ReportParameters(
            starting_at=utc(2026, 3, 1), ending_at=utc(2026, 11, 20), time_zone="America/New_York"
        )

        found = (await report(tenant, parameters))["data"]

        assert [(bucket["starting_at"], bucket["ending_at"]) for bucket in found] == [
            ("2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z"),
            ("2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"),
        ]

    async def test_includes_recent_events_and_states_data_as_of(
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

    @pytest.mark.parametrize("is_rolled_up", [True, False])
    @pytest.mark.parametrize("filter_value", ["m-one", "m-one-20260101", "m-one-latest"])
    async def test_a_model_filter_finds_every_spelling(
        self, tenant: Tenant, database: Database, services: Services, filter_value: str, is_rolled_up: bool
    ) -> None:
        at = utc(2026, 5, 5)
        models = ("m-one", "m-one-20260202", "m-one-latest", "m-one-5", "x/m-one", "m-one@20260202")
        await ingest(database, tenant.organization, *(event(at, model=model) for model in models))
        if is_rolled_up:
            await services[RollupWorker].roll_up(tenant.organization)

        found = await tenant.get(
            f"{tenant.path}/usage-report",
            params={"starting_at": at.isoformat(), "model[]": filter_value, "group_by[]": "model"},
        )
        listed = await tenant.get(f"{tenant.path}/usage-events", params={"model": filter_value})

        results = [result["model"] for bucket in found.json()["data"] for result in bucket["results"]]
        assert results == sorted(models[:3])
        assert sorted(row["model"] for row in listed.json()["data"]) == sorted(models[:3])

    async def test_without_an_end_includes_events_ahead_of_the_clock(
        self, tenant: Tenant, database: Database
    ) -> None:
        now = datetime.now(UTC)
        await ingest(database, tenant.organization, event(now), event(now + timedelta(minutes=4), cost=7))

        for width in ("1h", "1d", "1mo", "all"):
            found = await tenant.get(
                f"{tenant.path}/usage-report",
                params={"starting_at": (now - timedelta(hours=1)).isoformat(), "bucket_width": width},
            )
            results = [result for bucket in found.json()["data"] for result in bucket["results"]]
            assert sum(result["requests"] for result in results) == 2

    async def test_does_not_bill_usage_with_the_organizations_key(
        self, tenant: Tenant, database: Database, services: Services
    ) -> None:
        at = utc(2026, 5, 5)
        await ingest(
            database, tenant.organization, event(at, mode="byo", cost=10**12), event(at, cost=10**12)
        )
        await services[RollupWorker].roll_up(tenant.organization)
        parameters = ReportParameters(starting_at=at, ending_at=utc(2026, 5, 6), group_by=["usage_mode"])

        byo, managed = (await report(tenant, parameters))["data"][0]["results"]

        assert (byo["usage_mode"], byo["estimated_cost"]["amount"], byo["billed_cost"]["amount"]) == (
            *("byo", "1.00", "0.00"),
        )
        assert (managed["estimated_cost"], managed["billed_cost"]) == (
            {"amount": "1.00", "currency": "USD"},
        ) * 2

    async def test_is_empty_without_events(self, tenant: Tenant) -> None:
        parameters = ReportParameters(
            starting_at=utc(1970, 1, 1), ending_at=utc(9998, 1, 1), bucket_width="1h"
        )

        found = await report(tenant, parameters)

        assert (found["data"], found["has_more"], found["next_page"]) == ([], False, None)

    async def test_hourly_buckets_over_all_time_cover_only_existing_data(
        self, tenant: Tenant, database: Database
    ) -> None:
        await ingest(database, tenant.organization, event(utc(2026, 5, 5, 3, 20)))
        parameters = ReportParameters(
            starting_at=utc(1970, 1, 1), ending_at=utc(9998, 1, 1), bucket_width="1h"
        )

        found = await report(tenant, parameters)

        assert [bucket["starting_at"] for bucket in found["data"]] == ["2026-05-05T03:00:00Z"]

    async def test_excludes_other_organizations(self, make_tenant: MakeTenant, database: Database) -> None:
        await ingest(database, make_tenant().organization, event(utc(2026, 5, 5)))
        parameters = ReportParameters(starting_at=utc(2026, 5, 1), ending_at=utc(2026, 6, 1))

        assert (await report(make_tenant(), parameters))["data"] == []

    async def test_requires_the_scope(self, tenant: Tenant, make_token: MakeToken) -> None:
        token = make_token("ci", tenant.organization, scopes=["billing:read"])

        response = await tenant.http.get(
            f"{tenant.path}/usage-report?starting_at=2026-05-01T00:00:00Z",
            headers={"Authorization": f"Bearer {token}"},
        )

        assert (response.status_code, response.json()["code"]) == (403, "insufficient_scope")
