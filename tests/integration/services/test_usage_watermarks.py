"""Watermarks after a dump and restore, whose transaction numbers are another server's."""

from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.database.engine import Database, Query
from app.database.unit_of_work import UnitsOfWork
from app.usage_reports.rollup_repository import WatermarkAhead
from app.usage_reports.rollup_worker import RollupWorker
from tests.integration.services.summing import START, in_sums, items, reported
from tests.ledger import event, ingest
from tests.rows import change
from tests.waiting import until


@pytest.fixture
def organization() -> str:
    return f"org_{uuid4().hex}"


class TestRestore:
    async def test_of_a_dump_goes_on_after_the_watermarks_are_reset(
        self, services: Services, database: Database, owner: AsyncEngine, organization: str
    ) -> None:
        units = UnitsOfWork(database)
        await ingest(database, organization, event(START, output_tokens=1))

        async def fold() -> set[int]:
            await services[RollupWorker].fold(organization)
            return await in_sums(owner, organization)

        await until(fold, lambda found: found == {1})
        await ingest(database, organization, event(START, output_tokens=10))
        # On the server of the dump, transactions had far larger numbers than here.
        await change(owner, "UPDATE usage_event SET ingest_xid = ingest_xid + 1000000000")
        await change(owner, "UPDATE usage_fold SET folded_before = folded_before + 1000000000")
        await change(
            owner, "DELETE FROM job_queue WHERE organization_id = :organization", organization=organization
        )

        async with owner.begin() as connection:
            await connection.execute(sa.text("SELECT reset_usage_watermarks()"))
        await ingest(database, organization, event(START, output_tokens=100))

        assert (await reported(units, organization))[:2] == (3, 111)
        assert await items(owner, organization) == 1
        await until(fold, lambda found: found == {3})
        assert (await reported(units, organization))[:2] == (3, 111)

    async def test_lets_an_owner_reset_them_who_is_bound_by_the_policies(
        self, database: Database, owner: AsyncEngine, organization: str
    ) -> None:
        await ingest(database, organization, event(START))
        async with owner.connect() as connection:
            for statement in (
                "CREATE ROLE plain_owner",
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

    async def test_that_was_forgotten_is_noticed(
        self, services: Services, database: Database, owner: AsyncEngine, organization: str
    ) -> None:
        await ingest(database, organization, event(START))
        await services[RollupWorker].fold(organization)
        await change(
            owner,
            "UPDATE usage_fold SET folded_before = 1000000000000 WHERE organization_id = :organization",
            organization=organization,
        )
        await ingest(database, organization, event(START))

        with pytest.raises(WatermarkAhead):
            await services[RollupWorker].fold(organization)

        assert await items(owner, organization) == 1

    async def test_is_not_for_the_service(self, database: Database, organization: str) -> None:
        with pytest.raises(Exception, match="permission denied"):
            async with database.session(organization) as session:
                await session.first(Query(sa.text("SELECT reset_usage_watermarks()")))
