"""Reservations in SQL. A transaction that ends several locks them by id, and before any counter: no deadlocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from app.database.repository import Repository
from app.database.statements import Query, Row
from app.spend_limits.counter_queries import RESERVE, SETTLE
from app.spend_limits.limits import Spender, SpendLimit
from app.spend_limits.repository import ALL_LIMITS, limit_of
from app.spend_limits.reservations import HeldState, Reservation, StoredReservationState
from app.spend_limits.tables import spend_reservation as t
from app.usage_mode.modes import UsageMode

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_HAS_EXPIRED = t.c.expires_at <= sa.func.statement_timestamp()
_SHOWN = (t, _HAS_EXPIRED.label("is_past"))
_FIND = Query(
    sa.select(*_SHOWN).where(
        t.c.organization_id == _ORGANIZATION, t.c.id == sa.bindparam("id_", type_=t.c.id.type)
    )
)
_LOCK = Query(
    sa.select(t)
    .where(t.c.organization_id == _ORGANIZATION, t.c.id == sa.bindparam("id_", type_=t.c.id.type))
    .with_for_update()
)
_RELEASE = Query(
    sa.update(t)
    .where(t.c.organization_id == _ORGANIZATION, t.c.id == sa.bindparam("id_", type_=t.c.id.type))
    .values(
        state=sa.literal_column(f"'{StoredReservationState.RELEASED}'"),
        ended_at=sa.bindparam("now", type_=t.c.created_at.type),
    )
)
_IS_HELD = t.c.state.in_([sa.literal_column("'open'"), sa.literal_column("'unpriced'")])
_IN_STATE = {
    None: sa.true(),
    HeldState.OPEN: sa.and_(t.c.state == sa.literal_column("'open'"), sa.not_(_HAS_EXPIRED)),
    HeldState.EXPIRED: sa.and_(t.c.state == sa.literal_column("'open'"), _HAS_EXPIRED),
    HeldState.UNPRICED: t.c.state == sa.literal_column("'unpriced'"),
}
_PAGES = {
    state: Query(
        sa.select(*_SHOWN)
        .where(
            t.c.organization_id == _ORGANIZATION,
            _IS_HELD,
            condition,
            t.c.id
            < sa.func.coalesce(
                sa.bindparam("before", type_=t.c.id.type),
                sa.literal_column("'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid"),
            ),
        )
        .order_by(t.c.id.desc())
        .limit(sa.bindparam("at_most", type_=sa.Integer))
    )
    for state, condition in _IN_STATE.items()
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewReservation:
    """A reservation to make. The usage mode decides which amount counts.

    `amount` is in pico-USD; `compatible_amount` counts instead if the mode's endpoint is not Anthropic's. `None`: the
    price is not known.
    """

    id: UUID
    amount: int | None
    compatible_amount: int | None
    model: str | None
    endpoint_id: str | None
    feature: str | None
    created_by: str
    ttl_seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The limit that refused a reservation: it had no room for the amount, or the price is not known."""

    limit_id: UUID
    limit_name: str
    is_price_unknown: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledReservations:
    """What new ledger rows changed: reservations that ended, and ended ones that are charged again.

    `limits` are all limits of the organization, in the order in which counters are locked.
    """

    ended: Sequence[Reservation]
    charged_again: Sequence[Reservation]
    limits: Sequence[SpendLimit]


