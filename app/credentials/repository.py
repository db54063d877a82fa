"""SQL of credentials and of fingerprint claims. Returns masked records."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.core.errors import CredentialDeleted, DuplicateKey, NotFound
from app.credentials.credential_rows import (
    PENDING_ROTATIONS,
    READ_CREDENTIALS,
    credential_record,
    pending_rotation,
)
from app.credentials.records import DELETED_STATES, LIVE_VERSION_STATES, CredentialRecord, CredentialState
from app.credentials.tables import credential_version, fingerprint_claim, provider_credential
from app.database.repository import Repository
from app.database.statements import Query, Row

c = provider_credential
_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_ID = sa.bindparam("id", type_=c.c.id.type)
_FIND = Query(READ_CREDENTIALS.where(c.c.id == _ID, c.c.state != sa.literal_column("'creating'")))
_BEFORE = sa.bindparam("before", type_=c.c.id.type)
_PAGE_OF_ANY = (
    READ_CREDENTIALS.where(
        c.c.state == sa.any_(sa.bindparam("states", type_=sa.ARRAY(sa.Text))),
        sa.or_(_BEFORE.is_(None), c.c.id < _BEFORE),
    )
    .order_by(c.c.id.desc())
    .limit(sa.bindparam("at_most", type_=sa.Integer))
)
_PAGE = Query(_PAGE_OF_ANY)
# The condition of the index of live credentials.
_IS_LIVE = c.c.state.not_in([sa.literal_column(f"'{state}'") for state in DELETED_STATES])
_PAGE_LIVE = Query(_PAGE_OF_ANY.where(_IS_LIVE))
_LOCK = Query(
    sa.select(c.c.state, c.c.revision)
    .where(c.c.organization_id == _ORGANIZATION, c.c.id == _ID)
    .with_for_update(key_share=True)
)
_INSERTED = [
    "organization_id",
    "id",
    "provider",
    "label",
    "state",
    "revision",
    "current_key_version",
    "created_at",
    "created_by",
    "updated_at",
]
_INSERT = Query(sa.insert(c).values({name: sa.bindparam(name, type_=c.c[name].type) for name in _INSERTED}))
_OF_CREDENTIAL = sa.and_(c.c.organization_id == _ORGANIZATION, c.c.id == _ID)
_NOW = sa.bindparam("now", type_=c.c.updated_at.type)
_CHANGED: dict[str, Any] = {"revision": c.c.revision + sa.literal_column("1"), "updated_at": _NOW}
_RENAME = Query(
    sa.update(c).where(_OF_CREDENTIAL).values(label=sa.bindparam("new_label", type_=sa.Text), **_CHANGED)
)
_ACTIVATE = Query(
    sa.update(c)
    .where(_OF_CREDENTIAL, c.c.state == sa.literal_column("'creating'"))
    .values(state=sa.literal_column("'active'"))
)
_INCREMENT_REVISION = Query(sa.update(c).where(_OF_CREDENTIAL).values(**_CHANGED))
_SET_STATE = Query(
    sa.update(c)
    .where(_OF_CREDENTIAL)
    .values(
        state=sa.bindparam("new_state", type_=sa.Text),
        deleted_at=sa.func.coalesce(
            c.c.deleted_at, sa.bindparam("new_deleted_at", type_=c.c.deleted_at.type)
        ),
        deleted_by=sa.func.coalesce(c.c.deleted_by, sa.bindparam("new_deleted_by", type_=sa.Text)),
        **_CHANGED,
    )
)
_SET_ACTIVE_VERSION = Query(
    sa.update(c)
    .where(_OF_CREDENTIAL)
    .values(
        current_key_version=sa.bindparam("active", type_=sa.Integer),
        previous_key_version=sa.bindparam("previous", type_=sa.Integer),
        rotated_at=_NOW,
        **_CHANGED,
    )
)
_SET_PREVIOUS = Query(
    sa.update(c)
    .where(_OF_CREDENTIAL)
    .values(previous_key_version=sa.bindparam("previous", type_=sa.Integer), **_CHANGED)
)
_DELETION = Query(sa.select(c.c.deleted_at).where(_OF_CREDENTIAL))
_DELETE_INCOMPLETE = Query(sa.delete(c).where(_OF_CREDENTIAL, c.c.state == sa.literal_column("'creating'")))
_CLAIM_FINGERPRINT = Query(
    insert(fingerprint_claim)
    .values(
        organization_id=_ORGANIZATION,
        fingerprint=sa.bindparam("fingerprint", type_=sa.Text),
        credential_id=_ID,
    )
    .on_conflict_do_nothing()
)
_FIND_FINGERPRINT_CLAIM = Query(
    sa.select(fingerprint_claim.c.credential_id).where(
        fingerprint_claim.c.organization_id == _ORGANIZATION,
        fingerprint_claim.c.fingerprint == sa.bindparam("fingerprint", type_=sa.Text),
    )
)
_RELEASE_FINGERPRINTS = Query(
    sa.delete(fingerprint_claim).where(
        fingerprint_claim.c.organization_id == _ORGANIZATION, fingerprint_claim.c.credential_id == _ID
    )
)


_v = credential_version
_RELEASE_UNUSED_FINGERPRINTS = Query(
    sa.delete(fingerprint_claim).where(
        fingerprint_claim.c.organization_id == _ORGANIZATION,
        fingerprint_claim.c.credential_id == _ID,
        ~sa.exists().where(
            _v.c.organization_id == fingerprint_claim.c.organization_id,
            _v.c.credential_id == fingerprint_claim.c.credential_id,
            _v.c.fingerprint == fingerprint_claim.c.fingerprint,
            _v.c.state.in_([sa.literal_column(f"'{state}'") for state in LIVE_VERSION_STATES]),
        ),
    )
)


_LOCK_COUNT = Query(
    sa.select(
        sa.func.pg_advisory_xact_lock(
            sa.func.hashtext(sa.literal_column("'byok.credentials'")), sa.func.hashtext(_ORGANIZATION)
        )
    )
)
_COUNT = Query(
    sa.select(sa.func.count().label("credentials")).where(c.c.organization_id == _ORGANIZATION, _IS_LIVE)
)


class LockedCredential(NamedTuple):
    """State and revision of a locked row, also of a credential that is being created."""

    state: CredentialState
    revision: int


class CredentialRepository(Repository):
    """The credentials of one organization.

    Every transaction locks rows in this order: validation, version, credential.
    """

    async def count_for_insert(self) -> int:
        """Count credentials that are not deleted. Other transactions that insert one wait until this one ends."""
        await self._session.first(_LOCK_COUNT, organization_id=self._organization_id)
        row = await self._session.one(_COUNT, organization_id=self._organization_id)
        count: int = row["credentials"]
        return count

    async def find(self, credential_id: UUID) -> CredentialRecord | None:
        """Find a credential, also a deleted one. A credential that is being created is not found."""
        row = await self._session.first(_FIND, organization_id=self._organization_id, id=credential_id)
        return None if row is None else (await self._credentials([row]))[0]

    async def get(self, credential_id: UUID) -> CredentialRecord:
        """Get a credential, also a deleted one.

        Raises:
            NotFound
        """
        record = await self.find(credential_id)
        if record is None:
            raise NotFound
        return record

    async def get_live(self, credential_id: UUID) -> CredentialRecord:
        """Get a credential that is not deleted.

        Raises:
            NotFound, CredentialDeleted
        """
        record = await self.get(credential_id)
        if record.state in DELETED_STATES:
            raise CredentialDeleted
        return record

    async def page(
        self, *, states: Sequence[CredentialState], at_most: int, before: UUID | None
    ) -> Sequence[CredentialRecord]:
        """List credentials, newest first."""
        page = _PAGE_LIVE if set(DELETED_STATES).isdisjoint(states) else _PAGE
        found = await self._session.rows(
            page, organization_id=self._organization_id, states=states, at_most=at_most, before=before
        )
        return await self._credentials(found)

    async def _credentials(self, found: Sequence[Row]) -> list[CredentialRecord]:
        """The records of rows, with their pending rotations."""
        pending = [row["pending_rotation"] for row in found if row["pending_rotation"] is not None]
        rotations = {}
        if pending:
            rows = await self._session.rows(
                PENDING_ROTATIONS, organization_id=self._organization_id, ids=pending
            )
            rotations = {row["id"]: pending_rotation(row) for row in rows}
        return [credential_record(row, rotations.get(row["pending_rotation"])) for row in found]

    async def lock(self, credential_id: UUID) -> LockedCredential | None:
        """Lock the row until the transaction ends."""
        row = await self._session.first(_LOCK, organization_id=self._organization_id, id=credential_id)
        if row is None:
            return None
        return LockedCredential(state=CredentialState(row["state"]), revision=row["revision"])

    async def insert(
        self, credential_id: UUID, *, provider: str, label: str, created_at: datetime, created_by: str
    ) -> None:
        """Insert a credential in state `creating`, which clients cannot see."""
        await self._session.execute(
            _INSERT,
            organization_id=self._organization_id,
            id=credential_id,
            provider=provider,
            label=label,
            state=CredentialState.CREATING,
            revision=1,
            current_key_version=1,
            created_at=created_at,
            created_by=created_by,
            updated_at=created_at,
        )

    async def claim_fingerprint(self, fingerprint: str, credential_id: UUID) -> None:
        """Reserve a key for this credential. It may already hold the claim, because versions may repeat a key.

        Raises:
            DuplicateKey: another credential holds the claim.
        """
        values = {"organization_id": self._organization_id, "fingerprint": fingerprint}
        if await self._session.execute(_CLAIM_FINGERPRINT, id=credential_id, **values):
            return
        row = await self._session.first(_FIND_FINGERPRINT_CLAIM, **values)
        claimed_by = None if row is None else row["credential_id"]
        if claimed_by != credential_id:
            raise DuplicateKey(claimed_by)

    async def release_fingerprints(self, credential_id: UUID) -> None:
        await self._session.execute(
            _RELEASE_FINGERPRINTS, organization_id=self._organization_id, id=credential_id
        )

    async def release_unused_fingerprints(self, credential_id: UUID) -> None:
        """Release the claims on keys that no live version of the credential has any more."""
        await self._session.execute(
            _RELEASE_UNUSED_FINGERPRINTS, organization_id=self._organization_id, id=credential_id
        )

    async def activate(self, credential_id: UUID) -> bool:
        """Make a credential in state `creating` visible. Returns False if it is not in that state."""
        return bool(
            await self._session.execute(_ACTIVATE, organization_id=self._organization_id, id=credential_id)
        )

    async def rename(self, credential_id: UUID, label: str, *, now: datetime) -> None:
        await self._session.execute(
            _RENAME, organization_id=self._organization_id, id=credential_id, new_label=label, now=now
        )

    async def increment_revision(self, credential_id: UUID, *, now: datetime) -> None:
        """Record that a visible field outside this table has changed."""
        await self._session.execute(
            _INCREMENT_REVISION, organization_id=self._organization_id, id=credential_id, now=now
        )

    async def set_state(
        self,
        credential_id: UUID,
        state: CredentialState,
        *,
        now: datetime,
        deleted_by: str | None = None,
    ) -> None:
        """Change the state. The time and the actor of a deletion are never overwritten."""
        await self._session.execute(
            _SET_STATE,
            organization_id=self._organization_id,
            id=credential_id,
            new_state=state,
            new_deleted_at=None if deleted_by is None else now,
            new_deleted_by=deleted_by,
            now=now,
        )

    async def set_active_version(
        self, credential_id: UUID, *, active: int, previous: int | None, now: datetime
    ) -> None:
        """Record which key versions are active and previous."""
        await self._session.execute(
            _SET_ACTIVE_VERSION,
            organization_id=self._organization_id,
            id=credential_id,
            active=active,
            previous=previous,
            now=now,
        )

    async def set_previous(self, credential_id: UUID, previous: int | None, *, now: datetime) -> None:
        """Record which version a rollback would restore."""
        await self._session.execute(
            _SET_PREVIOUS, organization_id=self._organization_id, id=credential_id, previous=previous, now=now
        )

    async def deleted_at(self, credential_id: UUID) -> datetime | None:
        row = await self._session.first(_DELETION, organization_id=self._organization_id, id=credential_id)
        return None if row is None else row["deleted_at"]

    async def delete_incomplete(self, credential_id: UUID) -> bool:
        """Delete a credential in state `creating`, whose first key never reached the store."""
        values = {"organization_id": self._organization_id, "id": credential_id}
        return bool(await self._session.execute(_DELETE_INCOMPLETE, **values))
