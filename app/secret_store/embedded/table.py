"""The embedded store's table, and what the operator's commands do with it within their own transactions.

Rows are never deleted, so a store version is used only once: a destroyed secret or a tombstone keeps its number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from asyncpg import PostgresError

from app.core.errors import DatabaseUnavailable
from app.database.engine import Database
from app.database.repository import Repository
from app.database.statements import Query
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
    # When the copy in the other store was verified; -infinity if a copy may exist that was not verified.
    sa.Column("moved_at", sa.DateTime(timezone=True), nullable=True),
)

columns = sealed_secret.c
OF_CREDENTIAL = sa.and_(
    columns.organization_id == sa.bindparam("organization"),
    columns.credential_id == sa.bindparam("credential"),
)
_ENCRYPTED = Query(
    sa.select(columns.store_version, columns["sealed"])
    .where(OF_CREDENTIAL, columns["sealed"].is_not(None))
    .order_by(columns.store_version)
)
_TAKEN_VERSIONS = Query(
    sa.select(columns.store_version, columns["intent_id"])
    .where(OF_CREDENTIAL)
    .order_by(columns.store_version)
)
# Replaces only the blob that was read: the secret may have been destroyed since.
_REWRAP = Query(
    sa.update(sealed_secret)
    .where(
        OF_CREDENTIAL,
        columns.store_version == sa.bindparam("version"),
        columns["sealed"] == sa.bindparam("before", type_=sa.LargeBinary),
    )
    .values(sealed=sa.bindparam("after", type_=sa.LargeBinary))
)
_MARK_MOVED = Query(sa.update(sealed_secret).where(OF_CREDENTIAL).values(moved_at=sa.func.now()))
_MARK_UNVERIFIED = Query(
    sa.update(sealed_secret).where(OF_CREDENTIAL).values(moved_at=sa.literal_column("'-infinity'"))
)
_DESTROY_ALL = Query(
    sa.update(sealed_secret)
    .where(OF_CREDENTIAL, columns.destroyed_at.is_(None))
    .values(sealed=sa.null(), destroyed_at=sa.func.now())
)

_AFTER = (
    sa.bindparam("after_organization", type_=sa.Text),
    sa.bindparam("after_credential", type_=sa.Uuid),
    sa.bindparam("at_most", type_=sa.Integer),
)


def _select_from(function: sa.sql.functions.Function[object]) -> sa.Select[tuple[str, UUID]]:
    listed = [sa.column("organization_id", sa.Text), sa.column("credential_id", sa.Uuid)]
    return sa.select(*listed).select_from(function.table_valued(*listed))


# SECURITY DEFINER functions: they return ids across organizations, and no other column.
_LIST_ENCRYPTED = Query(
    _select_from(sa.func.sealed_credentials(sa.bindparam("root", type_=sa.LargeBinary), *_AFTER))
)
_LIST_UNMOVED = Query(_select_from(sa.func.unmoved_credentials(*_AFTER)))
_LIST_MOVED = Query(_select_from(sa.func.moved_credentials(*_AFTER)))

_FIRST = SecretRef(organization_id="", credential_id=UUID(int=0))


class EncryptedTableUnreadable(Exception):
    """The database refuses the query. The message is a constant."""

    def __init__(self) -> None:
        super().__init__("the database refuses to list encrypted keys. Run `byok migrate`, then try again")


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenVersion:
    """A store version that is in use or was used. A tombstone has no intent."""

    store_version: int
    intent_id: UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RewrapResult:
    """The store versions of one credential that were rewrapped, and those that could not be decrypted."""

    rewrapped: tuple[int, ...]
    undecryptable: tuple[int, ...]


class EncryptedRows(Repository):
    """One organization's rows, within one of its transactions."""

    async def rewrap(self, credential_id: UUID, keyset: Keyset) -> RewrapResult:
        """Wrap the credential's DEKs under the primary KEK. Payloads are not decrypted."""
        rewrapped, undecryptable = [], []
        found = await self._session.rows(_ENCRYPTED, **self._owner(credential_id))
        for version, blob in ((row["store_version"], row["sealed"]) for row in found):
            if envelope.kek_id(blob) == keyset.primary_kek_id:
                continue
            associated_data = envelope.associated_data_for(self._organization_id, credential_id, version)
            try:
                after = envelope.rewrap(blob, keyset, associated_data)
            except SecretCorrupt:
                undecryptable.append(version)
                continue
            owner = self._owner(credential_id)
            if await self._session.execute(_REWRAP, **owner, version=version, before=blob, after=after):
                rewrapped.append(version)
        return RewrapResult(rewrapped=tuple(rewrapped), undecryptable=tuple(undecryptable))

    async def taken_versions(self, credential_id: UUID) -> Sequence[TakenVersion]:
        """Every store version of the credential, in order, including destroyed ones and tombstones."""
        found = await self._session.rows(_TAKEN_VERSIONS, **self._owner(credential_id))
        return [TakenVersion(**row) for row in found]

    async def mark_moved(self, credential_id: UUID) -> None:
        """Record that the copy in the other store was verified."""
        await self._session.execute(_MARK_MOVED, **self._owner(credential_id))

    async def mark_unverified(self, credential_id: UUID) -> None:
        """Record that the other store may hold a copy that was not verified."""
        await self._session.execute(_MARK_UNVERIFIED, **self._owner(credential_id))

    async def destroy_all(self, credential_id: UUID) -> int:
        """Destroy the credential's remaining secrets here. Returns how many were destroyed."""
        return await self._session.execute(_DESTROY_ALL, **self._owner(credential_id))

    def _owner(self, credential_id: UUID) -> dict[str, object]:
        return {"organization": self._organization_id, "credential": credential_id}


class EncryptedSecretList:
    """Lists the credentials and endpoints of a cell that have encrypted secrets, page by page.

    The cell is the first one, or the one of `app.database.cells.directory.in_cell`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def outside_kek(self, kek_id: str, after: SecretRef | None, at_most: int) -> Sequence[SecretRef]:
        """Those with a secret that is encrypted under another KEK."""
        return await self._list(_LIST_ENCRYPTED, after, at_most, root=bytes.fromhex(kek_id))

    async def unmoved(self, after: SecretRef | None, at_most: int) -> Sequence[SecretRef]:
        """Those with a secret that has no verified copy in the other store, or with a copy to be removed."""
        return await self._list(_LIST_UNMOVED, after, at_most)

    async def moved(self, after: SecretRef | None, at_most: int) -> Sequence[SecretRef]:
        """Those with a verified copy in the other store."""
        return await self._list(_LIST_MOVED, after, at_most)

    async def remaining(self, after: SecretRef | None, at_most: int) -> Sequence[SecretRef]:
        """Those with any secret in this store."""
        return await self._list(_LIST_ENCRYPTED, after, at_most, root=None)

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
            raise EncryptedTableUnreadable from None
        return [SecretRef(**row) for row in found]
