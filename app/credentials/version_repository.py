"""SQL of key versions. Every state transition names the state that it expects."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.core.clock import now
from app.credentials.records import (
    ALLOWED_TRANSITIONS,
    LIVE_VERSION_STATES,
    VersionRecord,
    VersionState,
    VersionStateError,
)
from app.credentials.tables import credential_version as t
from app.credentials.validation_results import (
    Reason,
    ResultEffect,
    ResultHistory,
    ValidationResult,
    ValidationStatus,
    effect_of,
)
from app.credentials.version_rows import endpoint_columns, provider_endpoint, version_columns, version_record
from app.database.repository import Repository
from app.database.statements import Query, Row
from app.provider_url.endpoint import ProviderEndpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """The write-protocol fields of a key version: its state, and the store versions before and after its write.

    `intent_id` identifies the writer in the secret store.
    """

    intent_id: UUID
    credential_id: UUID
    key_version: int
    state: VersionState
    expected_store_version: int
    store_version: int | None = None
    retires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretLocation:
    """The store version of a key version's secret, and the endpoint that it may be sent to."""

    key_version: int
    store_version: int
    endpoint: ProviderEndpoint
    was_valid: bool


_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_OF_CREDENTIAL = sa.and_(
    t.c.organization_id == _ORGANIZATION,
    t.c.credential_id == sa.bindparam("credential_id", type_=t.c.credential_id.type),
)
_OF_VERSION = sa.and_(_OF_CREDENTIAL, t.c.key_version == sa.bindparam("key_version_", type_=sa.Integer))
_INTENT_COLUMNS = (
    t.c.intent_id,
    t.c.credential_id,
    t.c.key_version,
    t.c.state,
    t.c.expected_store_version,
    t.c.store_version,
    t.c.retires_at,
)
_INSERTED = [
    *["organization_id", "credential_id", "key_version", "state", "intent_id", "expected_store_version"],
    *["base_url", "messages_url", "auth_style", "workspace_id", "probe_model", "key_hint", "fingerprint"],
    *["created_at", "created_by", "latest_status"],
]
_INSERT = Query(sa.insert(t).values({name: sa.bindparam(name, type_=t.c[name].type) for name in _INSERTED}))
_INTENT = Query(
    sa.select(*_INTENT_COLUMNS)
    .where(
        t.c.organization_id == _ORGANIZATION,
        t.c.intent_id == sa.bindparam("intent_id", type_=t.c.intent_id.type),
    )
    .with_for_update()
)
_INTENT_OF = Query(sa.select(t.c.intent_id).where(_OF_VERSION))
_STATE_OF = Query(sa.select(t.c.state).where(_OF_VERSION))
_TRANSITION = Query(
    sa.update(t)
    .where(_OF_VERSION, t.c.state == sa.bindparam("expected", type_=sa.Text))
    .values(
        state=sa.bindparam("new_state", type_=sa.Text),
        store_version=sa.func.coalesce(
            sa.bindparam("new_store_version", type_=sa.Integer), t.c.store_version
        ),
        activated_at=sa.func.coalesce(
            sa.bindparam("new_activated_at", type_=t.c.activated_at.type), t.c.activated_at
        ),
        retires_at=sa.bindparam("new_retires_at", type_=t.c.retires_at.type),
        replaced_at=sa.func.coalesce(
            sa.bindparam("new_replaced_at", type_=t.c.replaced_at.type), t.c.replaced_at
        ),
    )
)
# The row of version 1 exists as long as the credential. Its lock serializes changes of all versions.
_LOCK = Query(
    sa.select(t.c.key_version)
    .where(_OF_CREDENTIAL, t.c.key_version == sa.literal_column("1"))
    .with_for_update()
)
_LIVE_VERSIONS = Query(
    sa.select(*_INTENT_COLUMNS)
    .where(_OF_CREDENTIAL, t.c.destroyed_at.is_(None), t.c.state != sa.literal_column("'abandoned'"))
    .order_by(t.c.key_version)
    .with_for_update()
)
_ACTIVE = Query(
    sa.select(*_INTENT_COLUMNS)
    .where(_OF_CREDENTIAL, t.c.state == sa.literal_column("'active'"))
    .with_for_update()
)
# The version that was activated last, not the highest number: a rollback may have reversed their order.
_FIND_ROLLBACK_TARGET = Query(
    sa.select(t.c.key_version)
    .where(_OF_CREDENTIAL, t.c.state == sa.literal_column("'previous'"))
    .order_by(t.c.activated_at.desc())
    .limit(sa.literal_column("1"))
)
_HIGHEST_KEY_VERSION = Query(sa.select(sa.func.max(t.c.key_version).label("last")).where(_OF_CREDENTIAL))
_SET_DESTROYED_AT = Query(
    sa.update(t)
    .where(_OF_VERSION, t.c.destroyed_at.is_(None))
    .values(destroyed_at=sa.bindparam("now", type_=t.c.destroyed_at.type))
)
_DESTROYED = Query(
    sa.select(t.c.key_version)
    .where(_OF_CREDENTIAL, t.c.state == sa.literal_column("'destroyed'"))
    .order_by(t.c.key_version)
)
_PAGE = Query(
    sa.select(*version_columns(t))
    .where(
        _OF_CREDENTIAL,
        t.c.state != sa.literal_column("'abandoned'"),
        t.c.key_version < sa.bindparam("before", type_=sa.Integer),
    )
    .order_by(t.c.key_version.desc())
    .limit(sa.bindparam("at_most", type_=sa.Integer))
)
_LOCATION_COLUMNS = (t.c.key_version, t.c.store_version, t.c.definite_status, *endpoint_columns(t))
_FIND_LOCATION = Query(sa.select(*_LOCATION_COLUMNS).where(_OF_VERSION, t.c.store_version.is_not(None)))
_FIND_ACTIVE_LOCATION = Query(
    sa.select(*_LOCATION_COLUMNS).where(_OF_CREDENTIAL, t.c.state == sa.literal_column("'active'"))
)
_LIVE_LOCATIONS = Query(
    sa.select(*_LOCATION_COLUMNS)
    .where(
        _OF_CREDENTIAL,
        t.c.store_version.is_not(None),
        t.c.state.in_([sa.literal_column(f"'{state.value}'") for state in LIVE_VERSION_STATES]),
    )
    .order_by(t.c.key_version)
)
_LATEST: dict[str, Any] = {
    "latest_status": sa.bindparam("status", type_=sa.Text),
    "latest_reason": sa.bindparam("reason", type_=sa.Text),
    "latest_checked_at": sa.bindparam("checked_at", type_=t.c.latest_checked_at.type),
    "latest_request_id": sa.bindparam("request_id", type_=sa.Text),
}
_HISTORY = Query(
    sa.select(t.c.definite_status, t.c.indeterminate_streak, t.c.suspected_reason, t.c.suspected_at).where(
        _OF_VERSION
    )
)
_EFFECT: dict[str, Any] = _LATEST | {
    "indeterminate_streak": sa.bindparam("new_streak", type_=sa.Integer),
    "suspected_reason": sa.bindparam("new_suspected_reason", type_=sa.Text),
    "suspected_at": sa.bindparam("new_suspected_at", type_=t.c.suspected_at.type),
}
_RECORD = Query(sa.update(t).where(_OF_VERSION).values(_EFFECT))
_RECORD_DEFINITE = Query(
    sa.update(t)
    .where(_OF_VERSION)
    .values(_EFFECT | {name.replace("latest", "definite"): value for name, value in _LATEST.items()})
)
_DELETE = Query(sa.delete(t).where(_OF_VERSION))
_CLOCK = Query(sa.select(sa.func.clock_timestamp().label("now")))


