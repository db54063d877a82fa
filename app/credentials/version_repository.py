"""Key versions: the rows of the order of writes. Every move names the state it expects."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.credentials.records import LEGAL_MOVES, VersionRecord, VersionState
from app.credentials.tables import credential_version as t
from app.credentials.verdicts import Verdict
from app.credentials.version_rows import destination, destination_columns, version_columns, version_record
from app.database.engine import Query, Row, Session
from app.provider_url.endpoint import ProviderEndpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A write to the secret store that was announced: who writes, and on top of what."""

    intent_id: UUID
    credential_id: UUID
    key_version: int
    state: VersionState
    expected_store_version: int
    store_version: int | None = None
    retires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedVersion:
    """Where a version's secret lies and where it may be sent."""

    key_version: int
    store_version: int
    destination: ProviderEndpoint
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
_MOVE = Query(
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
# Version 1 is there as long as its credential, so its row stands for all of them.
_LOCK = Query(
    sa.select(t.c.key_version)
    .where(_OF_CREDENTIAL, t.c.key_version == sa.literal_column("1"))
    .with_for_update()
)
_STANDING = Query(
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
# By when it was last in use, not by number: a rollback may have made a higher one the earlier.
_NEWEST_PREVIOUS = Query(
    sa.select(t.c.key_version)
    .where(_OF_CREDENTIAL, t.c.state == sa.literal_column("'previous'"))
    .order_by(t.c.activated_at.desc())
    .limit(sa.literal_column("1"))
)
_LAST_NUMBER = Query(sa.select(sa.func.max(t.c.key_version).label("last")).where(_OF_CREDENTIAL))
_STAMP_DESTROYED = Query(
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
_SEALED_COLUMNS = (t.c.key_version, t.c.store_version, t.c.definite_status, *destination_columns(t))
_SEALED = Query(sa.select(*_SEALED_COLUMNS).where(_OF_VERSION, t.c.store_version.is_not(None)))
_ACTIVE_SEALED = Query(
    sa.select(*_SEALED_COLUMNS).where(_OF_CREDENTIAL, t.c.state == sa.literal_column("'active'"))
)
_LATEST: dict[str, Any] = {
    "latest_status": sa.bindparam("status", type_=sa.Text),
    "latest_reason": sa.bindparam("reason", type_=sa.Text),
    "latest_checked_at": sa.bindparam("checked_at", type_=t.c.latest_checked_at.type),
    "latest_request_id": sa.bindparam("request_id", type_=sa.Text),
}
_RECORD = Query(
    sa.update(t)
    .where(_OF_VERSION)
    .values(_LATEST | {"indeterminate_streak": t.c.indeterminate_streak + sa.literal_column("1")})
    .returning(t.c.indeterminate_streak)
)
_RECORD_DEFINITE = Query(
    sa.update(t)
    .where(_OF_VERSION)
    .values(
        _LATEST
        | {name.replace("latest", "definite"): value for name, value in _LATEST.items()}
        | {"indeterminate_streak": sa.literal_column("0")}
    )
    .returning(t.c.indeterminate_streak)
)
_DELETE = Query(sa.delete(t).where(_OF_VERSION))


class VersionRepository:
    """One organization's key versions."""

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self._organization_id = organization_id

    async def insert_intent(
        self,
        intent: Intent,
        *,
        destination: ProviderEndpoint,
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
            base_url=destination.base_url,
            messages_url=destination.messages_url,
            auth_style=destination.auth_style,
            workspace_id=destination.workspace_id,
            probe_model=destination.probe_model,
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

    async def move(
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
        """Move a version from the expected state; False where somebody else moved it first."""
        assert to in LEGAL_MOVES[expected], "not a legal move"
        moved = await self._session.execute(
            _MOVE,
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
        """Whatever moves one version and looks at others takes this first, and then sees what is committed."""
        await self._session.first(_LOCK, organization_id=self._organization_id, credential_id=credential_id)

    async def lock_standing(self, credential_id: UUID) -> Sequence[Intent]:
        """Every version whose secret is not known to be gone, oldest first, locked."""
        await self.lock(credential_id)
        found = await self._session.rows(
            _STANDING, organization_id=self._organization_id, credential_id=credential_id
        )
        return [_intent(row) for row in found]

    async def lock_active(self, credential_id: UUID) -> Intent:
        """The version in use, locked. There is always exactly one while the credential lives."""
        row = await self._session.first(
            _ACTIVE, organization_id=self._organization_id, credential_id=credential_id
        )
        assert row is not None
        return _intent(row)

    async def newest_previous(self, credential_id: UUID) -> int | None:
        """The version that a rollback would restore."""
        row = await self._session.first(
            _NEWEST_PREVIOUS, organization_id=self._organization_id, credential_id=credential_id
        )
        return None if row is None else row["key_version"]

    async def last_number(self, credential_id: UUID) -> int:
        """The highest number ever given: numbers are never reused."""
        row = await self._session.first(
            _LAST_NUMBER, organization_id=self._organization_id, credential_id=credential_id
        )
        assert row is not None
        last: int = row["last"]
        return last

    async def stamp_destroyed(self, credential_id: UUID, key_version: int, *, now: datetime) -> None:
        """The store has destroyed it: from when on."""
        await self._session.execute(
            _STAMP_DESTROYED,
            organization_id=self._organization_id,
            credential_id=credential_id,
            key_version_=key_version,
            now=now,
        )

    async def destroyed_numbers(self, credential_id: UUID) -> Sequence[int]:
        found = await self._session.rows(
            _DESTROYED, organization_id=self._organization_id, credential_id=credential_id
        )
        return [row["key_version"] for row in found]

    async def page(self, credential_id: UUID, *, at_most: int, before: int) -> Sequence[VersionRecord]:
        """Newest first; abandoned intents are not shown."""
        found = await self._session.rows(
            _PAGE,
            organization_id=self._organization_id,
            credential_id=credential_id,
            before=before,
            at_most=at_most,
        )
        return [version_record(tuple(row.values())) for row in found]

    async def find_sealed(self, credential_id: UUID, key_version: int) -> SealedVersion | None:
        row = await self._session.first(
            _SEALED,
            organization_id=self._organization_id,
            credential_id=credential_id,
            key_version_=key_version,
        )
        return None if row is None else _sealed(row)

    async def find_active(self, credential_id: UUID) -> SealedVersion | None:
        """The version in use; None once the credential is deleted."""
        row = await self._session.first(
            _ACTIVE_SEALED, organization_id=self._organization_id, credential_id=credential_id
        )
        return None if row is None else _sealed(row)

    async def record_verdict(self, credential_id: UUID, key_version: int, verdict: Verdict) -> int:
        """The last attempt; and the standing verdict, if this one is definite.

        Returns how many attempts in a row found nothing definite.
        """
        row = await self._session.first(
            _RECORD_DEFINITE if verdict.is_definite else _RECORD,
            organization_id=self._organization_id,
            credential_id=credential_id,
            key_version_=key_version,
            status=verdict.status,
            reason=verdict.reason,
            checked_at=verdict.checked_at,
            request_id=verdict.provider_request_id,
        )
        assert row is not None
        streak: int = row["indeterminate_streak"]
        return streak

    async def delete(self, credential_id: UUID, key_version: int) -> None:
        """Remove the row of a version that never came to be."""
        await self._session.execute(
            _DELETE,
            organization_id=self._organization_id,
            credential_id=credential_id,
            key_version_=key_version,
        )


def _sealed(row: Row) -> SealedVersion:
    key_version, store_version, definite_status, *its_destination = row.values()
    return SealedVersion(
        key_version=key_version,
        store_version=store_version,
        destination=destination(its_destination),
        was_valid=definite_status == "valid",
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
