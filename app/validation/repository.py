"""SQL of validations. A key version has at most one pending validation; concurrent requests share it."""

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.credentials.tables import credential_validation as t
from app.credentials.tables import credential_version
from app.credentials.validation_results import (
    Reason,
    Trigger,
    ValidationRecord,
    ValidationResult,
    ValidationStatus,
)
from app.credentials.version_rows import endpoint_columns, provider_endpoint
from app.database.bulk import found_for_each
from app.database.repository import Repository
from app.database.statements import Query, Row
from app.provider_url.auth_style import other_auth_style

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_ID = sa.bindparam("id", type_=t.c.id.type)
_CREDENTIAL = sa.bindparam("credential_id", type_=t.c.credential_id.type)
_PENDING = t.c.status == sa.literal_column("'pending'")
_INSERTED_COLUMNS = [
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
_INSERT_PENDING = Query(
    insert(t)
    .values({name: sa.bindparam(name, type_=t.c[name].type) for name in _INSERTED_COLUMNS})
    .on_conflict_do_nothing(
        index_elements=[t.c.organization_id, t.c.credential_id, t.c.key_version], index_where=_PENDING
    )
)
_version = found_for_each(
    sa.select(*endpoint_columns(credential_version)).where(
        credential_version.c.organization_id == t.c.organization_id,
        credential_version.c.credential_id == t.c.credential_id,
        credential_version.c.key_version == t.c.key_version,
    ),
    "version",
)
_ENDPOINT = endpoint_columns(_version)
_SELECT = sa.select(t, *_ENDPOINT).join(_version, sa.true())
_FIND = Query(_SELECT.where(t.c.organization_id == _ORGANIZATION, t.c.id == _ID))
_FIND_PENDING = Query(
    _SELECT.where(
        t.c.organization_id == _ORGANIZATION,
        t.c.credential_id == _CREDENTIAL,
        t.c.key_version == sa.bindparam("key_version", type_=sa.Integer),
        _PENDING,
    )
)
_BEFORE = sa.bindparam("before", type_=t.c.id.type)
_PAGE = Query(
    _SELECT.where(
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


class ValidationRepository(Repository):
    """Validations of one organization."""

    async def insert_pending(self, record: ValidationRecord) -> bool:
        """Insert a pending validation. Returns False if this key version already has one."""
        inserted = await self._session.execute(
            _INSERT_PENDING,
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

    async def find_pending(self, credential_id: UUID, key_version: int) -> ValidationRecord | None:
        row = await self._session.first(
            _FIND_PENDING,
            organization_id=self._organization_id,
            credential_id=credential_id,
            key_version=key_version,
        )
        return None if row is None else _validation(row)

    async def page(
        self, credential_id: UUID, *, at_most: int, before: UUID | None
    ) -> Sequence[ValidationRecord]:
        """Return one page of a credential's validations, newest first."""
        found = await self._session.rows(
            _PAGE,
            organization_id=self._organization_id,
            credential_id=credential_id,
            before=before,
            at_most=at_most,
        )
        return [_validation(row) for row in found]

    async def finish(self, validation_id: UUID, result: ValidationResult) -> bool:
        """Store the result of a pending validation. Returns False if it is no longer pending; a result never changes."""
        finished = await self._session.execute(
            _FINISH,
            organization_id=self._organization_id,
            id=validation_id,
            new_status=result.status,
            new_reason=result.reason,
            new_checked_at=result.checked_at,
            request_id=result.provider_request_id,
        )
        return bool(finished)


def _validation(row: Row) -> ValidationRecord:
    is_refused = row["reason"] == Reason.INVALID_KEY
    endpoint = provider_endpoint([row[column.name] for column in _ENDPOINT])
    return ValidationRecord(
        id=row["id"],
        organization_id=row["organization_id"],
        credential_id=row["credential_id"],
        key_version=row["key_version"],
        result=ValidationResult(
            status=ValidationStatus(row["status"]),
            reason=None if row["reason"] is None else Reason(row["reason"]),
            checked_at=row["checked_at"],
            provider_request_id=row["provider_request_id"],
        ),
        trigger=Trigger(row["trigger"]),
        requested_by=row["requested_by"],
        created_at=row["created_at"],
        deadline_at=row["deadline_at"],
        other_auth_style=other_auth_style(endpoint) if is_refused else None,
    )
