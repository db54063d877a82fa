"""The embedded store's table, and what an operator's commands do with it within a transaction of theirs.

Rows are never deleted, so a store version is taken once and for all: a destroyed secret or a
tombstone keeps its number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from asyncpg import PostgresError

from app.core.errors import DatabaseUnavailable
from app.database.engine import Database, Query, Session
from app.secret_store.binding import metadata
from app.secret_store.embedded import envelope
from app.secret_store.embedded.keyset import Keyset
from app.secret_store.port import SecretCorrupt, SecretRef

sealed_secret = sa.Table(
    "sealed_secret",
    metadata,
    sa.Column("organization_id", sa.Text, primary_key=True),
    sa.Column("credential_id", sa.Uuid, primary_key=True),
    sa.Column("store_version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("intent_id", sa.Uuid, nullable=True),
    sa.Column("sealed", sa.LargeBinary, nullable=True),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("destroyed_at", sa.DateTime(timezone=True), nullable=True),
    # When its copy in another store was checked; -infinity where there may be one that was not.
    sa.Column("moved_at", sa.DateTime(timezone=True), nullable=True),
)

row = sealed_secret.c
OF_CREDENTIAL = sa.and_(
    row.organization_id == sa.bindparam("organization"), row.credential_id == sa.bindparam("credential")
)
_SEALED = Query(
    sa.select(row.store_version, row["sealed"])
    .where(OF_CREDENTIAL, row["sealed"].is_not(None))
    .order_by(row.store_version)
)
_SLOTS = Query(
    sa.select(row.store_version, row["intent_id"], row["sealed"].is_not(None).label("is_sealed"))
    .where(OF_CREDENTIAL)
    .order_by(row.store_version)
)
# Only over what was read: it may have been destroyed meanwhile.
_REWRAP = Query(
    sa.update(sealed_secret)
    .where(
        OF_CREDENTIAL,
        row.store_version == sa.bindparam("version"),
        row["sealed"] == sa.bindparam("before", type_=sa.LargeBinary),
    )
    .values(sealed=sa.bindparam("after", type_=sa.LargeBinary))
)
_MOVED = Query(sa.update(sealed_secret).where(OF_CREDENTIAL).values(moved_at=sa.func.now()))
_UNCHECKED = Query(
    sa.update(sealed_secret).where(OF_CREDENTIAL).values(moved_at=sa.literal_column("'-infinity'"))
)
_END = Query(
    sa.update(sealed_secret)
    .where(OF_CREDENTIAL, row.destroyed_at.is_(None))
    .values(sealed=sa.null(), destroyed_at=sa.func.now())
)

_AFTER = (
    sa.bindparam("after_organization", type_=sa.Text),
    sa.bindparam("after_credential", type_=sa.Uuid),
    sa.bindparam("at_most", type_=sa.Integer),
)


def _listing(function: sa.sql.functions.Function[object]) -> sa.Select[tuple[str, UUID]]:
    columns = [sa.column("organization_id", sa.Text), sa.column("credential_id", sa.Uuid)]
    return sa.select(*columns).select_from(function.table_valued(*columns))


# Owner-owned functions: they name credentials across organizations, and nothing else of them.
_LIST_SEALED = Query(
    _listing(sa.func.sealed_credentials(sa.bindparam("root", type_=sa.LargeBinary), *_AFTER))
)
_LIST_UNMOVED = Query(_listing(sa.func.unmoved_credentials(*_AFTER)))
_LIST_MOVED = Query(_listing(sa.func.moved_credentials(*_AFTER)))

_FIRST = SecretRef(organization_id="", credential_id=UUID(int=0))
_ALL = (1 << 31) - 1


class SealedTableUnreadable(Exception):
    """The database refuses. The message is a constant."""

    def __init__(self) -> None:
        super().__init__("the database refuses to list sealed keys; run `byok migrate` first")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A store version that was taken. A tombstone has no intent, what was destroyed is not sealed."""

    store_version: int
    intent_id: UUID | None
    is_sealed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrapped:
    """What became of one credential's secrets: by store version."""

    done: tuple[int, ...]
    unopenable: tuple[int, ...]


class SealedRows:
    """One organization's rows, within a transaction of it."""

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self._organization_id = organization_id

    async def rewrap(self, credential_id: UUID, keyset: Keyset) -> Rewrapped:
        """Put data keys that are under another root key under the primary one. Payloads are not opened."""
        done, unopenable = [], []
        found = await self._session.rows(_SEALED, **self._names(credential_id))
        for version, blob in ((found_row["store_version"], found_row["sealed"]) for found_row in found):
            if envelope.root_id(blob) == keyset.primary_id:
                continue
            where = envelope.place(self._organization_id, credential_id, version)
            try:
                after = envelope.rewrap(blob, keyset, where)
            except SecretCorrupt:
                unopenable.append(version)
                continue
            names = self._names(credential_id)
            if await self._session.execute(_REWRAP, **names, version=version, before=blob, after=after):
                done.append(version)
        return Rewrapped(done=tuple(done), unopenable=tuple(unopenable))

    async def slots(self, credential_id: UUID) -> Sequence[Slot]:
        """Every number that was taken, in order."""
        found = await self._session.rows(_SLOTS, **self._names(credential_id))
        return [Slot(**found_row) for found_row in found]

    async def mark_moved(self, credential_id: UUID) -> None:
        await self._session.execute(_MOVED, **self._names(credential_id))

    async def mark_unchecked(self, credential_id: UUID) -> None:
        """There may be a copy from now on."""
        await self._session.execute(_UNCHECKED, **self._names(credential_id))

    async def destroy(self, credential_id: UUID) -> int:
        """Destroy what is left here of a credential; returns how many versions that were."""
        return await self._session.execute(_END, **self._names(credential_id))

    def _names(self, credential_id: UUID) -> dict[str, object]:
        return {"organization": self._organization_id, "credential": credential_id}


class SealedList:
    """Which credentials of all organizations have sealed secrets of a kind, page by page."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def outside_root(
        self, root_id: str, *, after: SecretRef | None = None, at_most: int = _ALL
    ) -> Sequence[SecretRef]:
        """Sealed under another root key than this."""
        root = bytes.fromhex(root_id)
        return await self._list(_LIST_SEALED, after, at_most, root=root)

    async def unmoved(self, *, after: SecretRef | None = None, at_most: int = _ALL) -> Sequence[SecretRef]:
        """With a secret that has no checked copy in the other store, or with a copy that may have to go."""
        return await self._list(_LIST_UNMOVED, after, at_most)

    async def moved(self, *, after: SecretRef | None = None, at_most: int = _ALL) -> Sequence[SecretRef]:
        """With a checked copy in the other store."""
        return await self._list(_LIST_MOVED, after, at_most)

    async def left(self, *, after: SecretRef | None = None, at_most: int = _ALL) -> Sequence[SecretRef]:
        """With a secret at all."""
        return await self._list(_LIST_SEALED, after, at_most, root=None)

    async def _list(
        self, statement: Query, after: SecretRef | None, at_most: int, **values: object
    ) -> Sequence[SecretRef]:
        last = after or _FIRST
        try:
            async with self._database.session(None, read_only=True) as session:
                found = await session.rows(
                    statement,
                    after_organization=last.organization_id,
                    after_credential=last.credential_id,
                    at_most=at_most,
                    **values,
                )
        except DatabaseUnavailable:
            raise
        except PostgresError:
            raise SealedTableUnreadable from None
        return [SecretRef(**found_row) for found_row in found]
