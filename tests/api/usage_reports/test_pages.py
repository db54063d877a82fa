"""Pages of usage reports: together they are the whole report, also during ingestion."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.database.engine import Database
from app.usage_reports.rollup_worker import RollupWorker
from tests.support.database.ledger import create_partitions, event, ingest
from tests.support.oracles.report import ReportParameters, expected, parse_report, utc
from tests.support.requests.usage_reports import STARTS, random_event, report
from tests.support.tenant import Tenant


@pytest.fixture(scope="module", autouse=True)
async def _partitions(superuser: AsyncEngine) -> None:
    await create_partitions(superuser, utc(2026, 1, 1), utc(2027, 1, 31))


class TestUsageReportPages:
    @pytest.mark.parametrize("limit", [1, 3, 1000])
    @pytest.mark.parametrize(
        ("width", "group_by"),
        [
            ("1d", ["feature", "outcome", "credential_id"]),
            ("1h", ["feature"]),  # several parts of rollups
            ("1h", ["session_id"]),  # of the ledger
        ],
    )
    async def test_together_are_the_whole_report(
        self,
        tenant: Tenant,
        database: Database,
        services: Services,
        limit: int,
        width: str,
        group_by: list[str],
    ) -> None:
        chance = random.Random(limit)
        start, length = STARTS[0], timedelta(days=4)
        events = [random_event(chance, start, length) for _ in range(40)]
        await ingest(database, tenant.organization, *events[:20])
        await services[RollupWorker].roll_up(tenant.organization)
        await ingest(database, tenant.organization, *events[20:])
        parameters = ReportParameters(
            starting_at=start + timedelta(hours=5, minutes=7),
            ending_at=start + length,
            time_zone="Europe/Berlin",
            bucket_width=width,
            group_by=group_by,
        )

        found, page = [], None
        while True:
            part = await report(tenant, parameters, limit=limit, **({"page": page} if page else {}))
            found += parse_report(part, parameters)
            assert sum(len(bucket["results"]) for bucket in part["data"]) <= limit
            assert part["has_more"] == (part["next_page"] is not None)
            page = part["next_page"]
            if page is None:
                break

        assert found == expected(events, parameters)

    async def test_do_not_overlap_during_ingestion(self, tenant: Tenant, database: Database) -> None:
        at = utc(2026, 5, 5)
        await ingest(database, tenant.organization, *(event(at, feature=f"f{n}") for n in (2, 4, 6)))
        parameters = ReportParameters(starting_at=at, ending_at=utc(2026, 5, 6), group_by=["feature"])

        first = await report(tenant, parameters, limit=2)
        await ingest(database, tenant.organization, *(event(at, feature=f"f{n}") for n in (1, 3, 5)))
        last = await report(tenant, parameters, limit=9, page=first["next_page"])

        shown = [[r["feature"] for b in part["data"] for r in b["results"]] for part in (first, last)]
        assert shown == [["f2", "f4"], ["f5", "f6"]]

    async def test_of_a_report_until_now_have_a_fixed_end(self, tenant: Tenant, database: Database) -> None:
        now = datetime.now(UTC)
        await ingest(database, tenant.organization, *(event(now, feature=name) for name in "ab"))
        query = {
            "starting_at": (now - timedelta(days=1)).isoformat(),
            "bucket_width": "all",
            "group_by[]": "feature",
            "limit": 1,
        }
        path = f"{tenant.path}/usage-report"

        first = (await tenant.get(path, params=query)).json()
        await ingest(database, tenant.organization, event(datetime.now(UTC), feature="b"))
        last = (await tenant.get(path, params=query | {"page": first["next_page"]})).json()

        assert last["data"][0]["ending_at"] == first["data"][0]["ending_at"]
        assert [result["requests"] for result in last["data"][0]["results"]] == [1]

    async def test_of_another_report_are_rejected(self, tenant: Tenant, database: Database) -> None:
        at = utc(2026, 5, 5)
        await ingest(database, tenant.organization, *(event(at, feature=name) for name in "abc"))
        parameters = ReportParameters(starting_at=at, ending_at=utc(2026, 5, 6), group_by=["feature"])
        page = (await report(tenant, parameters, limit=1))["next_page"]

        for changed in ({"group_by[]": "model"}, {"time_zone": "Asia/Tokyo"}, {"feature[]": "a"}):
            response = await tenant.get(
                f"{tenant.path}/usage-report", params=parameters.query | changed | {"page": page}
            )
            assert (response.status_code, response.json()["code"]) == (422, "page_invalid")
