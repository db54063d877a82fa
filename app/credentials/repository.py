"""Credentials, as masked records."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.core.errors import DuplicateKey
from app.credentials.records import LIVE_VERSION_STATES, CredentialRecord, CredentialState
from app.credentials.tables import credential_validation as _check
from app.credentials.tables import credential_version, fingerprint_claim, provider_credential
from app.credentials.version_rows import version_columns, version_record
from app.database.engine import Query, Row, Session

c = provider_credential
_current = credential_version.alias("v")
_previous = credential_version.alias("p")


def _joined(version: Any, number: sa.Column[Any]) -> sa.ColumnElement[bool]:
    return sa.and_(
        version.c.organization_id == c.c.organization_id,
        version.c.credential_id == c.c.id,
        version.c.key_version == number,
    )


_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_ID = sa.bindparam("id", type_=c.c.id.type)
# At most one is pending per version, and found by its index.
_PREVIOUS_CHECKED_UNTIL = (
    sa.select(_check.c.deadline_at)
    .where(
        _check.c.organization_id == c.c.organization_id,
        _check.c.credential_id == c.c.id,
        _check.c.key_version == c.c.previous_key_version,
        _check.c.status == sa.literal_column("'pending'"),
    )
    .correlate(c)
    .scalar_subquery()
)
# The order in which `_credential` takes them.
_OWN = (
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
    _previous.c.key_version,  # null where there is none before
    # Most have none: then nothing is looked up.
    sa.case((c.c.previous_key_version.is_not(None), _PREVIOUS_CHECKED_UNTIL)).label("previous_checked_until"),
)
_CURRENT_COLUMNS = version_columns(_current, "current_")
_CURRENT = slice(len(_OWN), len(_OWN) + len(_CURRENT_COLUMNS))
_PREVIOUS = slice(_CURRENT.stop, None)
_READ = (
    sa.select(*_OWN, *_CURRENT_COLUMNS, *version_columns(_previous, "previous_"))
    .select_from(
        c.join(_current, _joined(_current, c.c.current_key_version)).outerjoin(
            _previous, _joined(_previous, c.c.previous_key_version)
        )
    )
    .where(c.c.organization_id == _ORGANIZATION)
)
_FIND = Query(_READ.where(c.c.id == _ID, c.c.state != sa.literal_column("'creating'")))
_BEFORE = sa.bindparam("before", type_=c.c.id.type)
_PAGE = Query(
    _READ.where(
        c.c.state == sa.any_(sa.bindparam("states", type_=sa.ARRAY(sa.Text))),
        sa.or_(_BEFORE.is_(None), c.c.id < _BEFORE),
    )
    .order_by(c.c.id.desc())
    .limit(sa.bindparam("at_most", type_=sa.Integer))
)
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
_TOUCH = Query(sa.update(c).where(_OF_CREDENTIAL).values(**_CHANGED))
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
_SET_CURRENT = Query(
    sa.update(c)
    .where(_OF_CREDENTIAL)
    .values(
        current_key_version=sa.bindparam("current", type_=sa.Integer),
        previous_key_version=sa.bindparam("previous", type_=sa.Integer),
        rotated_at=_NOW,
        **_CHANGED,
    )
)
# A use is no change of what the ETag stands for. A lease does this by a statement of its own.
_SET_PREVIOUS = Query(
    sa.update(c)
    .where(_OF_CREDENTIAL)
    .values(previous_key_version=sa.bindparam("previous", type_=sa.Integer), **_CHANGED)
)
_DELETION = Query(sa.select(c.c.deleted_at).where(_OF_CREDENTIAL))
_DELETE_UNBORN = Query(sa.delete(c).where(_OF_CREDENTIAL, c.c.state == sa.literal_column("'creating'")))
_CLAIM = Query(
    insert(fingerprint_claim)
    .values(
        organization_id=_ORGANIZATION,
        fingerprint=sa.bindparam("fingerprint", type_=sa.Text),
        credential_id=_ID,
    )
    .on_conflict_do_nothing()
)
_CLAIMED_BY = Query(
    sa.select(fingerprint_claim.c.credential_id).where(
        fingerprint_claim.c.organization_id == _ORGANIZATION,
        fingerprint_claim.c.fingerprint == sa.bindparam("fingerprint", type_=sa.Text),
    )
)
_UNCLAIM = Query(
    sa.delete(fingerprint_claim).where(
        fingerprint_claim.c.organization_id == _ORGANIZATION, fingerprint_claim.c.credential_id == _ID
    )
)


_v = credential_version
_UNCLAIM_UNUSED = Query(
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


class CredentialRepository:
    """One organization's credentials.

    Rows are locked in one order everywhere: validation, version, credential.
    """

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self._organization_id = organization_id

    async def find(self, credential_id: UUID) -> CredentialRecord | None:
        row = await self._session.first(_FIND, organization_id=self._organization_id, id=credential_id)
        return None if row is None else _credential(row)

    async def page(
        self, *, states: Sequence[CredentialState], at_most: int, before: UUID | None
    ) -> Sequence[CredentialRecord]:
        """Newest first."""
        found = await self._session.rows(
            _PAGE, organization_id=self._organization_id, states=states, at_most=at_most, before=before
        )
        return [_credential(row) for row in found]

    async def lock(self, credential_id: UUID) -> tuple[CredentialState, int] | None:
        """Lock the row until the transaction ends; its state and revision."""
        row = await self._session.first(_LOCK, organization_id=self._organization_id, id=credential_id)
        return None if row is None else (CredentialState(row["state"]), row["revision"])

    async def insert(
        self, credential_id: UUID, *, provider: str, label: str, created_at: datetime, created_by: str
    ) -> None:
        """A credential that nobody sees yet."""
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
        """Make this credential the only live one with that key; it may bring it again itself.

        Raises:
            DuplicateKey: another one has it, or is just being created with it.
        """
        values = {"organization_id": self._organization_id, "fingerprint": fingerprint}
        if await self._session.execute(_CLAIM, id=credential_id, **values):
            return
        row = await self._session.first(_CLAIMED_BY, **values)
        holder = None if row is None else row["credential_id"]
        if holder != credential_id:
            raise DuplicateKey(holder)

    async def release_fingerprints(self, credential_id: UUID) -> None:
        await self._session.execute(_UNCLAIM, organization_id=self._organization_id, id=credential_id)

    async def release_unused_fingerprints(self, credential_id: UUID) -> None:
        """Free the keys that no live version of the credential has any more."""
        await self._session.execute(_UNCLAIM_UNUSED, organization_id=self._organization_id, id=credential_id)

    async def activate(self, credential_id: UUID) -> bool:
        """Make a credential that was being created visible."""
        return bool(
            await self._session.execute(_ACTIVATE, organization_id=self._organization_id, id=credential_id)
        )

    async def rename(self, credential_id: UUID, label: str, *, now: datetime) -> None:
        await self._session.execute(
            _RENAME, organization_id=self._organization_id, id=credential_id, new_label=label, now=now
        )

    async def touch(self, credential_id: UUID, *, now: datetime) -> None:
        """Something shown has changed elsewhere: a new revision."""
        await self._session.execute(_TOUCH, organization_id=self._organization_id, id=credential_id, now=now)

    async def set_state(
        self,
        credential_id: UUID,
        state: CredentialState,
        *,
        now: datetime,
        deleted_by: str | None = None,
    ) -> None:
        """Once set, when and by whom it was deleted stay."""
        await self._session.execute(
            _SET_STATE,
            organization_id=self._organization_id,
            id=credential_id,
            new_state=state,
            new_deleted_at=None if deleted_by is None else now,
            new_deleted_by=deleted_by,
            now=now,
        )

    async def set_current(
        self, credential_id: UUID, *, current: int, previous: int | None, now: datetime
    ) -> None:
        """Another key version is in use now."""
        await self._session.execute(
            _SET_CURRENT,
            organization_id=self._organization_id,
            id=credential_id,
            current=current,
            previous=previous,
            now=now,
        )

    async def set_previous(self, credential_id: UUID, previous: int | None, *, now: datetime) -> None:
        """Which version a rollback would restore."""
        await self._session.execute(
            _SET_PREVIOUS, organization_id=self._organization_id, id=credential_id, previous=previous, now=now
        )

    async def deleted_at(self, credential_id: UUID) -> datetime | None:
        row = await self._session.first(_DELETION, organization_id=self._organization_id, id=credential_id)
        return None if row is None else row["deleted_at"]

    async def delete_unborn(self, credential_id: UUID) -> bool:
        """Remove a credential whose first key never arrived."""
        values = {"organization_id": self._organization_id, "id": credential_id}
        return bool(await self._session.execute(_DELETE_UNBORN, **values))


# Several times as fast as calling the Enum.
_STATES = {state.value: state for state in CredentialState}


def _credential(row: Row) -> CredentialRecord:
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
        previous_key_version,
        previous_checked_until,
    ) = values[: len(_OWN)]
    return CredentialRecord(
        organization_id=organization_id,
        id=credential_id,
        provider=provider,
        label=label,
        state=_STATES[state],
        revision=revision,
        current=version_record(values[_CURRENT]),
        previous=None if previous_key_version is None else version_record(values[_PREVIOUS]),
        previous_checked_until=previous_checked_until,
        created_at=created_at,
        created_by=created_by,
        updated_at=updated_at,
        rotated_at=rotated_at,
        last_used_at=last_used_at,
    )
