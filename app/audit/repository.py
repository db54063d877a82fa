"""The audit log in SQL: append and list. The service's role has no grant to update or delete."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from app.audit.events import AuditAction, AuditEvent
from app.audit.tables import audit_event as t
from app.core.clock import first_id_at
from app.database.repository import Repository
from app.database.statements import Query, Row

_ACTIONS = {action.value: action for action in AuditAction}
# Ids sort by time, so the primary key finds a time range. Their clock may be apart from the one of `occurred_at`: an id is
# never lower than an earlier one of its process, also after the clock was set back.
_LEEWAY = timedelta(days=1)
_FIRST_ID, _LAST_ID = UUID(int=0), UUID(int=2**128 - 1)
_COLUMNS = tuple(column.name for column in t.columns)
_APPEND = Query(sa.insert(t).values({name: sa.bindparam(name, type_=t.c[name].type) for name in _COLUMNS}))


def _unless_null(
    name: str, column: sa.Column[object], condition: sa.ColumnElement[bool]
) -> sa.ColumnElement[bool]:
    """The condition if the bind parameter is set; true if it is null."""
    return sa.or_(sa.bindparam(name, type_=column.type).is_(None), condition)


_PAGE = Query(
    sa.select(t)
    .where(
        t.c.organization_id == sa.bindparam("organization_id", type_=sa.Text),
        t.c.id >= sa.bindparam("first", type_=t.c.id.type),
        t.c.id < sa.bindparam("before", type_=t.c.id.type),
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


_PURGE = Query(
    sa.select(
        sa.func.purge_audit_events(
            sa.bindparam("older_than", type_=t.c.occurred_at.type), sa.bindparam("at_most", type_=sa.Integer)
        ).label("purged")
    )
)


class AuditRetentionRepository(Repository):
    """Retention of the audit logs of all organizations. A function that runs as the owner deletes the rows."""

    async def purge(self, *, older_than: datetime, at_most: int) -> int:
        """Delete old events, never ones of the last 90 days; return how many. Fewer than `at_most`: none are left."""
        row = await self._session.one(_PURGE, older_than=older_than, at_most=at_most)
        await self._session.commit()
        purged: int = row["purged"]
        return purged


class AuditRepository(Repository):
    """The audit log of one organization."""

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
        """Newest first. Reads only what may be in the time range, and of that as much as fills the page."""
        ends_before = _LAST_ID if ending_at is None else first_id_at(ending_at + _LEEWAY)
        found = await self._session.rows(
            _PAGE,
            organization_id=self._organization_id,
            at_most=at_most,
            first=_FIRST_ID if starting_at is None else first_id_at(starting_at - _LEEWAY),
            before=ends_before if before is None else min(before, ends_before),
            credential_id=credential_id,
            action=action,
            actor=actor,
            starting_at=starting_at,
            ending_at=ending_at,
        )
        return [_event(row) for row in found]


def _event(row: Row) -> AuditEvent:
    action: str = row["action"]
    return AuditEvent(
        id=row["id"],
        organization_id=row["organization_id"],
        occurred_at=row["occurred_at"],
        action=_ACTIONS.get(action, action),
        actor=row["actor"],
        credential_id=row["credential_id"],
        request_id=row["request_id"],
        details=row["details"],
    )
