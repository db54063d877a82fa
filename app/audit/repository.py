"""The audit trail: append and page; there is no grant to update or delete."""

import json
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from app.audit.events import AuditAction, AuditEvent
from app.audit.tables import audit_event as t
from app.database.engine import Query, Row, Session

_COLUMNS = tuple(column.name for column in t.columns)
_APPEND = Query(sa.insert(t).values({name: sa.bindparam(name, type_=t.c[name].type) for name in _COLUMNS}))


def _unless_null(
    name: str, column: sa.Column[object], condition: sa.ColumnElement[bool]
) -> sa.ColumnElement[bool]:
    """The condition, or everything where the bind parameter is null."""
    return sa.or_(sa.bindparam(name, type_=column.type).is_(None), condition)


_PAGE = Query(
    sa.select(t)
    .where(
        t.c.organization_id == sa.bindparam("organization_id", type_=sa.Text),
        _unless_null("before", t.c.id, t.c.id < sa.bindparam("before", type_=t.c.id.type)),
        _unless_null(
            "credential_id",
            t.c.credential_id,
            t.c.credential_id == sa.bindparam("credential_id", type_=t.c.id.type),
        ),
        _unless_null("action", t.c.action, t.c.action == sa.bindparam("action", type_=sa.Text)),
        _unless_null("actor", t.c.actor, t.c.actor == sa.bindparam("actor", type_=sa.Text)),
        _unless_null(
            "starting_at",
            t.c.occurred_at,
            t.c.occurred_at >= sa.bindparam("starting_at", type_=t.c.occurred_at.type),
        ),
        _unless_null(
            "ending_at",
            t.c.occurred_at,
            t.c.occurred_at < sa.bindparam("ending_at", type_=t.c.occurred_at.type),
        ),
    )
    .order_by(t.c.id.desc())
    .limit(sa.bindparam("at_most", type_=sa.Integer))
)


class AuditRepository:
    """One organization's trail."""

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self._organization_id = organization_id

    async def append(self, event: AuditEvent) -> None:
        await self._session.execute(
            _APPEND,
            organization_id=self._organization_id,
            id=event.id,
            occurred_at=event.occurred_at,
            action=event.action,
            actor=event.actor,
            credential_id=event.credential_id,
            request_id=event.request_id,
            details=json.dumps(event.details),
        )

    async def page(
        self,
        *,
        at_most: int,
        before: UUID | None,
        credential_id: UUID | None,
        action: AuditAction | None,
        actor: str | None,
        starting_at: datetime | None,
        ending_at: datetime | None,
    ) -> Sequence[AuditEvent]:
        """Newest first."""
        found = await self._session.rows(
            _PAGE,
            organization_id=self._organization_id,
            at_most=at_most,
            before=before,
            credential_id=credential_id,
            action=action,
            actor=actor,
            starting_at=starting_at,
            ending_at=ending_at,
        )
        return [_event(row) for row in found]


def _event(row: Row) -> AuditEvent:
    return AuditEvent(
        id=row["id"],
        organization_id=row["organization_id"],
        occurred_at=row["occurred_at"],
        action=AuditAction(row["action"]),
        actor=row["actor"],
        credential_id=row["credential_id"],
        request_id=row["request_id"],
        details=row["details"],
    )
