"""Usage reports in pages: put together they are the whole, while events come in too."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.database.engine import Database
from app.usage_reports.rollup_worker import RollupWorker
from tests.api.reporting import STARTS, random_event, report
from tests.conftest import Tenant
from tests.ledger import event, ingest, make_room
from tests.report_oracle import Asked, expected, told, utc


@pytest.fixture(scope="module", autouse=True)
async def _room(owner: AsyncEngine) -> None:
    await make_room(owner, utc(2026, 1, 1), utc(2027, 1, 31))


class TestPages:
    @pytest.mark.parametrize("limit", [1, 3, 1000])
    async def test_put_together_are_the_whole(
        self, tenant: Tenant, database: Database, services: Services, limit: int
    ) -> None:
        chance = random.Random(limit)
        start, length = STARTS[0], timedelta(days=4)
        events = [random_event(chance, start, length) for _ in range(40)]
        await ingest(database, tenant.organization, *events[:20])
        await services[RollupWorker].fold(tenant.organization)
        await ingest(database, tenant.organization, *events[20:])
        asked = Asked(
            starting_at=start + timedelta(hours=5, minutes=7),
            ending_at=start + length,
            time_zone="Europe/Berlin",
            group_by=["feature", "outcome", "credential_id"],
        )

        found, page = [], None
        while True:
            part = await report(tenant, asked, limit=limit, **({"page": page} if page else {}))
            found += told(part, asked)
            assert sum(len(bucket["results"]) for bucket in part["data"]) <= limit
            assert part["has_more"] == (part["next_page"] is not None)
            page = part["next_page"]
            if page is None:
                break

        assert found == expected(events, asked)

    async def test_stay_apart_while_events_come_in(self, tenant: Tenant, database: Database) -> None:
        at = utc(2026, 5, 5)
        await ingest(database, tenant.organization, *(event(at, feature=f"f{n}") for n in (2, 4, 6)))
        asked = Asked(starting_at=at, ending_at=utc(2026, 5, 6), group_by=["feature"])

        first = await report(tenant, asked, limit=2)
        await ingest(database, tenant.organization, *(event(at, feature=f"f{n}") for n in (1, 3, 5)))
        last = await report(tenant, asked, limit=9, page=first["next_page"])

        shown = [[r["feature"] for b in part["data"] for r in b["results"]] for part in (first, last)]
        assert shown == [["f2", "f4"], ["f5", "f6"]]

    async def test_of_a_report_until_now_end_where_the_first_did(
        self, tenant: Tenant, database: Database
    ) -> None:
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

    async def test_of_another_question_are_refused(self, tenant: Tenant, database: Database) -> None:
        at = utc(2026, 5, 5)
        await ingest(database, tenant.organization, *(event(at, feature=name) for name in "abc"))
        asked = Asked(starting_at=at, ending_at=utc(2026, 5, 6), group_by=["feature"])
        page = (await report(tenant, asked, limit=1))["next_page"]

        for changed in ({"group_by[]": "model"}, {"time_zone": "Asia/Tokyo"}, {"feature[]": "a"}):
            response = await tenant.get(
                f"{tenant.path}/usage-report", params=asked.parameters | changed | {"page": page}
            )
            assert (response.status_code, response.json()["code"]) == (422, "page_invalid")
