"""A limit that is created later counts the same spend as one from the beginning, wherever the rollup watermark is."""

from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.principal import Caller
from app.core.clock import new_id
from app.core.money import PICO_PER_USD
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.spend_limits.limits import Enforcement, LimitMode, LimitPeriod, LimitScope, LimitTerms
from app.usage_events.records import LedgerRow, TokenUsage
from app.usage_mode.modes import UsageMode
from app.usage_reports.rollup_worker import RollupWorker
from tests.support.database.rows import fetch
from tests.support.database.spending_ledger import ingest, limit_service, make_row
from tests.support.tenant import Tenant

SCOPES = (
    LimitScope(mode=LimitMode.ANY),
    LimitScope(),
    LimitScope(mode=LimitMode.BYO),
    LimitScope(mode=LimitMode.ANY, model="claude-opus-4-5"),
    LimitScope(mode=LimitMode.ANY, endpoint_id="chat"),
    LimitScope(feature="search"),
    LimitScope(mode=LimitMode.ANY, model="claude-opus-4-5", endpoint_id="chat", feature="search"),
)
LIMITS = [(period, scope) for period in LimitPeriod for scope in SCOPES]


class Scenario:
    """One organization, with limits created before its first event and limits created later."""

    def __init__(self, database: Database, superuser: AsyncEngine, organization: str, seed: int) -> None:
        self._database, self._superuser, self._organization = database, superuser, organization
        self._units = UnitsOfWork(database)
        self._limits, self._rollup_worker = limit_service(self._units), RollupWorker(self._units)
        self._random = Random(seed)
        self._unpriced: list[LedgerRow] = []

    async def create_limits(self, name: str) -> None:
        caller = Caller(subject="admin", organization_id=self._organization, request_id="")
        for period, scope in LIMITS:
            terms = LimitTerms(
                name=name,
                amount=PICO_PER_USD,
                period=period,
                scope=scope,
                enforcement=Enforcement.NOTIFY,
                thresholds=(),
            )
            await self._limits.create(caller, terms, limit_id=new_id())

    async def add_usage(self) -> None:
        rows = [self._row() for _ in range(self._random.randint(1, 8))]
        await ingest(self._database, self._organization, *rows)
        self._unpriced += [row for row in rows if row.cost is None]

    async def add_correction(self) -> None:
        """Add a price to an event without one."""
        if self._unpriced:
            event = self._unpriced.pop()
            cost = self._random.randrange(PICO_PER_USD)
            billed = cost if event.mode is UsageMode.MANAGED else 0
            correction = replace(event, correction=1, cost=cost, billed=billed, tokens=TokenUsage())
            await ingest(self._database, self._organization, correction)

    async def roll_up(self) -> None:
        await self._rollup_worker.roll_up(self._organization)

    async def assert_recounted_equal(self) -> None:
        """Create limits, compare their counters, and delete them, because at most 100 limits may exist."""
        await self.create_limits("late")
        incremental, recounted = [await self._counters(name) for name in ("early", "late")]
        assert recounted == incremental
        caller = Caller(subject="admin", organization_id=self._organization, request_id="")
        for state in await self._limits.page(self._organization, at_most=100, before=None):
            if state.limit.terms.name == "late":
                await self._limits.delete(caller, state.limit.id)

    async def random_step(self) -> None:
        await self._random.choices((self.add_usage, self.add_correction, self.roll_up), weights=(5, 2, 2))[
            0
        ]()

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
        """The counters of each scope and period, without those that are 0."""
        return await fetch(
            self._superuser,
            "SELECT l.period, l.scope_mode, l.scope_model, l.scope_endpoint_id, l.scope_feature,"
            " c.period_starts_at, c.settled_managed, c.settled_byo, c.reserved, c.unpriced"
            " FROM spend_limit l JOIN spend_counter c ON c.organization_id = l.organization_id"
            " AND c.limit_id = l.id WHERE l.organization_id = :organization AND l.name = :name"
            " AND (c.settled_managed, c.settled_byo, c.unpriced) <> (0, 0, 0) ORDER BY 1, 2, 3, 4, 5, 6",
            organization=self._organization,
            name=name,
        )


@pytest.mark.parametrize("seed", range(3))
async def test_a_limit_created_later_counts_the_same_spend(
    database: Database, superuser: AsyncEngine, tenant: Tenant, seed: int
) -> None:
    scenario = Scenario(database, superuser, tenant.organization, seed)
    await scenario.create_limits("early")

    for step in range(30):
        await scenario.random_step()
        if step % 6 == 0:
            await scenario.assert_recounted_equal()

    await scenario.assert_recounted_equal()
    await scenario.roll_up()
    await scenario.assert_recounted_equal()
