"""The job queue. Any number of instances claim due items without waiting for each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.database.bulk import bulk_params, unnest
from app.database.repository import Repository
from app.database.statements import FixedStatement, Query, Row
from app.jobs.tables import job_queue as q


class JobKind(StrEnum):
    """The kind of work. The comment states what an item's `id` refers to."""

    SETTLE_INTENT = "settle_intent"  # the intent of an interrupted write
    SETTLE_VALIDATION = "settle_validation"  # an interrupted validation
    RETRY_ROTATION = "retry_rotation"  # a rotation whose key could not be validated yet
    DESTROY_VERSION = "destroy_version"  # the intent of a version whose key must be destroyed
    PURGE_CREDENTIAL = "purge_credential"  # a deleted credential whose keys are not all destroyed
    SETTLE_WEBHOOK = "settle_webhook"  # an endpoint whose secret is being stored or destroyed
    DELIVER_WEBHOOK = "deliver_webhook"  # a delivery; rescheduled after each failed attempt
    NOTIFY_USAGE_MODE = "notify_usage_mode"  # the time of a scheduled change, in microseconds from 1970
    FOLD_USAGE = "fold_usage"  # an organization whose ledger has unaggregated rows
    SETTLE_REWRAP = "settle_rewrap"  # the intent of an announced rewrap
    # Only operator commands process these. They let a command that was stopped continue.
    REWRAP_SECRETS = "rewrap_secrets"  # a credential or a webhook endpoint
    ROTATE_TRANSIT_KEY = "rotate_transit_key"  # an organization
    REVALIDATE = "revalidate"  # a credential; a permanent item, rescheduled after each validation


@dataclass(frozen=True, slots=True, kw_only=True)
class DueItem:
    """One item of work for one organization."""

    organization_id: str
    kind: JobKind
    id: UUID


