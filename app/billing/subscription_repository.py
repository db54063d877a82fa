"""What an organization subscribed to, and its endpoints day by day."""

from datetime import date, datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.billing.statements import Subscription, SubscriptionRecord
from app.billing.tables import endpoint_count as n
from app.billing.tables import subscription as t
from app.database.engine import Query, Session

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_FIND = Query(sa.select(t).where(t.c.organization_id == _ORGANIZATION))
_new = insert(t).values({column.name: sa.bindparam(column.name, type_=column.type) for column in t.columns})
_SAVE = Query(
    _new.on_conflict_do_update(
        index_elements=[t.c.organization_id],
        set_={
            name: _new.excluded[name]
            for name in (
                *("plan", "monthly_fee", "included_endpoints", "endpoint_overage_fee"),
                *("revision", "updated_at", "updated_by"),
            )
        },
    )
)
_count = insert(n).values({column.name: sa.bindparam(column.name, type_=column.type) for column in n.columns})
_COUNT = Query(
    _count.on_conflict_do_update(
        index_elements=[n.c.organization_id, n.c.day],
        set_={name: _count.excluded[name] for name in ("endpoints", "updated_at", "updated_by")},
    )
)


class SubscriptionRepository:
    """One organization's subscription."""

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self._organization_id = organization_id

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

    async def count(self, day: date, endpoints: int, *, updated_at: datetime, updated_by: str) -> None:
        """Set the count of a day, in place of an earlier one."""
        await self._session.execute(
            _COUNT,
            organization_id=self._organization_id,
            day=day,
            endpoints=endpoints,
            updated_at=updated_at,
            updated_by=updated_by,
        )
