"""SQL of webhook endpoints and of the outbox. A delivery is added in the same transaction as its event."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from app.core.notifications import EventType
from app.database.bulk import bulk_params, unnest
from app.database.repository import Repository
from app.database.sessions import Session
from app.database.statements import Query, Row
from app.jobs.queue import JobKind
from app.jobs.tables import job_queue as q
from app.webhooks.endpoints import Delivery, DeliveryState, EndpointState, WebhookEndpoint
from app.webhooks.tables import webhook_delivery as d
from app.webhooks.tables import webhook_endpoint as t

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_IS_ENDPOINT = sa.and_(t.c.organization_id == _ORGANIZATION, t.c.id == sa.bindparam("id_", type_=t.c.id.type))
_IS_ACTIVE = t.c.state == sa.literal_column(f"'{EndpointState.ACTIVE}'")
_INSERT = Query(
    sa.insert(t).values({column.name: sa.bindparam(column.name, type_=column.type) for column in t.columns})
)
_LOCK = Query(sa.select(t).where(_IS_ENDPOINT).with_for_update())
_EXISTS = Query(sa.select(t.c.id).where(_IS_ENDPOINT))
_FIND = Query(sa.select(t).where(_IS_ENDPOINT, _IS_ACTIVE))
_MOVE = Query(
    sa.update(t)
    .where(_IS_ENDPOINT, t.c.state == sa.bindparam("expected", type_=sa.Text))
    .values(state=sa.bindparam("to", type_=sa.Text))
)
_DELETE = Query(sa.delete(t).where(_IS_ENDPOINT))
_IS_PENDING = d.c.state == sa.literal_column(f"'{DeliveryState.PENDING}'")
_OF_DELIVERIES = q.c.kind == sa.literal_column(f"'{JobKind.DELIVER_WEBHOOK}'")
# In the order of an attempt, which records itself in the delivery before it changes the item of the queue: no deadlocks.
_LOCK_PENDING = Query(
    sa.select(sa.func.count().label("n")).select_from(
        sa.select(d.c.id)
        .where(
            d.c.organization_id == _ORGANIZATION,
            d.c.endpoint_id == sa.bindparam("id_", type_=t.c.id.type),
            _IS_PENDING,
        )
        .with_for_update()
        .subquery()
    )
)
# Otherwise they would stay until they are due, in up to a day.
_DELETE_QUEUED = Query(
    sa.delete(q).where(
        q.c.organization_id == _ORGANIZATION,
        _OF_DELIVERIES,
        # IS TRUE keeps it a hashed subquery: as a join, outdated statistics made it compare each pair of rows.
        q.c.id.in_(
            sa.select(d.c.id).where(
                d.c.organization_id == _ORGANIZATION,
                d.c.endpoint_id == sa.bindparam("id_", type_=t.c.id.type),
                _IS_PENDING,
            )
        ).is_(sa.true()),
    )
)
# Serializes creations: two concurrent ones would both see a free slot.
_LOCK_ENDPOINT_COUNT = Query(
    sa.select(
        sa.func.pg_advisory_xact_lock(
            sa.func.hashtext(sa.literal_column("'byok.webhook_endpoints'")), sa.func.hashtext(_ORGANIZATION)
        )
    )
)
_COUNT_ENDPOINTS = Query(
    sa.select(sa.func.count().label("endpoints")).where(
        t.c.organization_id == _ORGANIZATION,
        t.c.state.in_(
            [sa.literal_column(f"'{state}'") for state in (EndpointState.INTENT, EndpointState.ACTIVE)]
        ),
    )
)
# The lock keeps an endpoint, which deliveries refer to, from being deleted before they are added.
_LOCK_ACTIVE = Query(
    sa.select(t.c.id)
    .where(t.c.organization_id == _ORGANIZATION, _IS_ACTIVE)
    .order_by(t.c.id)
    .with_for_update(read=True, key_share=True)
)
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

_GIVEN = unnest(id=d.c.id.type, endpoint_id=d.c.endpoint_id.type)
_NOW = sa.bindparam("now", type_=d.c.created_at.type)
_ADDED = (
    sa.insert(d)
    .from_select(
        ["organization_id", "id", "endpoint_id", "type", "body", "state", "attempts", "created_at"],
        sa.select(
            _ORGANIZATION,
            _GIVEN.c.id,
            _GIVEN.c.endpoint_id,
            sa.bindparam("kind", type_=sa.Text),
            sa.bindparam("body", type_=sa.Text),
            sa.literal_column(f"'{DeliveryState.PENDING}'"),
            sa.literal_column("0"),
            _NOW,
        ),
    )
    .returning(d.c.id)
    .cte("added")
)
# The deliveries and their queue items, however many, in one round trip. In a CTE with RETURNING, because Citus writes the
# rows of another INSERT with COPY, which row-level security refuses.
_QUEUED = (
    sa.insert(q)
    .from_select(
        ["organization_id", "kind", "id", "due_at"],
        sa.select(_ORGANIZATION, sa.literal_column(f"'{JobKind.DELIVER_WEBHOOK}'"), _ADDED.c.id, _NOW),
    )
    .returning(q.c.id)
    .cte("queued")
)
_COUNT_PENDING = Query(
    sa.select(d.c.endpoint_id, sa.func.count().label("pending"))
    .where(d.c.organization_id == _ORGANIZATION, _IS_PENDING)
    .group_by(d.c.endpoint_id)
)
_ADD_DELIVERIES = Query(sa.select(sa.func.count().label("n")).select_from(_QUEUED))
_IS_PENDING_DELIVERY = sa.and_(
    d.c.organization_id == _ORGANIZATION,
    d.c.id == sa.bindparam("id_", type_=d.c.id.type),
    _IS_PENDING,
)
_FIND_DELIVERY = Query(
    sa.select(d.c.id, d.c.endpoint_id, d.c.body, d.c.attempts, t.c.url, t.c.store_version)
    .select_from(d.join(t, sa.and_(t.c.organization_id == d.c.organization_id, t.c.id == d.c.endpoint_id)))
    .where(_IS_PENDING_DELIVERY, _IS_ACTIVE)
)
_RECORD_ATTEMPT = Query(
    sa.update(d)
    .where(_IS_PENDING_DELIVERY, d.c.attempts < sa.bindparam("attempts", type_=sa.Integer))
    .values(
        state=sa.bindparam("state", type_=sa.Text),
        attempts=sa.bindparam("attempts", type_=sa.Integer),
        last_outcome=sa.bindparam("outcome", type_=sa.Text),
        ended_at=sa.bindparam("ended_at", type_=d.c.ended_at.type),
    )
)


class WebhookRepository(Repository):
    """Endpoints and deliveries of one organization."""

    def __init__(self, session: Session, organization_id: str) -> None:
        super().__init__(session, organization_id)
        self._active: Counter[UUID] | None = None

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
        """Lock an endpoint in any state."""
        row = await self._session.first(_LOCK, organization_id=self._organization_id, id_=endpoint_id)
        return None if row is None else _endpoint(row)

    async def exists(self, endpoint_id: UUID) -> bool:
        """Whether an endpoint with this id exists, in any state."""
        return bool(
            await self._session.first(_EXISTS, organization_id=self._organization_id, id_=endpoint_id)
        )

    async def find(self, endpoint_id: UUID) -> WebhookEndpoint | None:
        row = await self._session.first(_FIND, organization_id=self._organization_id, id_=endpoint_id)
        return None if row is None else _endpoint(row)

    async def page(self, *, at_most: int, before: UUID | None) -> Sequence[WebhookEndpoint]:
        """Return one page of active endpoints, newest first."""
        found = await self._session.rows(
            _PAGE, organization_id=self._organization_id, at_most=at_most, before=before
        )
        return [_endpoint(row) for row in found]

    async def lock_endpoint_count(self) -> None:
        """Block other transactions that create endpoints until this transaction ends."""
        await self._session.first(_LOCK_ENDPOINT_COUNT, organization_id=self._organization_id)

    async def count(self) -> int:
        """Count active endpoints and endpoints that are being created."""
        row = await self._session.one(_COUNT_ENDPOINTS, organization_id=self._organization_id)
        return int(row["endpoints"])

    async def transition(self, endpoint_id: UUID, *, expected: EndpointState, to: EndpointState) -> bool:
        """Change the state. Returns False if the endpoint is in another state or does not exist."""
        return bool(
            await self._session.execute(
                _MOVE, organization_id=self._organization_id, id_=endpoint_id, expected=expected, to=to
            )
        )

    async def delete(self, endpoint_id: UUID) -> None:
        """Delete the endpoint, its deliveries, and their items of the queue."""
        await self._session.first(_LOCK_PENDING, organization_id=self._organization_id, id_=endpoint_id)
        await self._session.execute(_DELETE_QUEUED, organization_id=self._organization_id, id_=endpoint_id)
        await self._session.execute(_DELETE, organization_id=self._organization_id, id_=endpoint_id)

    async def lock_active_endpoints(self) -> Counter[UUID]:
        """Return the endpoints that receive events, and how many deliveries of each are pending.

        None is deleted before this transaction ends. They are counted once in a transaction, because to count 50,000
        deliveries takes up to 50 ms, and one event may cross a thousand thresholds. `add_deliveries` adds to the numbers.
        """
        if self._active is None:
            found = await self._session.rows(_LOCK_ACTIVE, organization_id=self._organization_id)
            active = Counter({row["id"]: 0 for row in found})
            if active:
                counted = await self._session.rows(_COUNT_PENDING, organization_id=self._organization_id)
                active.update(
                    {row["endpoint_id"]: row["pending"] for row in counted if row["endpoint_id"] in active}
                )
            self._active = active
        return self._active

    async def add_deliveries(
        self, delivery_ids: Mapping[UUID, UUID], *, kind: EventType, body: str, now: datetime
    ) -> None:
        """Add a delivery with its queue item, due now, for each endpoint.

        Args:
            delivery_ids: the id of the new delivery by the id of its endpoint.
            kind: the type of the message.
            body: the message.
            now: when it is due.
        """
        await self._session.first(
            _ADD_DELIVERIES,
            organization_id=self._organization_id,
            kind=kind,
            body=body,
            now=now,
            **bulk_params(id=list(delivery_ids.values()), endpoint_id=list(delivery_ids)),
        )
        if self._active is not None:
            self._active.update(delivery_ids.keys())

    async def find_delivery(self, delivery_id: UUID) -> Delivery | None:
        """Return a pending delivery, or `None` if it ended or its endpoint is not active."""
        row = await self._session.first(
            _FIND_DELIVERY, organization_id=self._organization_id, id_=delivery_id
        )
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

    async def record_attempt(
        self,
        delivery_id: UUID,
        *,
        attempts: int,
        state: DeliveryState,
        outcome: str,
        ended_at: datetime | None,
    ) -> bool:
        """Record an attempt. Returns False if another worker recorded this number of attempts before."""
        return bool(
            await self._session.execute(
                _RECORD_ATTEMPT,
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
