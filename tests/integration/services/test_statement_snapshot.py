"""A statement is read as of one instant, however much happens while it is read."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.billing.repository import StatementRepository
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from tests.api.statements import closed, service_of, subscribe
from tests.billed_ledger import PICO, add, month_ago, row, within
from tests.conftest import MakeToken, Tenant


@pytest.fixture
def service(tenant: Tenant, make_token: MakeToken) -> Tenant:
    return service_of(tenant, make_token)


class TestSnapshot:
    async def test_does_not_see_what_is_committed_after_its_first_look(
        self, service: Tenant, owner: AsyncEngine, database: Database
    ) -> None:
        month = month_ago(1)
        await add(owner, row(service.organization, within(month), cost=PICO))

        async with UnitsOfWork(database).reading(service.organization) as uow:
            await uow[StatementRepository].take_snapshot()
            before = await uow[StatementRepository].closed()
            await subscribe(service)
            await closed(service, month_ago(2))
            await add(
                owner,
                row(service.organization, within(month), cost=PICO),
                row(service.organization, within(month_ago(2)), cost=PICO),
            )
            books = await uow[StatementRepository].books([month], before)

        statement = books.statement_of(month)
        assert [line.exact for line in statement.lines] == [PICO]
