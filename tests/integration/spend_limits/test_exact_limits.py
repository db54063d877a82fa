"""Limits are exact under concurrency: many workers in two processes, and a trigger that detects any excess.

BYOK_TEST_RESERVATIONS sets the number of reservations; the full test uses 10000.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.principal import Caller
from app.core.clock import new_id
from app.core.money import PICO_PER_USD
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.spend_limits.limits import Enforcement, LimitMode, LimitPeriod, LimitScope, LimitState, LimitTerms
from tests.support.database.limit_watch import CAN_WATCH, watched
from tests.support.database.own_database import DatabaseRoles
from tests.support.database.rows import fetch
from tests.support.database.spending_ledger import ingest, limit_service, make_row
from tests.support.processes.reservations import FEATURES, Workload, run_in_subprocess
from tests.support.tenant import Tenant

PROCESSES, WORKERS = 2, 16
# Rounded up, so that each worker makes the same number of reservations.
_EACH = -(-int(os.environ.get("BYOK_TEST_RESERVATIONS", "960")) // (PROCESSES * WORKERS))
RESERVATIONS = _EACH * PROCESSES * WORKERS
CENT = PICO_PER_USD // 100


class LimitedOrganization:
    """An organization with five limits."""

    def __init__(self, database: Database, organization: str) -> None:
        self._database = database
        self.id = organization
        self.limits = limit_service(UnitsOfWork(database))

    async def create_limits(self, amounts: dict[str | None, int]) -> None:
        caller = Caller(subject="admin", organization_id=self.id, request_id="")
        for period in (LimitPeriod.TOTAL, LimitPeriod.MONTH):
            for feature, amount in amounts.items():
                if feature is not None and period is LimitPeriod.MONTH:
                    continue
                terms = LimitTerms(
                    name=f"{feature} {period}",
                    amount=amount,
                    period=period,
                    scope=LimitScope(mode=LimitMode.ANY, feature=feature),
                    enforcement=Enforcement.BLOCK,
                    thresholds=(50, 100),
                )
                await self.limits.create(caller, terms, limit_id=new_id())

    async def states(self) -> dict[str, LimitState]:
        found = await self.limits.page(self.id, at_most=10, before=None)
        return {state.limit.terms.name: state for state in found}

    async def reserve(
        self, roles: DatabaseRoles, *, amounts: list[int], ends_reservations: bool
    ) -> dict[str, Any]:
        """Run all workers of all processes; returns the sums of their counts."""
        workload = [
            Workload(
                url=roles.service.render_as_string(hide_password=False),
                organization=self.id,
                workers=WORKERS,
                reservations=RESERVATIONS // PROCESSES,
                amounts=amounts,
                ends_reservations=ends_reservations,
                seed=seed,
            )
            for seed in range(PROCESSES)
        ]
        totals = await asyncio.gather(*map(run_in_subprocess, workload))
        return {key: sum(one.get(key, 0) for one in totals) for key in ("granted", "rejected", "amount")}


@pytest.fixture
async def organization(
    database: Database, superuser: AsyncEngine, tenant: Tenant
) -> AsyncIterator[LimitedOrganization]:
    name = tenant.organization
    async with watched(superuser, name):
        yield LimitedOrganization(database, name)


@pytest.mark.skipif(not CAN_WATCH, reason="Citus has no triggers on distributed tables")
async def test_the_trigger_detects_an_exceeded_limit(
    organization: LimitedOrganization, database: Database
) -> None:
    await organization.create_limits(dict.fromkeys([None, *FEATURES], CENT))

    with pytest.raises(Exception, match="a limit was exceeded"):
        await ingest(database, organization.id, make_row(2 * CENT))


class TestReserve:
    async def test_grants_exactly_the_amount(
        self, organization: LimitedOrganization, database_roles: DatabaseRoles
    ) -> None:
        """One feature's limit is larger than the demand, two are smaller, and so are the limits on everything."""
        unit = RESERVATIONS // 12
        amounts: dict[str | None, int] = {None: 5 * unit * CENT}
        amounts |= dict(zip(FEATURES, (unit * CENT, 3 * unit * CENT, 100 * unit * CENT), strict=True))
        await organization.create_limits(amounts)

        totals = await organization.reserve(database_roles, amounts=[CENT], ends_reservations=False)

        states = await organization.states()
        assert len(states) == 5
        assert totals["granted"] + totals["rejected"] == RESERVATIONS
        assert totals["granted"] == 5 * unit
        for state in states.values():
            assert state.spend.settled + state.spend.reserved <= state.limit.terms.amount
        assert states["None total"].remaining == states["None month"].remaining == 0
        assert sum(states[f"{feature} total"].spend.reserved for feature in FEATURES) == totals["amount"]

    async def test_never_exceeds_a_limit_while_reservations_end(
        self, organization: LimitedOrganization, superuser: AsyncEngine, database_roles: DatabaseRoles
    ) -> None:
        amounts: dict[str | None, int] = {None: RESERVATIONS * CENT // 4}
        amounts |= dict.fromkeys(FEATURES, RESERVATIONS * CENT // 10)
        await organization.create_limits(amounts)

        totals = await organization.reserve(
            database_roles, amounts=[CENT // 3, CENT, 3 * CENT], ends_reservations=True
        )

        assert totals["granted"] > 0
        assert totals["rejected"] > 0
        for name, state in (await organization.states()).items():
            feature = state.limit.terms.scope.feature
            (open_reservations,) = await fetch(
                superuser,
                "SELECT coalesce(sum(amount), 0) AS reserved FROM spend_reservation WHERE state = 'open'"
                " AND organization_id = :organization AND (feature = :feature OR CAST(:feature AS text) IS NULL)",
                organization=organization.id,
                feature=feature,
            )
            (ledger,) = await fetch(
                superuser,
                "SELECT coalesce(sum(billed), 0) AS spent FROM usage_event"
                " WHERE organization_id = :organization AND (feature = :feature OR CAST(:feature AS text) IS NULL)",
                organization=organization.id,
                feature=feature,
            )
            assert (state.spend.reserved, state.spend.settled) == (
                open_reservations["reserved"],
                ledger["spent"],
            ), name
            assert state.overrun == 0


class TestUnreservedEvents:
    async def test_are_accepted_and_shown_as_overrun(self, database: Database, tenant: Tenant) -> None:
        organization = LimitedOrganization(database, tenant.organization)
        await organization.create_limits(dict.fromkeys([None, *FEATURES], 10 * CENT))

        batches = [
            ingest(database, tenant.organization, *(make_row(CENT, feature=feature) for feature in FEATURES))
            for _ in range(8)
        ]
        await asyncio.gather(*batches)

        states = await organization.states()
        assert {name: state.overrun for name, state in states.items()} == {
            "None total": 14 * CENT,
            "None month": 14 * CENT,
            **{f"{feature} total": 0 for feature in FEATURES},
        }
        assert [c.threshold for c in states["None total"].crossings] == [50, 100]


class TestCreateLimit:
    async def test_counts_events_ingested_meanwhile(
        self, database: Database, superuser: AsyncEngine, tenant: Tenant
    ) -> None:
        """Limits are created during ingestion. Each counts every row, whether it came before or after."""
        organization = LimitedOrganization(database, tenant.organization)

        async def batches() -> None:
            for _ in range(12):
                await ingest(database, tenant.organization, *(make_row(CENT) for _ in range(3)))

        async def limits() -> None:
            for _ in range(3):
                await organization.create_limits({None: PICO_PER_USD})

        await asyncio.gather(batches(), limits(), batches())

        found = await fetch(
            superuser,
            "SELECT settled_managed FROM spend_counter WHERE organization_id = :organization",
            organization=tenant.organization,
        )
        assert len(found) == 6
        assert {int(row["settled_managed"]) for row in found} == {72 * CENT}