_IS_ITEM = sa.and_(
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
# The organization's item of the kind `FOLD_USAGE`, added with the round trip that commits its rows.
ENQUEUE_ROLLUP = FixedStatement(
    sa.text(
        "INSERT INTO job_queue (organization_id, kind, id, due_at)"
        " VALUES (current_setting('byok.org'), 'fold_usage', '00000000-0000-0000-0000-000000000000',"
        " clock_timestamp()) ON CONFLICT DO NOTHING"
    )
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
_REMOVE = Query(sa.delete(q).where(_IS_ITEM))


def _due(*conditions: sa.ColumnElement[bool]) -> sa.CTE:
    """The items that have been due longest, locked until the transaction ends."""
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


def _claim(due: sa.FromClause, *conditions: sa.ColumnElement[bool]) -> Query:
    return Query(
        sa.update(q)
        .where(
            q.c.organization_id == due.c.organization_id,
            q.c.kind == due.c.kind,
            q.c.id == due.c.id,
            *conditions,
        )
        .values(due_at=sa.bindparam("visible_at", type_=q.c.due_at.type))
        .returning(q.c.organization_id, q.c.kind, q.c.id)
    )


_CLAIM = _claim(_due())
# Items in progress, one row each. They count towards the quota of their organization.
_IN_PROGRESS = unnest(organization=sa.Text)
_QUOTA = sa.bindparam("quota", type_=sa.Integer)
_AT_QUOTA = (
    sa.select(_IN_PROGRESS.c.organization)
    .group_by(_IN_PROGRESS.c.organization)
    .having(sa.func.count() >= _QUOTA)
)
_DUE_FAIRLY = _due(q.c.organization_id.not_in(_AT_QUOTA))
_NUMBERED = sa.select(
    _DUE_FAIRLY,
    (
        sa.func.row_number().over(partition_by=_DUE_FAIRLY.c.organization_id, order_by=_DUE_FAIRLY.c.due_at)
        + sa.select(sa.func.count())
        .select_from(_IN_PROGRESS)
        .where(_IN_PROGRESS.c.organization == _DUE_FAIRLY.c.organization_id)
        .scalar_subquery()
    ).label("number"),
).subquery("numbered")
_CLAIM_FAIRLY = _claim(_NUMBERED, _NUMBERED.c.number <= _QUOTA)

# A function that runs as the owner. It returns ids of organizations and no other data.
_USAGE_ORGANIZATIONS = Query(
    sa.select(
        sa.func.usage_organizations(
            sa.bindparam("after", type_=sa.Text), sa.bindparam("at_most", type_=sa.Integer)
        ).label("organization_id")
    )
)
_KEY_HOLDER = sa.func.credentials_with_keys().table_valued(
    sa.column("organization_id", sa.Text), sa.column("credential_id", q.c.id.type)
)


def _enqueue_all(kind: JobKind, key: sa.ColumnElement[Any]) -> Query:
    item: tuple[sa.ColumnElement[Any], ...] = (
        _KEY_HOLDER.c.organization_id,
        sa.literal_column(f"'{kind}'"),
        key,
        sa.func.now(),
    )
    columns = [q.c.organization_id, q.c.kind, q.c.id, q.c.due_at]
    return Query(
        insert(q)
        .from_select(columns, sa.select(*item).select_from(_KEY_HOLDER).distinct())
        .on_conflict_do_nothing()
    )


_ENQUEUE_ALL = {
    JobKind.REWRAP_SECRETS: _enqueue_all(JobKind.REWRAP_SECRETS, _KEY_HOLDER.c.credential_id),
    JobKind.ROTATE_TRANSIT_KEY: _enqueue_all(
        JobKind.ROTATE_TRANSIT_KEY, sa.literal_column("'00000000-0000-0000-0000-000000000000'::uuid")
    ),
}
_IS_KIND = q.c.kind == sa.bindparam("kind", type_=sa.Text)
_COUNT = Query(sa.select(sa.func.count().label("n")).where(_IS_KIND))
_PAGE = Query(
    sa.select(q.c.organization_id, q.c.kind, q.c.id)
    .where(
        _IS_KIND,
        sa.tuple_(q.c.organization_id, q.c.id)
        > sa.tuple_(
            sa.bindparam("after_organization", type_=sa.Text), sa.bindparam("after_id", type_=q.c.id.type)
        ),
    )
    .order_by(q.c.organization_id, q.c.id)
    .limit(sa.bindparam("at_most", type_=sa.Integer))
)


class QueueRepository(Repository):
    """Adds, claims and removes items.

    An item is added in the same transaction as the change that requires it, so a crash cannot separate the two.
    """

    async def add(self, item: DueItem, *, due_at: datetime) -> None:
        await self._session.execute(
            _ADD, organization_id=item.organization_id, kind=item.kind, id=item.id, due_at=due_at
        )

    async def schedule(self, item: DueItem, *, due_at: datetime) -> None:
        """Add the item, or change the due time of an existing one."""
        await self._session.execute(
            _SCHEDULE, organization_id=item.organization_id, kind=item.kind, id=item.id, due_at=due_at
        )

    async def remove(self, item: DueItem) -> bool:
        """Remove the item. Returns False if it does not exist, for example because another instance removed it."""
        return bool(
            await self._session.execute(
                _REMOVE, organization_id=item.organization_id, kind=item.kind, id=item.id
            )
        )

    async def claim(
        self,
        kind: JobKind,
        *,
        now: datetime,
        at_most: int = 100,
        visibility_timeout: timedelta = timedelta(seconds=30),
    ) -> Sequence[DueItem]:
        """Claim due items: no worker sees them again before `visibility_timeout` has passed.

        A worker removes or reschedules an item when it is done. If the worker dies, the item becomes due again.
        """
        found = await self._session.rows(
            _CLAIM, kind=kind, now=now, at_most=at_most, visible_at=now + visibility_timeout
        )
        return _items(found)

    async def claim_fairly(
        self,
        kind: JobKind,
        *,
        now: datetime,
        at_most: int,
        visibility_timeout: timedelta,
        in_progress: Sequence[str],
        per_organization: int,
    ) -> Sequence[DueItem]:
        """Claim due items like `claim`, but at most `per_organization` of one organization at a time.

        Looks at the first `at_most` items of organizations that are below their quota. If it returns fewer than
        `at_most`, a quota may have cut off the rest: call again, because items of other organizations may be due.
        `in_progress` has the organization of each item that this worker has not finished yet; those count
        towards `per_organization` too.
        """
        found = await self._session.rows(
            _CLAIM_FAIRLY,
            kind=kind,
            now=now,
            at_most=at_most,
            visible_at=now + visibility_timeout,
            quota=per_organization,
            **bulk_params(organization=in_progress),
        )
        return _items(found)

    async def usage_organizations(self, *, after: str, at_most: int) -> Sequence[str]:
        """Ids of organizations that have events in the ledger, in ascending order."""
        found = await self._session.rows(_USAGE_ORGANIZATIONS, after=after, at_most=at_most)
        return [row["organization_id"] for row in found]

    async def enqueue_all(self, kind: JobKind) -> None:
        """Add an item for each credential and webhook endpoint, or for each organization, that has secrets."""
        await self._session.execute(_ENQUEUE_ALL[kind])

    async def count(self, kind: JobKind) -> int:
        row = await self._session.one(_COUNT, kind=kind)
        count: int = row["n"]
        return count

    async def page(self, kind: JobKind, *, after: DueItem | None, at_most: int) -> Sequence[DueItem]:
        """Items after `after`, due or not, without claiming them.

        For commands that hold an exclusive lock, so that no two process the same items.
        """
        found = await self._session.rows(
            _PAGE,
            kind=kind,
            after_organization="" if after is None else after.organization_id,
            after_id=UUID(int=0) if after is None else after.id,
            at_most=at_most,
        )
        return _items(found)


def _items(rows: Sequence[Row]) -> list[DueItem]:
    return [
        DueItem(organization_id=row["organization_id"], kind=JobKind(row["kind"]), id=row["id"])
        for row in rows
    ]
