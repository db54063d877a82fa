"""A limit that is set late has counted what one that was there from the beginning has, wherever folding is."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.principal import Caller
from app.core.clock import new_id
from app.core.money import PICO_PER_USD
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.spend_limits.limits import Enforcement, LimitMode, LimitPeriod, LimitScope, LimitTerms
from app.usage.records import LedgerRow, TokenUsage
from app.usage_mode.modes import UsageMode
from app.usage_reports.rollup_worker import RollupWorker
from tests.conftest import Tenant
from tests.rows import fetch
from tests.spend_ledger import ingest, limits_over, make_row

SCOPES = (
    LimitScope(mode=LimitMode.ANY),
    LimitScope(),
    LimitScope(mode=LimitMode.BYO),
    LimitScope(mode=LimitMode.ANY, model="claude-opus-4-5"),
    LimitScope(mode=LimitMode.ANY, endpoint_id="chat"),
    LimitScope(feature="search"),
    LimitScope(mode=LimitMode.ANY, model="claude-opus-4-5", endpoint_id="chat", feature="search"),
)
WANTED = [(period, scope) for period in LimitPeriod for scope in SCOPES]


class Budget:
    """One organization's limits, set twice: before its first event, and again and again."""

    def __init__(self, database: Database, owner: AsyncEngine, organization: str, seed: int) -> None:
        self._database, self._owner, self._organization = database, owner, organization
        self._units = UnitsOfWork(database)
        self._limits, self._folding = limits_over(self._units), RollupWorker(self._units)
        self._random = Random(seed)
        self._unpriced: list[LedgerRow] = []

    async def set_limits(self, name: str) -> None:
        caller = Caller(subject="admin", organization_id=self._organization, request_id="")
        for period, scope in WANTED:
            terms = LimitTerms(
                name=name,
                amount=PICO_PER_USD,
                period=period,
                scope=scope,
                enforcement=Enforcement.NOTIFY,
                thresholds=(),
            )
            await self._limits.set(caller, terms, limit_id=new_id())

    async def use(self) -> None:
        rows = [self._row() for _ in range(self._random.randint(1, 8))]
        await ingest(self._database, self._organization, *rows)
        self._unpriced += [row for row in rows if row.cost is None]

    async def price(self) -> None:
        """A price becomes known."""
        if self._unpriced:
            event = self._unpriced.pop()
            cost = self._random.randrange(PICO_PER_USD)
            billed = cost if event.mode is UsageMode.MANAGED else 0
            correction = replace(event, correction=1, cost=cost, billed=billed, tokens=TokenUsage())
            await ingest(self._database, self._organization, correction)

    async def fold(self) -> None:
        await self._folding.fold(self._organization)

    async def check(self) -> None:
        """The late ones come and go: there may be no more than a hundred limits."""
        await self.set_limits("late")
        followed, late = [await self._counters(name) for name in ("early", "late")]
        assert late == followed
        caller = Caller(subject="admin", organization_id=self._organization, request_id="")
        for state in await self._limits.page(self._organization, at_most=100, before=None):
            if state.limit.terms.name == "late":
                await self._limits.delete(caller, state.limit.id)

    async def go_on(self) -> None:
        await self._random.choices((self.use, self.price, self.fold), weights=(5, 2, 2))[0]()

    def _row(self) -> LedgerRow:
        pick = self._random.choice
        return make_row(
            pick((None, 0, self._random.randrange(PICO_PER_USD))),
            mode=pick(list(UsageMode)),
            model=pick(("claude-opus-4-5", "claude-haiku-4-5")),
            endpoint_id=pick((None, "chat", "batch")),
            feature=pick((None, "search")),
            started_at=datetime.now(UTC) - timedelta(days=self._random.random() * 33),
        )

    async def _counters(self, name: str) -> list[dict[str, Any]]:
        """Of each scope and period; those that count nothing need not be there."""
        return await fetch(
            self._owner,
            "SELECT l.period, l.scope_mode, l.scope_model, l.scope_endpoint_id, l.scope_feature,"
            " c.period_starts_at, c.settled_managed, c.settled_byo, c.reserved, c.unpriced"
            " FROM spend_limit l JOIN spend_counter c ON c.organization_id = l.organization_id"
            " AND c.limit_id = l.id WHERE l.organization_id = :organization AND l.name = :name"
            " AND (c.settled_managed, c.settled_byo, c.unpriced) <> (0, 0, 0) ORDER BY 1, 2, 3, 4, 5, 6",
            organization=self._organization,
            name=name,
        )


@pytest.mark.parametrize("seed", range(3))
async def test_a_late_limit_counts_what_an_early_one_did(
    database: Database, owner: AsyncEngine, tenant: Tenant, seed: int
) -> None:
    budget = Budget(database, owner, tenant.organization, seed)
    await budget.set_limits("early")

    for step in range(30):
        await budget.go_on()
        if step % 6 == 0:
            await budget.check()

    await budget.check()
    await budget.fold()
    await budget.check()
