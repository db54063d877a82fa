"""Reservations. Who ends several locks them in the order of their ids, and before any counter."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from app.database.engine import Query, Row, Session
from app.spend_limits.counter_queries import RESERVE
from app.spend_limits.limits import Spender
from app.spend_limits.reservations import Reservation, ReservationState
from app.spend_limits.tables import spend_reservation as t
from app.usage_mode.modes import UsageMode

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_FIND = Query(
    sa.select(t).where(t.c.organization_id == _ORGANIZATION, t.c.id == sa.bindparam("id_", type_=t.c.id.type))
)
_LOCK = Query(
    sa.select(t)
    .where(
        t.c.organization_id == _ORGANIZATION,
        t.c.id == sa.any_(sa.bindparam("ids", type_=sa.ARRAY(t.c.id.type))),
    )
    .order_by(t.c.id)
    .with_for_update()
)
_END = Query(
    sa.update(t)
    .where(
        t.c.organization_id == _ORGANIZATION,
        t.c.id == sa.any_(sa.bindparam("ids", type_=sa.ARRAY(t.c.id.type))),
    )
    .values(
        state=sa.bindparam("state", type_=sa.Text), ended_at=sa.bindparam("now", type_=t.c.created_at.type)
    )
)


class ReservationRepository:
    """One organization's reservations."""

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self._organization_id = organization_id

    async def insert(self, reservation: Reservation, periods: Mapping[UUID, datetime]) -> frozenset[UUID]:
        """Put its amount aside in each limit's counter of its period, unless it would take a blocking one past its amount.

        Returns the limits that took it. Where any is missing, roll back; else commit at once: others wait.
        """
        spender = reservation.spender
        held = await self._session.rows(
            RESERVE,
            organization_id=self._organization_id,
            limit_ids=list(periods),
            periods=list(periods.values()),
            id=reservation.id,
            amount=reservation.amount,
            mode=spender.mode,
            model=spender.model,
            endpoint_id=spender.endpoint_id,
            feature=spender.feature,
            created_at=reservation.created_at,
            created_by=reservation.created_by,
            expires_at=reservation.expires_at,
        )
        return frozenset(row["limit_id"] for row in held)

    async def find(self, reservation_id: UUID) -> Reservation | None:
        row = await self._session.first(_FIND, organization_id=self._organization_id, id_=reservation_id)
        return None if row is None else _reservation(row)

    async def lock(self, ids: Collection[UUID]) -> Sequence[Reservation]:
        """Those of these that there are; nobody else ends them until the transaction does."""
        found = await self._session.rows(_LOCK, organization_id=self._organization_id, ids=list(ids))
        return [_reservation(row) for row in found]

    async def end(self, ids: Collection[UUID], state: ReservationState, *, now: datetime) -> None:
        """Of reservations that are locked."""
        await self._session.execute(
            _END, organization_id=self._organization_id, ids=list(ids), state=state, now=now
        )


def _reservation(row: Row) -> Reservation:
    return Reservation(
        id=row["id"],
        spender=Spender(
            mode=UsageMode(row["mode"]),
            model=row["model"],
            endpoint_id=row["endpoint_id"],
            feature=row["feature"],
        ),
        amount=row["amount"],
        state=ReservationState(row["state"]),
        created_at=row["created_at"],
        created_by=row["created_by"],
        expires_at=row["expires_at"],
    )
