"""Watermarks after a dump and restore: they contain transaction numbers of another server."""

import os
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.database.engine import Database
from app.database.statements import Query
from app.database.unit_of_work import UnitsOfWork
from app.usage_reports.rollup_repository import WatermarkAhead
from app.usage_reports.rollup_worker import RollupWorker
from tests.support.database.cells import schema_of_run
from tests.support.database.ledger import event, ingest
from tests.support.database.rows import change
from tests.support.polling import until
from tests.support.usage.rollups import START, count_queue_items, reported_totals, rolled_up_requests


@pytest.fixture
def organization() -> str:
    return f"org_{uuid4().hex}"


class TestResetWatermarks:
    async def test_continues_after_a_restore(
        self, services: Services, database: Database, superuser: AsyncEngine, organization: str
    ) -> None:
        units = UnitsOfWork(database)
        await ingest(database, organization, event(START, output_tokens=1))

        async def roll_up() -> set[int]:
            await services[RollupWorker].roll_up(organization)
            return await rolled_up_requests(superuser, organization)

        await until(roll_up, lambda found: found == {1})
        await ingest(database, organization, event(START, output_tokens=10))
        # Transaction numbers on the server of the dump are much larger than here.
        await change(superuser, "UPDATE usage_event SET ingest_xid = ingest_xid + 1000000000")
        await change(
            superuser,
            "UPDATE usage_fold SET folded_before = folded_before + 1000000000,"
            " wide_folded_before = wide_folded_before + 1000000000",
        )
        await change(
            superuser,
            "DELETE FROM job_queue WHERE organization_id = :organization",
            organization=organization,
        )

        async with superuser.begin() as connection:
            await connection.execute(sa.text("SELECT reset_usage_watermarks()"))
        await ingest(database, organization, event(START, output_tokens=100))

        assert (await reported_totals(units, organization))[:2] == (3, 111)
        assert await count_queue_items(superuser, organization) == 1
        await until(roll_up, lambda found: found == {3})
        assert (await reported_totals(units, organization))[:2] == (3, 111)

    @pytest.mark.skipif(
        os.environ.get("BYOK_TEST_CELLS") == "citus",
        reason="Citus lets one role use a table in a transaction; test_citus.py resets as byok_owner",
    )
    async def test_works_for_an_owner_bound_by_row_level_security(
        self, database: Database, superuser: AsyncEngine, organization: str
    ) -> None:
        await ingest(database, organization, event(START))
        async with superuser.connect() as connection:
            for statement in (
                "CREATE ROLE plain_owner",
                f"GRANT USAGE ON SCHEMA {schema_of_run()} TO plain_owner",
                *(
                    f"ALTER TABLE {it} OWNER TO plain_owner"
                    for it in ("usage_event", "usage_fold", "job_queue")
                ),
                "ALTER FUNCTION reset_usage_watermarks() OWNER TO plain_owner",
                "SET LOCAL ROLE plain_owner",
            ):
                await connection.execute(sa.text(statement))
            assert (await connection.execute(sa.text("SELECT count(*) FROM usage_event"))).scalar() == 0

            renumbered = (await connection.execute(sa.text("SELECT reset_usage_watermarks()"))).scalar()

            assert renumbered is not None
            assert renumbered > 0
            assert (await connection.execute(sa.text("SELECT count(*) FROM usage_event"))).scalar() == 0
            await connection.rollback()

    async def test_detects_a_missing_reset(
        self, services: Services, database: Database, superuser: AsyncEngine, organization: str
    ) -> None:
        await ingest(database, organization, event(START))
        await services[RollupWorker].roll_up(organization)
        await change(
            superuser,
            "UPDATE usage_fold SET folded_before = 1000000000000 WHERE organization_id = :organization",
            organization=organization,
        )
        await ingest(database, organization, event(START))

        with pytest.raises(WatermarkAhead):
            await services[RollupWorker].roll_up(organization)

        assert await count_queue_items(superuser, organization) == 1

    async def test_is_not_allowed_for_the_service_role(self, database: Database, organization: str) -> None:
        with pytest.raises(Exception, match="permission denied"):
            async with database.session(organization) as session:
                await session.first(Query(sa.text("SELECT reset_usage_watermarks()")))
