"""Spend limits and their counters, exact under concurrency.

A transaction that changes counters holds the organization's ledger lock shared. One that changes limits holds it
exclusively, so limits do not change while counters do. Every transaction locks counters in the order of limit and
period, so that transactions do not deadlock.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.core.visible_text import spellings
from app.database.repository import Repository
from app.database.statements import Query, Row
from app.spend_limits.counter_queries import (
    ADD,
    ADD_ONE,
    DELETE_COUNTERS,
    DELETE_CROSSINGS,
    RECOUNT,
    RECOUNT_DETAIL,
    STATES,
)
from app.spend_limits.limits import (
    CounterIncrement,
    Crossing,
    Enforcement,
    LimitMode,
    LimitPeriod,
    LimitScope,
    LimitState,
    LimitTerms,
    Spend,
    SpendLimit,
)
from app.spend_limits.tables import spend_alert as a
from app.spend_limits.tables import spend_limit as t

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_OF_LIMIT = sa.and_(t.c.organization_id == _ORGANIZATION, t.c.id == sa.bindparam("id_", type_=t.c.id.type))
_TERMS = (
    "name",
    "amount",
    "period",
    "scope_mode",
    "scope_model",
    "scope_endpoint_id",
    "scope_feature",
    "enforcement",
    "thresholds",
    "counts_from",
)
_INSERT = Query(
    sa.insert(t).values({column.name: sa.bindparam(column.name, type_=column.type) for column in t.columns})
)
_UPDATE = Query(
    sa.update(t)
    .where(_OF_LIMIT)
    .values({name: sa.bindparam(name, type_=t.c[name].type) for name in (*_TERMS, "revision", "updated_at")})
)
_DELETE = Query(sa.delete(t).where(_OF_LIMIT))
ALL_LIMITS = Query(sa.select(t).where(t.c.organization_id == _ORGANIZATION).order_by(t.c.id))
_RECORD_CROSSING = Query(
    insert(a)
    .values({column.name: sa.bindparam(column.name, type_=column.type) for column in a.columns})
    .on_conflict_do_nothing()
)
_CROSSINGS = Query(
    sa.select(a.c.limit_id, a.c.period_starts_at, a.c.threshold, a.c.crossed_at, a.c.spent, a.c.amount)
    .where(
        a.c.organization_id == _ORGANIZATION,
        a.c.limit_id == sa.any_(sa.bindparam("limit_ids", type_=sa.ARRAY(a.c.limit_id.type))),
        a.c.period_starts_at == sa.any_(sa.bindparam("periods", type_=sa.ARRAY(a.c.period_starts_at.type))),
    )
    .order_by(a.c.threshold)
)
_CLOCK = Query(sa.select(sa.func.clock_timestamp().label("now")))
# On Citus, a statement for each of these costs less than the temporary file and the two-phase commit of one for all.
_FEW = 4


class LimitRepository(Repository):
    """The spend limits of one organization."""

    async def clock(self) -> datetime:
        """The time by the database's clock."""
        row = await self._session.one(_CLOCK)
        now: datetime = row["now"]
        return now

    async def all(self) -> Sequence[SpendLimit]:
        """All limits, in the order in which counters are locked."""
        found = await self._session.rows(ALL_LIMITS, organization_id=self._organization_id)
        return [limit_of(row) for row in found]

    async def insert(self, limit: SpendLimit) -> None:
        await self._session.execute(
            _INSERT,
            organization_id=self._organization_id,
            id=limit.id,
            created_at=limit.created_at,
            created_by=limit.created_by,
            **_values(limit),
        )

    async def update(self, limit: SpendLimit) -> None:
        await self._session.execute(
            _UPDATE, organization_id=self._organization_id, id_=limit.id, **_values(limit)
        )

    async def delete(self, limit_id: UUID) -> bool:
        """Delete a limit with its counters and recorded crossings; returns whether it existed."""
        return bool(await self._session.execute(_DELETE, organization_id=self._organization_id, id_=limit_id))

    async def recount(self, limit: SpendLimit) -> None:
        """Replace the limit's counters by what the ledger and the open reservations add up to.

        Hold the ledger lock exclusively, so that no event or reservation is counted twice or missed.
        """
        scope = limit.terms.scope
        has_detail = scope.endpoint_id is not None or scope.feature is not None
        key = {"organization_id": self._organization_id, "limit_id": limit.id}
        await self._session.execute(DELETE_COUNTERS, **key)
        await self._session.execute(
            RECOUNT_DETAIL if has_detail else RECOUNT,
            period=limit.terms.period,
            counts_from=limit.counts_from,
            mode=scope.mode,
            model=scope.model,
            endpoint_ids=_spellings(scope.endpoint_id),
            features=_spellings(scope.feature),
            **key,
        )

    async def delete_crossings(self, limit_id: UUID) -> None:
        """Delete the record of crossed thresholds, so that each may be reported again."""
        await self._session.execute(
            DELETE_CROSSINGS, organization_id=self._organization_id, limit_id=limit_id
        )

    async def add(self, increments: Sequence[CounterIncrement]) -> Sequence[CounterIncrement]:
        """Add to the counters, at most one increment for each limit and period; returns their new values."""
        if not increments:
            return []
        if self._session.is_on_citus and len(increments) <= _FEW:
            return [await self._add_one(it) for it in sorted(increments, key=_in_lock_order)]
        found = await self._session.rows(
            ADD,
            organization_id=self._organization_id,
            limit_ids=[increment.limit_id for increment in increments],
            periods=[increment.period_starts_at for increment in increments],
            managed=[increment.spend.managed for increment in increments],
            byo=[increment.spend.byo for increment in increments],
            reserved=[increment.spend.reserved for increment in increments],
            unpriced=[increment.spend.unpriced for increment in increments],
        )
        return [_increment(row) for row in found]

    async def _add_one(self, increment: CounterIncrement) -> CounterIncrement:
        row = await self._session.one(
            ADD_ONE,
            organization_id=self._organization_id,
            limit_id=increment.limit_id,
            period=increment.period_starts_at,
            managed=increment.spend.managed,
            byo=increment.spend.byo,
            reserved=increment.spend.reserved,
            unpriced=increment.spend.unpriced,
        )
        return _increment(row)

    async def record_crossing(self, limit_id: UUID, period_starts_at: datetime, crossing: Crossing) -> bool:
        """Record that a threshold was crossed; False if that was recorded before."""
        return bool(
            await self._session.execute(
                _RECORD_CROSSING,
                organization_id=self._organization_id,
                limit_id=limit_id,
                period_starts_at=period_starts_at,
                threshold=crossing.threshold,
                crossed_at=crossing.crossed_at,
                spent=crossing.spent,
                amount=crossing.amount,
            )
        )

    async def states(
        self, *, limit_id: UUID | None = None, at_most: int, before: UUID | None = None
    ) -> Sequence[LimitState]:
        """Limits with what they have counted in the current period, newest first."""
        found = await self._session.rows(
            STATES,
            organization_id=self._organization_id,
            limit_id=limit_id,
            at_most=at_most,
            before=before,
        )
        crossings = await self._session.rows(
            _CROSSINGS,
            organization_id=self._organization_id,
            limit_ids=[row["id"] for row in found],
            periods=list({row["current_period"] for row in found}),
        )
        by_limit: dict[tuple[UUID, datetime], list[Crossing]] = {}
        for row in crossings:
            by_limit.setdefault((row["limit_id"], row["period_starts_at"]), []).append(
                Crossing(
                    threshold=row["threshold"],
                    crossed_at=row["crossed_at"],
                    spent=int(row["spent"]),
                    amount=row["amount"],
                )
            )
        return [
            LimitState(
                limit=limit_of(row),
                period_starts_at=row["current_period"],
                spend=_spend(row),
                crossings=tuple(by_limit.get((row["id"], row["current_period"]), ())),
                read_at=row["now"],
            )
            for row in found
        ]


