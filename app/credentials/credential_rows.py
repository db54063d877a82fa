"""Reads credentials with their active and previous versions: the columns, and the masked records made of them.

Lists convert many rows, so columns are read by position, which is faster than by name.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from app.credentials.records import (
    Activate,
    CredentialRecord,
    CredentialState,
    DestroyPrevious,
    PendingRotationRecord,
    PreviousVersionRecord,
)
from app.credentials.tables import credential_rotation as r
from app.credentials.tables import credential_validation as _check
from app.credentials.tables import credential_version, provider_credential
from app.credentials.version_rows import version_columns, version_record
from app.database.bulk import found_for_each
from app.database.statements import Query, Row
from app.jobs.queue import JobKind
from app.jobs.tables import job_queue

c = provider_credential
_of_active = credential_version.alias("v")
_replaced = credential_version.alias("p")


def _joined(version: Any, number: sa.Column[Any]) -> sa.ColumnElement[bool]:
    return sa.and_(
        version.c.organization_id == c.c.organization_id,
        version.c.credential_id == c.c.id,
        version.c.key_version == number,
    )


_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
# At most one validation per version is pending, and an index finds it.
_VALIDATION_DEADLINE = (
    sa.select(_check.c.deadline_at)
    .where(
        _check.c.organization_id == _replaced.c.organization_id,
        _check.c.credential_id == _replaced.c.credential_id,
        _check.c.key_version == _replaced.c.key_version,
        _check.c.status == sa.literal_column("'pending'"),
    )
    .correlate(_replaced)
    .scalar_subquery()
)
# The relay's journal of calls is above this package, so its columns are named as text. Not by the database's function
# has_open_calls, which the workers of Citus do not have.
_open = sa.table(
    "spend_reservation", *map(sa.column, ("organization_id", "credential_id", "key_version", "state"))
)
_HAS_OPEN_CALLS = (
    sa.select(sa.literal_column("1"))
    .where(
        _open.c.organization_id == _replaced.c.organization_id,
        _open.c.credential_id == _replaced.c.credential_id,
        _open.c.key_version == _replaced.c.key_version,
        _open.c.state == sa.literal_column("'open'"),
    )
    .correlate(_replaced)
    .exists()
)
# Most credentials have no previous version. OFFSET keeps PostgreSQL from joining all versions to find that out.
_previous = (
    sa.select(
        _replaced.c.key_version,
        _replaced.c.retires_at,
        _replaced.c.last_used_at,
        _replaced.c.replaced_at,
        _replaced.c.leased_until,
        _VALIDATION_DEADLINE.label("validation_deadline"),
        _HAS_OPEN_CALLS.label("has_open_calls"),
    )
    .where(c.c.previous_key_version.is_not(None), _joined(_replaced, c.c.previous_key_version))
    .offset(sa.literal_column("0"))
    .lateral("previous")
)
# Rotations are rarely pending, so only the id is read here, from an index.
_PENDING_ROTATION = (
    sa.select(r.c.id)
    .where(
        r.c.organization_id == c.c.organization_id,
        r.c.credential_id == c.c.id,
        r.c.state == sa.literal_column("'pending'"),
    )
    .order_by(r.c.key_version.desc())
    .limit(sa.literal_column("1"))
    .correlate(c)
    .scalar_subquery()
)
_NEXT_VALIDATION = (
    sa.select(job_queue.c.due_at)
    .where(
        job_queue.c.organization_id == c.c.organization_id,
        job_queue.c.kind == sa.literal_column(f"'{JobKind.REVALIDATE}'"),
        job_queue.c.id == c.c.id,
    )
    .correlate(c)
    .scalar_subquery()
)
_ROTATION_COLUMNS = (r.c.id, r.c.activate, r.c.destroy_previous, r.c.created_at, r.c.created_by)
_pending_version = found_for_each(
    sa.select(credential_version).where(
        credential_version.c.organization_id == r.c.organization_id,
        credential_version.c.credential_id == r.c.credential_id,
        credential_version.c.key_version == r.c.key_version,
    ),
    "pending_version",
)
PENDING_ROTATIONS = Query(
    sa.select(*_ROTATION_COLUMNS, *version_columns(_pending_version, "version_"))
    .select_from(r.join(_pending_version, sa.true()))
    .where(
        r.c.organization_id == _ORGANIZATION,
        r.c.id == sa.any_(sa.bindparam("ids", type_=sa.ARRAY(r.c.id.type))),
    )
)
# In the order that `credential_record` unpacks.
_OWN_COLUMNS = (
    c.c.organization_id,
    c.c.id,
    c.c.provider,
    c.c.label,
    c.c.state,
    c.c.revision,
    c.c.created_at,
    c.c.created_by,
    c.c.updated_at,
    c.c.rotated_at,
    c.c.last_used_at,
    _PENDING_ROTATION.label("pending_rotation"),
    _NEXT_VALIDATION.label("next_validation_at"),
)
_PREVIOUS_COLUMNS = [column.label(f"previous_{column.name}") for column in _previous.c]
_PREVIOUS_VERSION = slice(len(_OWN_COLUMNS), len(_OWN_COLUMNS) + len(_PREVIOUS_COLUMNS))
_ACTIVE_VERSION = slice(_PREVIOUS_VERSION.stop, None)
_active = found_for_each(
    sa.select(_of_active).where(_joined(_of_active, c.c.current_key_version)), "active_version"
)
# Of one organization. A statement adds which of its credentials.
READ_CREDENTIALS = (
    sa.select(*_OWN_COLUMNS, *_PREVIOUS_COLUMNS, *version_columns(_active, "active_"))
    .select_from(c.join(_active, sa.true()).outerjoin(_previous, sa.true()))
    .where(c.c.organization_id == _ORGANIZATION)
)

# Several times faster than calling the enum.
_STATES = {state.value: state for state in CredentialState}


def credential_record(row: Row, rotation: PendingRotationRecord | None) -> CredentialRecord:
    """Make a masked record from a row of `READ_CREDENTIALS`, and its pending rotation."""
    values = tuple(row.values())
    (
        organization_id,
        credential_id,
        provider,
        label,
        state,
        revision,
        created_at,
        created_by,
        updated_at,
        rotated_at,
        last_used_at,
        _,
        next_validation_at,
    ) = values[: len(_OWN_COLUMNS)]
    return CredentialRecord(
        organization_id=organization_id,
        id=credential_id,
        provider=provider,
        label=label,
        state=_STATES[state],
        revision=revision,
        active_version=version_record(values[_ACTIVE_VERSION]),
        previous_version=_previous_version(values[_PREVIOUS_VERSION]),
        created_at=created_at,
        created_by=created_by,
        updated_at=updated_at,
        rotated_at=rotated_at,
        last_used_at=last_used_at,
        rotation=rotation,
        next_validation_at=next_validation_at if state == CredentialState.ACTIVE else None,
    )


def _previous_version(values: Sequence[Any]) -> PreviousVersionRecord | None:
    """The record of the values of `_PREVIOUS_COLUMNS`, which are all null without a previous version."""
    (
        key_version,
        retires_at,
        last_used_at,
        replaced_at,
        leased_until,
        validation_deadline,
        has_open_calls,
    ) = values
    if key_version is None:
        return None
    return PreviousVersionRecord(
        key_version=key_version,
        retires_at=retires_at,
        last_used_at=last_used_at,
        replaced_at=replaced_at,
        leased_until=leased_until,
        validation_deadline=validation_deadline,
        has_open_calls=has_open_calls,
    )


def pending_rotation(row: Row) -> PendingRotationRecord:
    """Make a masked record from a row of `PENDING_ROTATIONS`."""
    values = tuple(row.values())
    rotation_id, activate, destroy_previous, created_at, created_by = values[: len(_ROTATION_COLUMNS)]
    return PendingRotationRecord(
        id=rotation_id,
        activate=Activate(activate),
        destroy_previous=DestroyPrevious(destroy_previous),
        created_at=created_at,
        created_by=created_by,
        version=version_record(values[len(_ROTATION_COLUMNS) :]),
    )