class VersionRepository(Repository):
    """The key versions of one organization."""

    async def insert_intent(
        self,
        intent: Intent,
        *,
        endpoint: ProviderEndpoint,
        key_hint: str | None,
        fingerprint: str,
        created_at: datetime,
        created_by: str,
    ) -> None:
        await self._session.execute(
            _INSERT,
            organization_id=self._organization_id,
            credential_id=intent.credential_id,
            key_version=intent.key_version,
            state=intent.state,
            intent_id=intent.intent_id,
            expected_store_version=intent.expected_store_version,
            base_url=endpoint.base_url,
            messages_url=endpoint.messages_url,
            auth_style=endpoint.auth_style,
            workspace_id=endpoint.workspace_id,
            probe_model=endpoint.probe_model,
            key_hint=key_hint,
            fingerprint=fingerprint,
            created_at=created_at,
            created_by=created_by,
            latest_status="pending",
        )

    async def lock_intent(self, intent_id: UUID) -> Intent | None:
        row = await self._session.first(_INTENT, organization_id=self._organization_id, intent_id=intent_id)
        if row is None:
            return None
        return _intent(row)

    async def find_intent(self, credential_id: UUID, *, key_version: int) -> UUID | None:
        row = await self._session.first(
            _INTENT_OF,
            organization_id=self._organization_id,
            credential_id=credential_id,
            key_version_=key_version,
        )
        return None if row is None else row["intent_id"]

    async def transition(
        self,
        credential_id: UUID,
        key_version: int,
        *,
        expected: VersionState,
        to: VersionState,
        store_version: int | None = None,
        activated_at: datetime | None = None,
        retires_at: datetime | None = None,
        replaced_at: datetime | None = None,
    ) -> bool:
        """Change the state of a version. Returns False if it is not in the expected state any more.

        Raises:
            VersionStateError: the transition is not allowed.
        """
        if to not in ALLOWED_TRANSITIONS[expected]:
            raise VersionStateError("This state transition is not allowed.", expected, to)
        moved = await self._session.execute(
            _TRANSITION,
            organization_id=self._organization_id,
            credential_id=credential_id,
            key_version_=key_version,
            expected=expected,
            new_state=to,
            new_store_version=store_version,
            new_activated_at=activated_at,
            new_retires_at=retires_at,
            new_replaced_at=replaced_at,
        )
        return bool(moved)

    async def lock(self, credential_id: UUID) -> None:
        """Serialize transactions that change one version depending on others. Take this lock before reading them."""
        await self._session.first(_LOCK, organization_id=self._organization_id, credential_id=credential_id)

    async def clock(self) -> datetime:
        """The later one of the database's clock, which dates relayed calls, and this process's, which dates leases."""
        row = await self._session.one(_CLOCK)
        database_now: datetime = row["now"]
        return max(database_now, now())

    async def lock_live_versions(self, credential_id: UUID) -> Sequence[Intent]:
        """Lock every version whose secret is not known to be destroyed, oldest first."""
        await self.lock(credential_id)
        found = await self._session.rows(
            _LIVE_VERSIONS, organization_id=self._organization_id, credential_id=credential_id
        )
        return [_intent(row) for row in found]

    async def lock_active(self, credential_id: UUID) -> Intent:
        """Lock the active version. A credential that is not deleted has exactly one.

        Raises:
            NoRow: the credential has no active version.
        """
        row = await self._session.one(
            _ACTIVE, organization_id=self._organization_id, credential_id=credential_id
        )
        return _intent(row)

    async def find_rollback_target(self, credential_id: UUID) -> int | None:
        """The version that a rollback would restore."""
        row = await self._session.first(
            _FIND_ROLLBACK_TARGET, organization_id=self._organization_id, credential_id=credential_id
        )
        return None if row is None else row["key_version"]

    async def highest_key_version(self, credential_id: UUID) -> int:
        """The highest version number so far. Numbers are never reused."""
        row = await self._session.one(
            _HIGHEST_KEY_VERSION, organization_id=self._organization_id, credential_id=credential_id
        )
        last: int = row["last"]
        return last

    async def set_destroyed_at(self, credential_id: UUID, key_version: int, *, now: datetime) -> None:
        """Record when the store destroyed the secret. A recorded time is never overwritten."""
        await self._session.execute(
            _SET_DESTROYED_AT,
            organization_id=self._organization_id,
            credential_id=credential_id,
            key_version_=key_version,
            now=now,
        )

    async def destroyed_key_versions(self, credential_id: UUID) -> Sequence[int]:
        found = await self._session.rows(
            _DESTROYED, organization_id=self._organization_id, credential_id=credential_id
        )
        return [row["key_version"] for row in found]

    async def page(self, credential_id: UUID, *, at_most: int, before: int) -> Sequence[VersionRecord]:
        """List versions, newest first, without abandoned ones."""
        found = await self._session.rows(
            _PAGE,
            organization_id=self._organization_id,
            credential_id=credential_id,
            before=before,
            at_most=at_most,
        )
        return [version_record(tuple(row.values())) for row in found]

    async def find_location(self, credential_id: UUID, key_version: int) -> SecretLocation | None:
        row = await self._session.first(
            _FIND_LOCATION,
            organization_id=self._organization_id,
            credential_id=credential_id,
            key_version_=key_version,
        )
        return None if row is None else _location(row)

    async def find_active_location(self, credential_id: UUID) -> SecretLocation | None:
        """The location of the active version's secret; None if the credential is deleted."""
        row = await self._session.first(
            _FIND_ACTIVE_LOCATION, organization_id=self._organization_id, credential_id=credential_id
        )
        return None if row is None else _location(row)

    async def live_locations(self, credential_id: UUID) -> Sequence[SecretLocation]:
        """The locations of all secrets of the credential that may be used, or used again, oldest first."""
        found = await self._session.rows(
            _LIVE_LOCATIONS, organization_id=self._organization_id, credential_id=credential_id
        )
        return [_location(row) for row in found]

    async def record_result(
        self, credential_id: UUID, key_version: int, result: ValidationResult
    ) -> ResultEffect:
        """Record a validation result as the latest one and, if it lasts, as the definite one.

        Call it under `lock`: what the result changes depends on the results before it.
        """
        version = {
            "organization_id": self._organization_id,
            "credential_id": credential_id,
            "key_version_": key_version,
        }
        effect = effect_of(_history(await self._session.one(_HISTORY, **version)), result)
        await self._session.execute(
            _RECORD_DEFINITE if effect.is_definite else _RECORD,
            **version,
            status=result.status,
            reason=result.reason,
            checked_at=result.checked_at,
            request_id=result.provider_request_id,
            new_streak=effect.indeterminate_streak,
            new_suspected_reason=effect.suspected_reason,
            new_suspected_at=effect.suspected_at,
        )
        return effect

    async def is_active(self, credential_id: UUID, key_version: int) -> bool:
        """Whether this is the credential's active version."""
        row = await self._session.first(
            _STATE_OF,
            organization_id=self._organization_id,
            credential_id=credential_id,
            key_version_=key_version,
        )
        return row is not None and row["state"] == VersionState.ACTIVE

    async def delete(self, credential_id: UUID, key_version: int) -> None:
        """Delete the row of a version whose secret was never stored."""
        await self._session.execute(
            _DELETE,
            organization_id=self._organization_id,
            credential_id=credential_id,
            key_version_=key_version,
        )


def _location(row: Row) -> SecretLocation:
    key_version, store_version, definite_status, *endpoint_values = row.values()
    return SecretLocation(
        key_version=key_version,
        store_version=store_version,
        endpoint=provider_endpoint(endpoint_values),
        was_valid=definite_status == "valid",
    )


def _history(row: Row) -> ResultHistory:
    definite, suspected = row["definite_status"], row["suspected_reason"]
    return ResultHistory(
        definite_status=None if definite is None else ValidationStatus(definite),
        indeterminate_streak=row["indeterminate_streak"],
        suspected_reason=None if suspected is None else Reason(suspected),
        suspected_at=row["suspected_at"],
    )


def _intent(row: Row) -> Intent:
    return Intent(
        intent_id=row["intent_id"],
        credential_id=row["credential_id"],
        key_version=row["key_version"],
        state=VersionState(row["state"]),
        expected_store_version=row["expected_store_version"],
        store_version=row["store_version"],
        retires_at=row["retires_at"],
    )
