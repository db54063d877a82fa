"""A statement is computed from one snapshot, even if data changes while it is read."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.billing.repository import StatementRepository
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from tests.support.database.billed_ledger import PICO, insert_rows, months_ago, row, within
from tests.support.requests.statements import billing_service_of, close_statement, subscribe
from tests.support.steps import finished
from tests.support.tenant import MakeToken, Tenant


@pytest.fixture
def service(tenant: Tenant, make_token: MakeToken) -> Tenant:
    return billing_service_of(tenant, make_token)


class TestSnapshot:
    async def test_excludes_changes_committed_after_the_first_read(
        self, service: Tenant, superuser: AsyncEngine, database: Database
    ) -> None:
        month = months_ago(1)
        await insert_rows(superuser, row(service.organization, within(month), cost=PICO))

        async with UnitsOfWork(database).reading_snapshot(service.organization) as uow:
            before = await uow[StatementRepository].closed()
            await subscribe(service)
            await close_statement(service, months_ago(2))
            await insert_rows(
                superuser,
                row(service.organization, within(month), cost=PICO),
                row(service.organization, within(months_ago(2)), cost=PICO),
            )
            inputs = await uow[StatementRepository].inputs([month], before)

        statement = finished(inputs.statement_of(month))
        assert [line.exact for line in statement.lines] == [PICO]