def _values(limit: SpendLimit) -> dict[str, object]:
    terms = limit.terms
    return {
        "name": terms.name,
        "amount": terms.amount,
        "period": terms.period,
        "scope_mode": terms.scope.mode,
        "scope_model": terms.scope.model,
        "scope_endpoint_id": terms.scope.endpoint_id,
        "scope_feature": terms.scope.feature,
        "enforcement": terms.enforcement,
        "thresholds": list(terms.thresholds),
        "counts_from": limit.counts_from,
        "revision": limit.revision,
        "updated_at": limit.updated_at,
    }


def _spellings(dimension: str | None) -> list[str] | None:
    return None if dimension is None else spellings(dimension)


def limit_of(row: Row) -> SpendLimit:
    return SpendLimit(
        id=row["id"],
        terms=LimitTerms(
            name=row["name"],
            amount=row["amount"],
            period=LimitPeriod(row["period"]),
            scope=LimitScope(
                mode=LimitMode(row["scope_mode"]),
                model=row["scope_model"],
                endpoint_id=row["scope_endpoint_id"],
                feature=row["scope_feature"],
            ),
            enforcement=Enforcement(row["enforcement"]),
            thresholds=tuple(row["thresholds"]),
        ),
        counts_from=row["counts_from"],
        revision=row["revision"],
        created_at=row["created_at"],
        created_by=row["created_by"],
        updated_at=row["updated_at"],
    )


def _in_lock_order(increment: CounterIncrement) -> tuple[UUID, datetime]:
    return increment.limit_id, increment.period_starts_at


def _increment(row: Row) -> CounterIncrement:
    """The new values of a counter."""
    return CounterIncrement(
        limit_id=row["limit_id"], period_starts_at=row["period_starts_at"], spend=_spend(row)
    )


def _spend(row: Row) -> Spend:
    return Spend(
        managed=int(row["settled_managed"]),
        byo=int(row["settled_byo"]),
        reserved=int(row["reserved"]),
        unpriced=row["unpriced"],
    )
