"""Webhook endpoints, and the outbox: deliveries are added in the transaction of what they tell."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from app.database.engine import Query, Row, Session
from app.webhooks.endpoints import Delivery, DeliveryState, EndpointState, EventType, WebhookEndpoint
from app.webhooks.tables import webhook_delivery as d
from app.webhooks.tables import webhook_endpoint as t

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_OF_ENDPOINT = sa.and_(t.c.organization_id == _ORGANIZATION, t.c.id == sa.bindparam("id_", type_=t.c.id.type))
_IS_ACTIVE = t.c.state == sa.literal_column(f"'{EndpointState.ACTIVE}'")
_INSERT = Query(
    sa.insert(t).values({column.name: sa.bindparam(column.name, type_=column.type) for column in t.columns})
)
_LOCK = Query(sa.select(t).where(_OF_ENDPOINT).with_for_update())
_IS_ONE = Query(sa.select(t.c.id).where(_OF_ENDPOINT))
_FIND = Query(sa.select(t).where(_OF_ENDPOINT, _IS_ACTIVE))
_MOVE = Query(
    sa.update(t)
    .where(_OF_ENDPOINT, t.c.state == sa.bindparam("expected", type_=sa.Text))
    .values(state=sa.bindparam("to", type_=sa.Text))
)
_DELETE = Query(sa.delete(t).where(_OF_ENDPOINT))
# One after the other: two at once would both find room for one.
_LOCK_NUMBER = Query(
    sa.select(
        sa.func.pg_advisory_xact_lock(
            sa.func.hashtext(sa.literal_column("'byok.webhook_endpoints'")), sa.func.hashtext(_ORGANIZATION)
        )
    )
)
_COUNT = Query(
    sa.select(sa.func.count().label("endpoints")).where(
        t.c.organization_id == _ORGANIZATION,
        t.c.state.in_(
            [sa.literal_column(f"'{state}'") for state in (EndpointState.INTENT, EndpointState.ACTIVE)]
        ),
    )
)
_ACTIVE = Query(sa.select(t.c.id).where(t.c.organization_id == _ORGANIZATION, _IS_ACTIVE).order_by(t.c.id))
_BEFORE = sa.bindparam("before", type_=t.c.id.type)
_PAGE = Query(
    sa.select(t)
    .where(
        t.c.organization_id == _ORGANIZATION,
        _IS_ACTIVE,
        sa.or_(_BEFORE.is_(None), t.c.id < _BEFORE),
    )
    .order_by(t.c.id.desc())
    .limit(sa.bindparam("at_most", type_=sa.Integer))
)

_ADDED = ("organization_id", "id", "endpoint_id", "type", "body", "state", "attempts", "created_at")
_ADD = Query(sa.insert(d).values({name: sa.bindparam(name, type_=d.c[name].type) for name in _ADDED}))
_OF_DELIVERY = sa.and_(
    d.c.organization_id == _ORGANIZATION,
    d.c.id == sa.bindparam("id_", type_=d.c.id.type),
    d.c.state == sa.literal_column(f"'{DeliveryState.PENDING}'"),
)
_DUE = Query(
    sa.select(d.c.id, d.c.endpoint_id, d.c.body, d.c.attempts, t.c.url, t.c.store_version)
    .select_from(d.join(t, sa.and_(t.c.organization_id == d.c.organization_id, t.c.id == d.c.endpoint_id)))
    .where(_OF_DELIVERY, _IS_ACTIVE)
)
_NOTE = Query(
    sa.update(d)
    .where(_OF_DELIVERY, d.c.attempts < sa.bindparam("attempts", type_=sa.Integer))
    .values(
        state=sa.bindparam("state", type_=sa.Text),
        attempts=sa.bindparam("attempts", type_=sa.Integer),
        last_outcome=sa.bindparam("outcome", type_=sa.Text),
        ended_at=sa.bindparam("ended_at", type_=d.c.ended_at.type),
    )
)


class WebhookRepository:
    """One organization's endpoints and deliveries."""

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self._organization_id = organization_id

    async def insert(self, endpoint: WebhookEndpoint) -> None:
        await self._session.execute(
            _INSERT,
            organization_id=self._organization_id,
            id=endpoint.id,
            url=endpoint.url,
            state=endpoint.state,
            intent_id=endpoint.intent_id,
            created_at=endpoint.created_at,
            created_by=endpoint.created_by,
            store_version=endpoint.store_version,
        )

    async def lock(self, endpoint_id: UUID) -> WebhookEndpoint | None:
        """In whatever state."""
        row = await self._session.first(_LOCK, organization_id=self._organization_id, id_=endpoint_id)
        return None if row is None else _endpoint(row)

    async def is_one(self, endpoint_id: UUID) -> bool:
        """Whether that is an endpoint's id, in whatever state."""
        return bool(
            await self._session.first(_IS_ONE, organization_id=self._organization_id, id_=endpoint_id)
        )

    async def find(self, endpoint_id: UUID) -> WebhookEndpoint | None:
        row = await self._session.first(_FIND, organization_id=self._organization_id, id_=endpoint_id)
        return None if row is None else _endpoint(row)

    async def page(self, *, at_most: int, before: UUID | None) -> Sequence[WebhookEndpoint]:
        """Newest first."""
        found = await self._session.rows(
            _PAGE, organization_id=self._organization_id, at_most=at_most, before=before
        )
        return [_endpoint(row) for row in found]

    async def lock_number(self) -> None:
        """Nobody else adds an endpoint until the transaction ends."""
        await self._session.first(_LOCK_NUMBER, organization_id=self._organization_id)

    async def count(self) -> int:
        """Those there are, and those on the way."""
        row = await self._session.first(_COUNT, organization_id=self._organization_id)
        return 0 if row is None else int(row["endpoints"])

    async def move(self, endpoint_id: UUID, *, expected: EndpointState, to: EndpointState) -> bool:
        """False where the endpoint is gone or in another state."""
        return bool(
            await self._session.execute(
                _MOVE, organization_id=self._organization_id, id_=endpoint_id, expected=expected, to=to
            )
        )

    async def delete(self, endpoint_id: UUID) -> None:
        """Its deliveries go with it."""
        await self._session.execute(_DELETE, organization_id=self._organization_id, id_=endpoint_id)

    async def active(self) -> Sequence[UUID]:
        """Who is to be told."""
        found = await self._session.rows(_ACTIVE, organization_id=self._organization_id)
        return [row["id"] for row in found]

    async def add_delivery(
        self, delivery_id: UUID, endpoint_id: UUID, *, kind: EventType, body: str, now: datetime
    ) -> None:
        await self._session.execute(
            _ADD,
            organization_id=self._organization_id,
            id=delivery_id,
            endpoint_id=endpoint_id,
            type=kind,
            body=body,
            state=DeliveryState.PENDING,
            attempts=0,
            created_at=now,
        )

    async def find_delivery(self, delivery_id: UUID) -> Delivery | None:
        """One that is still to be made; None otherwise."""
        row = await self._session.first(_DUE, organization_id=self._organization_id, id_=delivery_id)
        if row is None:
            return None
        return Delivery(
            id=row["id"],
            url=row["url"],
            endpoint_id=row["endpoint_id"],
            body=row["body"],
            attempts=row["attempts"],
            store_version=row["store_version"],
        )

    async def note_attempt(
        self,
        delivery_id: UUID,
        *,
        attempts: int,
        state: DeliveryState,
        outcome: str,
        ended_at: datetime | None,
    ) -> bool:
        """How an attempt went; False where another taker noted as many before."""
        return bool(
            await self._session.execute(
                _NOTE,
                organization_id=self._organization_id,
                id_=delivery_id,
                attempts=attempts,
                state=state,
                outcome=outcome,
                ended_at=ended_at,
            )
        )


def _endpoint(row: Row) -> WebhookEndpoint:
    return WebhookEndpoint(
        id=row["id"],
        url=row["url"],
        state=EndpointState(row["state"]),
        intent_id=row["intent_id"],
        created_at=row["created_at"],
        created_by=row["created_by"],
        store_version=row["store_version"],
    )
