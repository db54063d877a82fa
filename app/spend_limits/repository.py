"""Spend limits and their counters, exact under concurrency.

Who changes counters holds the organization's usage-mode lock shared; who changes limits holds it
exclusively. So limits stand still while counters move. Counters are locked in the order of limit
and period by all, so nobody waits in a circle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.database.engine import Query, Row, Session
from app.database.ledger_lock import LOCK_SHARED
from app.spend_limits.counter_queries import (
    ADD,
    COUNT,
    COUNT_DETAIL,
    FORGET_ALERTS,
    FORGET_COUNTERS,
    STANDING,
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
from app.usage_mode.modes import INITIAL_MODE, UsageModePoint
from app.usage_mode.repository import point_of

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
_ALL = Query(sa.select(t).where(t.c.organization_id == _ORGANIZATION).order_by(t.c.id))
_ALERT = Query(
    insert(a)
    .values({column.name: sa.bindparam(column.name, type_=column.type) for column in a.columns})
    .on_conflict_do_nothing()
)
_CROSSINGS = Query(
    sa.select(a.c.limit_id, a.c.period_starts_at, a.c.threshold, a.c.crossed_at, a.c.spent)
    .where(
        a.c.organization_id == _ORGANIZATION,
        a.c.limit_id == sa.any_(sa.bindparam("limit_ids", type_=sa.ARRAY(a.c.limit_id.type))),
        a.c.period_starts_at == sa.any_(sa.bindparam("periods", type_=sa.ARRAY(a.c.period_starts_at.type))),
    )
    .order_by(a.c.threshold)
)
_CLOCK = Query(sa.select(sa.func.clock_timestamp().label("now")))


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSnapshot:
    """What a reservation goes by: the database's clock, the mode in force then, and all limits in their order."""

    now: datetime
    in_force: UsageModePoint
    limits: Sequence[SpendLimit]


class LimitRepository:
    """One organization's limits."""

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self._organization_id = organization_id

    async def lock_shared(self) -> datetime:
        """Limits and the usage mode stay as they are until the transaction ends; the database's clock from then."""
        row = await self._session.first(LOCK_SHARED, organization_id=self._organization_id)
        assert row is not None
        now: datetime = row["now"]
        return now

    async def clock(self) -> datetime:
        row = await self._session.first(_CLOCK)
        assert row is not None
        now: datetime = row["now"]
        return now

    async def all(self) -> Sequence[SpendLimit]:
        """In the order in which counters are locked."""
        found = await self._session.rows(_ALL, organization_id=self._organization_id)
        return [_limit(row) for row in found]

    async def standing(self) -> LimitSnapshot:
        """In a unit of work that is `counting`."""
        found = await self._session.rows(STANDING, organization_id=self._organization_id)
        first = found[0]
        return LimitSnapshot(
            now=first["now"],
            in_force=INITIAL_MODE if first["mode"] is None else point_of(first),
            limits=[_limit(row) for row in found if row["id"] is not None],
        )

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
        """Counters and alerts go with it."""
        return bool(await self._session.execute(_DELETE, organization_id=self._organization_id, id_=limit_id))

    async def count_anew(self, limit: SpendLimit) -> None:
        """Counters from the ledger and the open reservations. Hold the lock exclusively: nothing may slip in between."""
        scope = limit.terms.scope
        is_narrow = scope.endpoint_id is None and scope.feature is None
        terms, of_limit = limit.terms, {"organization_id": self._organization_id, "limit_id": limit.id}
        await self._session.execute(FORGET_COUNTERS, **of_limit)
        await self._session.execute(
            COUNT if is_narrow else COUNT_DETAIL,
            period=terms.period,
            counts_from=limit.counts_from,
            mode=terms.scope.mode,
            model=terms.scope.model,
            endpoint_id=terms.scope.endpoint_id,
            feature=terms.scope.feature,
            **of_limit,
        )

    async def forget_crossings(self, limit_id: UUID) -> None:
        await self._session.execute(FORGET_ALERTS, organization_id=self._organization_id, limit_id=limit_id)

    async def add(self, gains: Sequence[CounterIncrement]) -> Sequence[CounterIncrement]:
        """Add to the counters, of each limit and period once; returns where they are then."""
        if not gains:
            return []
        found = await self._session.rows(
            ADD,
            organization_id=self._organization_id,
            limit_ids=[gain.limit_id for gain in gains],
            periods=[gain.period_starts_at for gain in gains],
            managed=[gain.spend.managed for gain in gains],
            byo=[gain.spend.byo for gain in gains],
            reserved=[gain.spend.reserved for gain in gains],
            unpriced=[gain.spend.unpriced for gain in gains],
        )
        return [
            CounterIncrement(
                limit_id=row["limit_id"], period_starts_at=row["period_starts_at"], spend=_spend(row)
            )
            for row in found
        ]

    async def alert(self, limit_id: UUID, period_starts_at: datetime, crossing: Crossing) -> bool:
        """Note that a threshold was crossed; False where that was noted before."""
        return bool(
            await self._session.execute(
                _ALERT,
                organization_id=self._organization_id,
                limit_id=limit_id,
                period_starts_at=period_starts_at,
                threshold=crossing.threshold,
                crossed_at=crossing.crossed_at,
                spent=crossing.spent,
            )
        )

    async def states(
        self, *, limit_id: UUID | None = None, at_most: int, before: UUID | None = None
    ) -> Sequence[LimitState]:
        """Limits with what they have counted in the period at hand, the newest first."""
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
            periods=list({row["period_at_hand"] for row in found}),
        )
        by_limit: dict[tuple[UUID, datetime], list[Crossing]] = {}
        for row in crossings:
            by_limit.setdefault((row["limit_id"], row["period_starts_at"]), []).append(
                Crossing(threshold=row["threshold"], crossed_at=row["crossed_at"], spent=int(row["spent"]))
            )
        return [
            LimitState(
                limit=_limit(row),
                period_starts_at=row["period_at_hand"],
                spend=_spend(row),
                crossings=tuple(by_limit.get((row["id"], row["period_at_hand"]), ())),
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


def _limit(row: Row) -> SpendLimit:
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


def _spend(row: Row) -> Spend:
    return Spend(
        managed=int(row["settled_managed"]),
        byo=int(row["settled_byo"]),
        reserved=int(row["reserved"]),
        unpriced=row["unpriced"],
    )