class ReservationRepository(Repository):
    """The reservations of one organization."""

    async def reserve(
        self, wanted: Sequence[NewReservation], *, at: datetime | None = None
    ) -> Sequence[Reservation | Refusal]:
        """Decide about these reservations in their order. Commit at once: other transactions wait for the counters.

        It takes the ledger lock shared. Each reservation counts in every limit that applies, or in none. If the id
        exists already, an earlier attempt of the same request has made the reservation: it is returned as it is.

        Args:
            wanted: the reservations to make.
            at: the instant whose prices they have, read under the ledger lock. None: they have no prices.
        """
        by_id = {one.id: one for one in wanted}
        rows = await self._session.rows(
            RESERVE,
            organization_id=self._organization_id,
            ids=list(by_id),
            amounts=[one.amount for one in by_id.values()],
            compatible_amounts=[one.compatible_amount for one in by_id.values()],
            models=[one.model for one in by_id.values()],
            endpoint_ids=[one.endpoint_id for one in by_id.values()],
            features=[one.feature for one in by_id.values()],
            created_bys=[one.created_by for one in by_id.values()],
            ttls=[one.ttl_seconds for one in by_id.values()],
            decided_at=at,
        )
        decided = {row["id"]: _decision(by_id[row["id"]], row) for row in rows}
        for id_ in by_id.keys() - decided.keys():
            row = await self._session.one(_FIND, organization_id=self._organization_id, id_=id_)
            decided[id_] = _reservation(row)
        return [decided[one.id] for one in wanted]

    async def find(self, reservation_id: UUID) -> Reservation | None:
        row = await self._session.first(_FIND, organization_id=self._organization_id, id_=reservation_id)
        return None if row is None else _reservation(row)

    async def page(
        self, *, state: HeldState | None, at_most: int, before: UUID | None
    ) -> Sequence[Reservation]:
        """The reservations that are still charged, newest first."""
        found = await self._session.rows(
            _PAGES[state], organization_id=self._organization_id, at_most=at_most, before=before
        )
        return [_reservation(row) for row in found]

    async def lock(self, reservation_id: UUID) -> Reservation | None:
        """Find a reservation. No other transaction can end it until this one ends."""
        row = await self._session.first(_LOCK, organization_id=self._organization_id, id_=reservation_id)
        return None if row is None else _reservation(row)

    async def release(self, reservation: Reservation, *, now: datetime) -> Reservation:
        """Release a reservation that this transaction has locked."""
        await self._session.execute(
            _RELEASE, organization_id=self._organization_id, id_=reservation.id, now=now
        )
        return replace(reservation, state=StoredReservationState.RELEASED)

    async def settle(self, unpriced: Mapping[UUID, int]) -> SettledReservations:
        """Settle the reservations that have their event and no row without a price. Charge the others that have one.

        The same round trip reads the limits in which they count.

        Args:
            unpriced: the reservations that new ledger rows name, each with the change of the number of its rows
                without a price.
        """
        if not unpriced:
            found = await self._session.rows(ALL_LIMITS, organization_id=self._organization_id)
            return SettledReservations(ended=(), charged_again=(), limits=[limit_of(row) for row in found])
        found = await self._session.rows(
            SETTLE,
            organization_id=self._organization_id,
            ids=list(unpriced),
            unpriced=list(unpriced.values()),
        )
        changed = [_settled(row) for row in found if row["reservation_id"] is not None]
        limits = [limit_of(row) for row in found if row["reservation_id"] is None]
        return SettledReservations(
            ended=[it for it in changed if it.state is StoredReservationState.SETTLED],
            charged_again=[it for it in changed if it.state is not StoredReservationState.SETTLED],
            limits=sorted(limits, key=lambda limit: limit.id),
        )


def _decision(wanted: NewReservation, row: Row) -> Reservation | Refusal:
    if row["refused_by"] is not None:
        return Refusal(
            limit_id=row["refused_by"],
            limit_name=row["refused_by_name"],
            is_price_unknown=row["is_price_unknown"],
        )
    return Reservation(
        id=wanted.id,
        spender=Spender(
            mode=UsageMode(row["mode"]),
            model=wanted.model,
            endpoint_id=wanted.endpoint_id,
            feature=wanted.feature,
        ),
        amount=row["amount"],
        state=StoredReservationState.OPEN,
        created_at=row["created_at"],
        created_by=wanted.created_by,
        expires_at=row["created_at"] + timedelta(seconds=wanted.ttl_seconds),
    )


def _reservation(row: Row) -> Reservation:
    state = StoredReservationState(row["state"])
    return Reservation(
        id=row["id"],
        spender=Spender(
            mode=UsageMode(row["mode"]),
            model=row["model"],
            endpoint_id=row["endpoint_id"],
            feature=row["feature"],
        ),
        amount=row["amount"],
        state=state,
        created_at=row["created_at"],
        created_by=row["created_by"],
        expires_at=row["expires_at"],
        has_expired=state is StoredReservationState.OPEN and bool(row.get("is_past")),
    )


def _settled(row: Row) -> Reservation:
    """A reservation among limits, whose columns have other names (`SETTLE`)."""
    return _reservation(
        {
            **row,
            "id": row["reservation_id"],
            "amount": row["reserved"],
            "created_at": row["reserved_at"],
            "created_by": row["reserved_by"],
        }
    )
