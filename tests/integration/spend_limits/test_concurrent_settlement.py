"""Ledger rows of two transactions name the same reservation: the second one waits, and continues from what the first wrote."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.clock import new_id
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.spend_limits.reservation_repository import ReservationRepository, SettledReservations
from tests.support.database.rows import change, fetch
from tests.support.polling import until
from tests.support.tenant import Tenant

# The coordinator of a cluster does not show the locks of its workers.
_ON_CITUS = os.environ.get("BYOK_TEST_CELLS") == "citus"
_WAITING = "SELECT 1 FROM citus_lock_waits" if _ON_CITUS else "SELECT 1 FROM pg_locks WHERE NOT granted"


@pytest.fixture
async def reservations(superuser: AsyncEngine, tenant: Tenant) -> list[UUID]:
    """Open ones."""
    found = [new_id() for _ in range(3)]
    for reservation_id in found:
        await change(
            superuser,
            "INSERT INTO spend_reservation (organization_id, id, amount, mode, state, created_at, created_by, expires_at,"
            " unpriced_rows) VALUES (:organization, :id, 1, 'byo', 'open', now(), 'service', now(), 0)",
            organization=tenant.organization,
            id=reservation_id,
        )
    return found


@asynccontextmanager
async def settling(
    database: Database, tenant: Tenant, unpriced: dict[UUID, int], *, has_few_rows: bool | None
) -> AsyncIterator[SettledReservations]:
    """Settle, and commit at the end of the block."""
    units = UnitsOfWork(database)
    async with units.writing_with_shared_lock(tenant.organization, has_few_rows=has_few_rows) as uow:
        yield await uow[ReservationRepository].settle(unpriced)
        await uow.commit()


async def _rows(superuser: AsyncEngine, tenant: Tenant) -> set[tuple[str, int, bool]]:
    found = await fetch(
        superuser,
        "SELECT state, unpriced_rows, ended_at IS NOT NULL AS has_ended FROM spend_reservation"
        " WHERE organization_id = :organization",
        organization=tenant.organization,
    )
    return {(row["state"], row["unpriced_rows"], row["has_ended"]) for row in found}


@pytest.mark.parametrize("has_few_rows", [True, False, None])
class TestSecondSettlement:
    async def _settle_twice(
        self,
        database: Database,
        superuser: AsyncEngine,
        tenant: Tenant,
        first: dict[UUID, int],
        second: dict[UUID, int],
        *,
        has_few_rows: bool | None,
    ) -> tuple[SettledReservations, SettledReservations]:
        """The second one begins while the first one is open, and ends after it."""

        async def settle_second() -> SettledReservations:
            async with settling(database, tenant, second, has_few_rows=has_few_rows) as settled:
                return settled
            raise AssertionError

        async def waiting() -> bool:
            return bool(await fetch(superuser, _WAITING))

        async with settling(database, tenant, first, has_few_rows=has_few_rows) as settled:
            other = asyncio.create_task(settle_second())
            await until(waiting, bool)
        return settled, await other

    async def test_ends_none_again(
        self,
        database: Database,
        superuser: AsyncEngine,
        tenant: Tenant,
        reservations: list[UUID],
        has_few_rows: bool | None,
    ) -> None:
        rows = dict.fromkeys(reservations, 0)

        first, second = await self._settle_twice(
            database, superuser, tenant, rows, rows, has_few_rows=has_few_rows
        )

        assert {it.id for it in first.ended} == set(reservations)
        assert (list(second.ended), list(second.charged_again)) == ([], [])
        assert await _rows(superuser, tenant) == {("settled", 0, True)}

    async def test_adds_its_rows_without_a_price(
        self,
        database: Database,
        superuser: AsyncEngine,
        tenant: Tenant,
        reservations: list[UUID],
        has_few_rows: bool | None,
    ) -> None:
        rows = dict.fromkeys(reservations, 1)

        first, second = await self._settle_twice(
            database, superuser, tenant, rows, rows, has_few_rows=has_few_rows
        )

        assert [*first.ended, *second.ended, *first.charged_again, *second.charged_again] == []
        assert await _rows(superuser, tenant) == {("unpriced", 2, False)}

    async def test_charges_what_the_first_one_ended(
        self,
        database: Database,
        superuser: AsyncEngine,
        tenant: Tenant,
        reservations: list[UUID],
        has_few_rows: bool | None,
    ) -> None:
        first, second = await self._settle_twice(
            database,
            superuser,
            tenant,
            dict.fromkeys(reservations, 0),
            dict.fromkeys(reservations, 1),
            has_few_rows=has_few_rows,
        )

        assert {it.id for it in first.ended} == set(reservations)
        assert {it.id for it in second.charged_again} == set(reservations)
        assert await _rows(superuser, tenant) == {("unpriced", 1, False)}
