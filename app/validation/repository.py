"""Checks of key versions. At most one is pending per version: concurrent ones coalesce on it."""

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.credentials.tables import credential_validation as t
from app.credentials.verdicts import Reason, Trigger, ValidationRecord, ValidationStatus, Verdict
from app.database.engine import Query, Row, Session

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_ID = sa.bindparam("id", type_=t.c.id.type)
_CREDENTIAL = sa.bindparam("credential_id", type_=t.c.credential_id.type)
_PENDING = t.c.status == sa.literal_column("'pending'")
_INSERTED = [
    "organization_id",
    "id",
    "credential_id",
    "key_version",
    "status",
    "trigger",
    "requested_by",
    "created_at",
    "deadline_at",
]
_START = Query(
    insert(t)
    .values({name: sa.bindparam(name, type_=t.c[name].type) for name in _INSERTED})
    .on_conflict_do_nothing(
        index_elements=[t.c.organization_id, t.c.credential_id, t.c.key_version], index_where=_PENDING
    )
)
_FIND = Query(sa.select(t).where(t.c.organization_id == _ORGANIZATION, t.c.id == _ID))
_RUNNING = Query(
    sa.select(t).where(
        t.c.organization_id == _ORGANIZATION,
        t.c.credential_id == _CREDENTIAL,
        t.c.key_version == sa.bindparam("key_version", type_=sa.Integer),
        _PENDING,
    )
)
_BEFORE = sa.bindparam("before", type_=t.c.id.type)
_PAGE = Query(
    sa.select(t)
    .where(
        t.c.organization_id == _ORGANIZATION,
        t.c.credential_id == _CREDENTIAL,
        sa.or_(_BEFORE.is_(None), t.c.id < _BEFORE),
    )
    .order_by(t.c.id.desc())
    .limit(sa.bindparam("at_most", type_=sa.Integer))
)
_FINISH = Query(
    sa.update(t)
    .where(t.c.organization_id == _ORGANIZATION, t.c.id == _ID, _PENDING)
    .values(
        status=sa.bindparam("new_status", type_=sa.Text),
        reason=sa.bindparam("new_reason", type_=sa.Text),
        checked_at=sa.bindparam("new_checked_at", type_=t.c.checked_at.type),
        provider_request_id=sa.bindparam("request_id", type_=sa.Text),
    )
)


class ValidationRepository:
    """One organization's checks."""

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self._organization_id = organization_id

    async def start(self, record: ValidationRecord) -> bool:
        """Insert a pending check; False where one of this key version is running already."""
        inserted = await self._session.execute(
            _START,
            organization_id=self._organization_id,
            id=record.id,
            credential_id=record.credential_id,
            key_version=record.key_version,
            status=ValidationStatus.PENDING,
            trigger=record.trigger,
            requested_by=record.requested_by,
            created_at=record.created_at,
            deadline_at=record.deadline_at,
        )
        return bool(inserted)

    async def find(self, validation_id: UUID) -> ValidationRecord | None:
        row = await self._session.first(_FIND, organization_id=self._organization_id, id=validation_id)
        return None if row is None else _validation(row)

    async def find_running(self, credential_id: UUID, key_version: int) -> ValidationRecord | None:
        row = await self._session.first(
            _RUNNING,
            organization_id=self._organization_id,
            credential_id=credential_id,
            key_version=key_version,
        )
        return None if row is None else _validation(row)

    async def page(
        self, credential_id: UUID, *, at_most: int, before: UUID | None
    ) -> Sequence[ValidationRecord]:
        """Newest first."""
        found = await self._session.rows(
            _PAGE,
            organization_id=self._organization_id,
            credential_id=credential_id,
            before=before,
            at_most=at_most,
        )
        return [_validation(row) for row in found]

    async def finish(self, validation_id: UUID, verdict: Verdict) -> bool:
        """Give a pending check its verdict, for good; False where it had one already."""
        finished = await self._session.execute(
            _FINISH,
            organization_id=self._organization_id,
            id=validation_id,
            new_status=verdict.status,
            new_reason=verdict.reason,
            new_checked_at=verdict.checked_at,
            request_id=verdict.provider_request_id,
        )
        return bool(finished)


def _validation(row: Row) -> ValidationRecord:
    return ValidationRecord(
        id=row["id"],
        organization_id=row["organization_id"],
        credential_id=row["credential_id"],
        key_version=row["key_version"],
        verdict=Verdict(
            status=ValidationStatus(row["status"]),
            reason=None if row["reason"] is None else Reason(row["reason"]),
            checked_at=row["checked_at"],
            provider_request_id=row["provider_request_id"],
        ),
        trigger=Trigger(row["trigger"]),
        requested_by=row["requested_by"],
        created_at=row["created_at"],
        deadline_at=row["deadline_at"],
    )
