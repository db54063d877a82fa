"""The subscription of an organization and its endpoint counts, in SQL."""

from collections.abc import Sequence
from datetime import date, datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.billing.statements import DayCount, Subscription, SubscriptionRecord
from app.billing.tables import endpoint_count as n
from app.billing.tables import subscription as t
from app.database.repository import Repository
from app.database.statements import Query

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_FIND = Query(sa.select(t).where(t.c.organization_id == _ORGANIZATION))
_upsert = insert(t).values(
    {column.name: sa.bindparam(column.name, type_=column.type) for column in t.columns}
)
_SAVE = Query(
    _upsert.on_conflict_do_update(
        index_elements=[t.c.organization_id],
        set_={
            name: _upsert.excluded[name]
            for name in (
                *("plan", "monthly_fee", "included_endpoints", "endpoint_overage_fee"),
                *("revision", "updated_at", "updated_by"),
            )
        },
    )
)
_upsert_count = insert(n).values(
    {column.name: sa.bindparam(column.name, type_=column.type) for column in n.columns}
)
_SET_ENDPOINT_COUNT = Query(
    _upsert_count.on_conflict_do_update(
        index_elements=[n.c.organization_id, n.c.day],
        set_={name: _upsert_count.excluded[name] for name in ("endpoints", "updated_at", "updated_by")},
    )
)
_FIND_COUNT = Query(
    sa.select(n.c.day, n.c.endpoints).where(
        n.c.organization_id == _ORGANIZATION, n.c.day == sa.bindparam("day", type_=sa.Date)
    )
)
_COUNTS = Query(
    sa.select(n.c.day, n.c.endpoints)
    .where(n.c.organization_id == _ORGANIZATION, n.c.day < sa.bindparam("before", type_=sa.Date))
    .order_by(n.c.day.desc())
    .limit(sa.bindparam("at_most", type_=sa.Integer))
)


class SubscriptionRepository(Repository):
    """The subscription and the endpoint counts of one organization."""

    async def find(self) -> SubscriptionRecord | None:
        row = await self._session.first(_FIND, organization_id=self._organization_id)
        if row is None:
            return None
        return SubscriptionRecord(
            subscription=Subscription(
                plan=row["plan"],
                monthly_fee=row["monthly_fee"],
                included_endpoints=row["included_endpoints"],
                endpoint_overage_fee=row["endpoint_overage_fee"],
            ),
            revision=row["revision"],
            created_at=row["created_at"],
        )

    async def save(self, record: SubscriptionRecord, *, updated_at: datetime, updated_by: str) -> None:
        await self._session.execute(
            _SAVE,
            organization_id=self._organization_id,
            plan=record.subscription.plan,
            monthly_fee=record.subscription.monthly_fee,
            included_endpoints=record.subscription.included_endpoints,
            endpoint_overage_fee=record.subscription.endpoint_overage_fee,
            revision=record.revision,
            created_at=record.created_at,
            updated_at=updated_at,
            updated_by=updated_by,
        )

    async def find_endpoint_count(self, day: date) -> DayCount | None:
        row = await self._session.first(_FIND_COUNT, organization_id=self._organization_id, day=day)
        return None if row is None else DayCount(day=row["day"], endpoints=row["endpoints"])

    async def endpoint_counts(self, *, at_most: int, before: date) -> Sequence[DayCount]:
        """Return the counts of days before `before`, latest first."""
        found = await self._session.rows(
            _COUNTS, organization_id=self._organization_id, at_most=at_most, before=before
        )
        return [DayCount(day=row["day"], endpoints=row["endpoints"]) for row in found]

    async def set_endpoint_count(self, count: DayCount, *, updated_at: datetime, updated_by: str) -> None:
        """Set the endpoint count of a day. It replaces an earlier count."""
        await self._session.execute(
            _SET_ENDPOINT_COUNT,
            organization_id=self._organization_id,
            day=count.day,
            endpoints=count.endpoints,
            updated_at=updated_at,
            updated_by=updated_by,
        )
