"""Limits hold exactly: many workers in two processes, and a trigger that sees a moment's excess.

BYOK_TEST_RESERVATIONS sets how many reservations are tried; 10000 is the full proof.
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
from tests.conftest import Tenant
from tests.integration.services.reserving import FEATURES, Orders, run_apart
from tests.rows import change, fetch
from tests.spend_ledger import ingest, limits_over, make_row

PROCESSES, WORKERS = 2, 16
# As many as asked for or a few more: each worker tries the same number.
_EACH = -(-int(os.environ.get("BYOK_TEST_RESERVATIONS", "960")) // (PROCESSES * WORKERS))
RESERVATIONS = _EACH * PROCESSES * WORKERS
CENT = PICO_PER_USD // 100

# Every state that a counter passes through is seen, also those that no reader's snapshot would show.
_WATCH = """
    CREATE FUNCTION watch_{0}() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.reserved < 0 OR NEW.settled_managed + NEW.settled_byo + NEW.reserved > (
            SELECT CASE enforcement WHEN 'block' THEN amount ELSE 'Infinity'::numeric END
            FROM spend_limit WHERE organization_id = NEW.organization_id AND id = NEW.limit_id)
        THEN RAISE EXCEPTION 'a limit was exceeded'; END IF;
        RETURN NEW;
    END $$
"""
_TRIGGER = """
    CREATE TRIGGER watch_{0} AFTER INSERT OR UPDATE ON spend_counter
    FOR EACH ROW WHEN (NEW.organization_id = '{0}') EXECUTE FUNCTION watch_{0}()
"""


class Spenders:
    """An organization with five limits."""

    def __init__(self, database: Database, organization: str) -> None:
        self._database = database
        self.organization = organization
        self.limits = limits_over(UnitsOfWork(database))

    async def set_limits(self, amounts: dict[str | None, int]) -> None:
        caller = Caller(subject="admin", organization_id=self.organization, request_id="")
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
                await self.limits.set(caller, terms, limit_id=new_id())

    async def states(self) -> dict[str, LimitState]:
        found = await self.limits.page(self.organization, at_most=10, before=None)
        return {state.limit.terms.name: state for state in found}

    async def reserve(self, owner: AsyncEngine, *, amounts: list[int], settles: bool) -> dict[str, Any]:
        """All workers of all processes; what they did, together."""
        orders = [
            Orders(
                url=owner.url.render_as_string(hide_password=False),
                organization=self.organization,
                workers=WORKERS,
                reservations=RESERVATIONS // PROCESSES,
                amounts=amounts,
                settles=settles,
                seed=seed,
            )
            for seed in range(PROCESSES)
        ]
        did = await asyncio.gather(*map(run_apart, orders))
        return {key: sum(one.get(key, 0) for one in did) for key in ("granted", "refused", "amount")}


@pytest.fixture
async def spenders(database: Database, owner: AsyncEngine, tenant: Tenant) -> AsyncIterator[Spenders]:
    name = tenant.organization
    await change(owner, _WATCH.format(name))
    await change(owner, _TRIGGER.format(name))
    yield Spenders(database, name)
    await change(owner, f"DROP FUNCTION watch_{name} CASCADE")


async def test_the_trigger_sees_an_excess(spenders: Spenders, database: Database) -> None:
    await spenders.set_limits(dict.fromkeys([None, *FEATURES], CENT))

    with pytest.raises(Exception, match="a limit was exceeded"):
        await ingest(database, spenders.organization, make_row(2 * CENT))


class TestGuard:
    async def test_grants_exactly_what_there_is(self, spenders: Spenders, owner: AsyncEngine) -> None:
        """One feature has more room than is asked for, two have less; the whole has less than all."""
        share = RESERVATIONS // 12
        amounts: dict[str | None, int] = {None: 5 * share * CENT}
        amounts |= dict(zip(FEATURES, (share * CENT, 3 * share * CENT, 100 * share * CENT), strict=True))
        await spenders.set_limits(amounts)

        did = await spenders.reserve(owner, amounts=[CENT], settles=False)

        states = await spenders.states()
        assert len(states) == 5
        assert did["granted"] + did["refused"] == RESERVATIONS
        assert did["granted"] == 5 * share
        for state in states.values():
            assert state.spend.settled + state.spend.reserved <= state.limit.terms.amount
        assert states["None total"].remaining == states["None month"].remaining == 0
        assert sum(states[f"{feature} total"].spend.reserved for feature in FEATURES) == did["amount"]

    async def test_is_never_passed_while_some_are_released_and_some_settled(
        self, spenders: Spenders, owner: AsyncEngine
    ) -> None:
        amounts: dict[str | None, int] = {None: RESERVATIONS * CENT // 4}
        amounts |= dict.fromkeys(FEATURES, RESERVATIONS * CENT // 10)
        await spenders.set_limits(amounts)

        did = await spenders.reserve(owner, amounts=[CENT // 3, CENT, 3 * CENT], settles=True)

        assert did["granted"] > 0
        assert did["refused"] > 0
        for name, state in (await spenders.states()).items():
            feature = state.limit.terms.scope.feature
            (held,) = await fetch(
                owner,
                "SELECT coalesce(sum(amount), 0) AS held FROM spend_reservation WHERE state = 'open'"
                " AND organization_id = :organization AND (feature = :feature OR CAST(:feature AS text) IS NULL)",
                organization=spenders.organization,
                feature=feature,
            )
            (ledger,) = await fetch(
                owner,
                "SELECT coalesce(sum(billed), 0) AS spent FROM usage_event"
                " WHERE organization_id = :organization AND (feature = :feature OR CAST(:feature AS text) IS NULL)",
                organization=spenders.organization,
                feature=feature,
            )
            assert (state.spend.reserved, state.spend.settled) == (held["held"], ledger["spent"]), name
            assert state.overrun == 0


class TestUnreservedEvents:
    async def test_are_taken_and_shown_as_overrun(self, database: Database, tenant: Tenant) -> None:
        spenders = Spenders(database, tenant.organization)
        await spenders.set_limits(dict.fromkeys([None, *FEATURES], 10 * CENT))

        batches = [
            ingest(database, tenant.organization, *(make_row(CENT, feature=feature) for feature in FEATURES))
            for _ in range(8)
        ]
        await asyncio.gather(*batches)

        states = await spenders.states()
        assert {name: state.overrun for name, state in states.items()} == {
            "None total": 14 * CENT,
            "None month": 14 * CENT,
            **{f"{feature} total": 0 for feature in FEATURES},
        }
        assert [c.threshold for c in states["None total"].crossings] == [50, 100]


class TestNewLimit:
    async def test_misses_nothing_that_is_ingested_meanwhile(
        self, database: Database, owner: AsyncEngine, tenant: Tenant
    ) -> None:
        """Limits are set while batches come in: each has counted every row, whichever came first."""
        spenders = Spenders(database, tenant.organization)

        async def batches() -> None:
            for _ in range(12):
                await ingest(database, tenant.organization, *(make_row(CENT) for _ in range(3)))

        async def limits() -> None:
            for _ in range(3):
                await spenders.set_limits({None: PICO_PER_USD})

        await asyncio.gather(batches(), limits(), batches())

        found = await fetch(
            owner,
            "SELECT settled_managed FROM spend_counter WHERE organization_id = :organization",
            organization=tenant.organization,
        )
        assert len(found) == 6
        assert {int(row["settled_managed"]) for row in found} == {72 * CENT}
