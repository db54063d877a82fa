"""The job queue: what is due, taken by any number of instances without getting in each other's way."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.database.bulk import arrays, given
from app.database.engine import Query, Row, Session
from app.jobs.tables import job_queue as q


class JobKind(StrEnum):
    """What a due item asks for; `id` names the intent, validation, rotation or credential."""

    SETTLE_INTENT = "settle_intent"
    SETTLE_VALIDATION = "settle_validation"
    RETRY_ROTATION = "retry_rotation"  # a rotation that could not be checked yet
    DESTROY_VERSION = "destroy_version"  # by its intent: retired, or marked destroyed and not yet gone
    PURGE_CREDENTIAL = "purge_credential"  # a deleted credential whose secrets are not all gone
    SETTLE_WEBHOOK = "settle_webhook"  # an endpoint whose secret is on the way into the store, or out of it
    DELIVER_WEBHOOK = "deliver_webhook"  # a delivery; put off from attempt to attempt
    FOLD_USAGE = "fold_usage"  # an organization whose ledger has rows that are not in the sums yet
    SETTLE_REWRAP = "settle_rewrap"  # by its intent: a rewrap that was announced
    # An operator's commands alone take these, so that a run that was stopped can go on.
    REWRAP_SECRETS = "rewrap_secrets"  # a credential or an endpoint
    ROTATE_TRANSIT_KEY = "rotate_transit_key"  # an organization
    REVALIDATE = "revalidate"  # a credential; one item for good, put off from check to check


@dataclass(frozen=True, slots=True, kw_only=True)
class DueItem:
    """One thing to do for one organization."""

    organization_id: str
    kind: JobKind
    id: UUID


_OF_ITEM = sa.and_(
    q.c.organization_id == sa.bindparam("organization_id", type_=sa.Text),
    q.c.kind == sa.bindparam("kind", type_=sa.Text),
    q.c.id == sa.bindparam("id", type_=q.c.id.type),
)
_ADD = Query(
    insert(q)
    .values(
        {
            name: sa.bindparam(name, type_=q.c[name].type)
            for name in ("organization_id", "kind", "id", "due_at")
        }
    )
    .on_conflict_do_nothing()
)
_SCHEDULE = Query(
    (
        _NEW := insert(q).values(
            {
                name: sa.bindparam(name, type_=q.c[name].type)
                for name in ("organization_id", "kind", "id", "due_at")
            }
        )
    ).on_conflict_do_update(
        index_elements=[q.c.organization_id, q.c.kind, q.c.id], set_={"due_at": _NEW.excluded.due_at}
    )
)
_REMOVE = Query(sa.delete(q).where(_OF_ITEM))


def _due(*conditions: sa.ColumnElement[bool]) -> sa.CTE:
    """The first of what is due, locked until the transaction ends."""
    return (
        sa.select(q.c.organization_id, q.c.kind, q.c.id, q.c.due_at)
        .where(
            q.c.kind == sa.bindparam("kind", type_=sa.Text),
            q.c.due_at <= sa.bindparam("now", type_=q.c.due_at.type),
            *conditions,
        )
        .order_by(q.c.due_at)
        .limit(sa.bindparam("at_most", type_=sa.Integer))
        .with_for_update(skip_locked=True)
        .cte("due")
    )


def _take(due: sa.FromClause, *conditions: sa.ColumnElement[bool]) -> Query:
    return Query(
        sa.update(q)
        .where(
            q.c.organization_id == due.c.organization_id,
            q.c.kind == due.c.kind,
            q.c.id == due.c.id,
            *conditions,
        )
        .values(due_at=sa.bindparam("again_at", type_=q.c.due_at.type))
        .returning(q.c.organization_id, q.c.kind, q.c.id)
    )


_TAKE = _take(_due())
# What is under way, one row an item: a share counts that too.
_UNDER_WAY = given(organization=sa.Text)
_SHARE = sa.bindparam("share", type_=sa.Integer)
_WITH_A_FULL_SHARE = (
    sa.select(_UNDER_WAY.c.organization).group_by(_UNDER_WAY.c.organization).having(sa.func.count() >= _SHARE)
)
_DUE_FAIRLY = _due(q.c.organization_id.not_in(_WITH_A_FULL_SHARE))
_NUMBERED = sa.select(
    _DUE_FAIRLY,
    (
        sa.func.row_number().over(partition_by=_DUE_FAIRLY.c.organization_id, order_by=_DUE_FAIRLY.c.due_at)
        + sa.select(sa.func.count())
        .select_from(_UNDER_WAY)
        .where(_UNDER_WAY.c.organization == _DUE_FAIRLY.c.organization_id)
        .scalar_subquery()
    ).label("number"),
).subquery("numbered")
_TAKE_FAIRLY = _take(_NUMBERED, _NUMBERED.c.number <= _SHARE)

# Owner-owned too: names of organizations, and nothing else of them.
_USAGE_ORGANIZATIONS = Query(
    sa.select(
        sa.func.usage_organizations(
            sa.bindparam("after", type_=sa.Text), sa.bindparam("at_most", type_=sa.Integer)
        ).label("organization_id")
    )
)
_HOLDER = sa.func.credentials_with_keys().table_valued(
    sa.column("organization_id", sa.Text), sa.column("credential_id", q.c.id.type)
)


def _fill(kind: JobKind, key: sa.ColumnElement[Any]) -> Query:
    item: tuple[sa.ColumnElement[Any], ...] = (
        _HOLDER.c.organization_id,
        sa.literal_column(f"'{kind}'"),
        key,
        sa.func.now(),
    )
    columns = [q.c.organization_id, q.c.kind, q.c.id, q.c.due_at]
    return Query(
        insert(q)
        .from_select(columns, sa.select(*item).select_from(_HOLDER).distinct())
        .on_conflict_do_nothing()
    )


_FILL = {
    JobKind.REWRAP_SECRETS: _fill(JobKind.REWRAP_SECRETS, _HOLDER.c.credential_id),
    JobKind.ROTATE_TRANSIT_KEY: _fill(
        JobKind.ROTATE_TRANSIT_KEY, sa.literal_column("'00000000-0000-0000-0000-000000000000'::uuid")
    ),
}
_OF_KIND = q.c.kind == sa.bindparam("kind", type_=sa.Text)
_COUNT = Query(sa.select(sa.func.count().label("n")).where(_OF_KIND))
_WAITING = Query(
    sa.select(q.c.organization_id, q.c.kind, q.c.id)
    .where(
        _OF_KIND,
        sa.tuple_(q.c.organization_id, q.c.id)
        > sa.tuple_(
            sa.bindparam("after_organization", type_=sa.Text), sa.bindparam("after_id", type_=q.c.id.type)
        ),
    )
    .order_by(q.c.organization_id, q.c.id)
    .limit(sa.bindparam("at_most", type_=sa.Integer))
)

# Owner-owned functions: the only deletions that reach across organizations.
_PURGES = tuple(
    Query(sa.select(function))
    for function in (
        sa.func.purge_idempotency_keys(),
        sa.func.purge_rate_counters(),
        sa.func.purge_spend_reservations(),
        sa.func.purge_webhook_deliveries(),
    )
)


class QueueRepository:
    """Adds in the transaction of the work, so that no crash separates the two."""

    def __init__(self, session: Session, organization_id: str = "") -> None:  # noqa: ARG002  # of all
        self._session = session

    async def add(self, item: DueItem, *, due_at: datetime) -> None:
        await self._session.execute(
            _ADD, organization_id=item.organization_id, kind=item.kind, id=item.id, due_at=due_at
        )

    async def schedule(self, item: DueItem, *, due_at: datetime) -> None:
        """Add, or put off or bring forward what is there."""
        await self._session.execute(
            _SCHEDULE, organization_id=item.organization_id, kind=item.kind, id=item.id, due_at=due_at
        )

    async def remove(self, item: DueItem) -> None:
        await self._session.execute(_REMOVE, organization_id=item.organization_id, kind=item.kind, id=item.id)

    async def take(
        self,
        kind: JobKind,
        *,
        now: datetime,
        at_most: int = 100,
        again_after: timedelta = timedelta(seconds=30),
    ) -> Sequence[DueItem]:
        """Due items, put off by `again_after`: a taker that dies loses nothing, the item comes again."""
        found = await self._session.rows(
            _TAKE, kind=kind, now=now, at_most=at_most, again_at=now + again_after
        )
        return _items(found)

    async def take_fairly(
        self,
        kind: JobKind,
        *,
        now: datetime,
        at_most: int,
        again_after: timedelta,
        under_way: Sequence[str],
        share: int,
    ) -> Sequence[DueItem]:
        """The same, with no organization beyond its `share`. `under_way` has the organization of each item not ended yet.

        Those looked at are the first `at_most` of organizations that have room. Where cutting the shares
        leaves fewer, one of them is full now, and others may be due behind it: take again.
        """
        found = await self._session.rows(
            _TAKE_FAIRLY,
            kind=kind,
            now=now,
            at_most=at_most,
            again_at=now + again_after,
            share=share,
            **arrays(organization=under_way),
        )
        return _items(found)

    async def usage_organizations(self, *, after: str, at_most: int) -> Sequence[str]:
        """Organizations with events in the ledger, in order."""
        found = await self._session.rows(_USAGE_ORGANIZATIONS, after=after, at_most=at_most)
        return [row["organization_id"] for row in found]

    async def fill(self, kind: JobKind) -> None:
        """One item for each credential and endpoint, or for each organization, that has secrets."""
        await self._session.execute(_FILL[kind])

    async def count(self, kind: JobKind) -> int:
        row = await self._session.first(_COUNT, kind=kind)
        assert row is not None
        count: int = row["n"]
        return count

    async def waiting(self, kind: JobKind, *, after: DueItem | None, at_most: int) -> Sequence[DueItem]:
        """Items behind the last one seen, due or not. For a command that runs once at a time."""
        found = await self._session.rows(
            _WAITING,
            kind=kind,
            after_organization="" if after is None else after.organization_id,
            after_id=UUID(int=0) if after is None else after.id,
            at_most=at_most,
        )
        return _items(found)

    async def purge_expired(self) -> None:
        """Drop kept answers and rate counters whose time is over."""
        for purge in _PURGES:
            await self._session.first(purge)


def _items(rows: Sequence[Row]) -> list[DueItem]:
    return [
        DueItem(organization_id=row["organization_id"], kind=JobKind(row["kind"]), id=row["id"])
        for row in rows
    ]
