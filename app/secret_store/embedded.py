"""The sealed store for one machine: envelopes in a PostgreSQL table of its own.

Rows are never deleted, so a store version is taken once and for all: a destroyed secret or a
tombstone keeps its number. Root keys are in a file (`app.secret_store.keyset`), not in the database.
"""

import hmac
from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
from asyncpg import PostgresError
from sqlalchemy.dialects.postgresql import insert

from app.core.database import Database, Row, Statement
from app.domain.api_keys import ApiKey
from app.domain.errors import DatabaseUnavailable, SecretStoreUnavailable
from app.domain.webhooks import SigningSecret
from app.secret_store import envelope
from app.secret_store.base import CasMismatch, SecretCorrupt, SecretMissing, SecretRef
from app.secret_store.binding import metadata
from app.secret_store.keyset import Keyset

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
)

_row = sealed_secret.c
_OF_CREDENTIAL = sa.and_(
    _row.organization_id == sa.bindparam("organization"), _row.credential_id == sa.bindparam("credential")
)
_LAST_VERSION = sa.select(
    sa.func.coalesce(sa.func.max(_row.store_version), sa.literal_column("0")).label("last")
).where(_OF_CREDENTIAL)
_LAST = Statement(_LAST_VERSION)
_AT = Statement(
    sa.select(_row["intent_id"], _row["sealed"], _row.destroyed_at).where(
        _OF_CREDENTIAL, _row.store_version == sa.bindparam("version")
    )
)

# The cas: the number must follow the last one seen, and the primary key settles who of two was first.
_TAKE = Statement(
    insert(sealed_secret)
    .from_select(
        [
            "organization_id",
            "credential_id",
            "store_version",
            "intent_id",
            "sealed",
            "created_at",
            "destroyed_at",
        ],
        sa.select(
            sa.bindparam("organization", type_=sa.Text),
            sa.bindparam("credential", type_=sa.Uuid),
            sa.bindparam("version", type_=sa.Integer),
            sa.bindparam("intent", type_=sa.Uuid),
            sa.bindparam("sealed_bytes", type_=sa.LargeBinary),
            sa.func.now(),
            sa.case((sa.bindparam("sealed_bytes", type_=sa.LargeBinary).is_(None), sa.func.now())),
        ).where(
            _LAST_VERSION.scalar_subquery() + sa.literal_column("1")
            == sa.bindparam("version", type_=sa.Integer)
        ),
    )
    .on_conflict_do_nothing()
    .returning(_row.store_version)
)
_END = (
    sa.update(sealed_secret)
    .where(_OF_CREDENTIAL, _row.destroyed_at.is_(None))
    .values(sealed=sa.null(), destroyed_at=sa.func.now())
)
_PURGE = Statement(_END)
_DESTROY = Statement(
    _END.where(_row.store_version == sa.any_(sa.bindparam("versions", type_=sa.ARRAY(sa.Integer))))
)
# Needs the table and the right to read it, and looks at no row.
_REACH = Statement(sa.select(_row.store_version).where(sa.false()))

_PROBE = b"round trip"


class EmbeddedSecretStore:
    """`SecretStore` over the table above.

    Args:
        database: the service's pool; every statement runs as the secret's organization.
        keyset: root keys and the fingerprint key, as they were when the service started.
    """

    def __init__(self, database: Database, keyset: Keyset) -> None:
        self._database = database
        self._keyset = keyset

    async def fingerprint(self, organization_id: str, key: ApiKey) -> str:
        message = envelope.length_prefixed(organization_id.encode(), key.reveal().encode())
        return f"v1:{hmac.digest(self._keyset.fingerprint_key, message, 'sha256').hex()}"

    async def current_version(self, ref: SecretRef) -> int:
        (row,) = await self._run(ref, _LAST)
        version: int = row["last"]
        return version

    async def write(
        self, ref: SecretRef, secret: ApiKey | SigningSecret, *, intent_id: UUID, expected_version: int
    ) -> int:
        version = expected_version + 1
        sealed = envelope.seal(secret.reveal().encode(), self._keyset, _place(ref, version))
        taken = await self._run(ref, _TAKE, version=version, intent=intent_id, sealed_bytes=sealed)
        # Not taken now, but perhaps by this same intent, whose answer was lost.
        if taken or await self.intent_at(ref, version) == intent_id:
            return version
        raise CasMismatch

    async def tombstone(
        self,
        ref: SecretRef,
        *,
        intent_id: UUID,  # noqa: ARG002  a row without an intent is the tombstone
        expected_version: int,
    ) -> bool:
        version = expected_version + 1
        if await self._run(ref, _TAKE, version=version, intent=None, sealed_bytes=None):
            return True
        row = await self._at(ref, version)
        return row is not None and row["intent_id"] is None

    async def intent_at(self, ref: SecretRef, store_version: int) -> UUID | None:
        row = await self._at(ref, store_version)
        if row is None or row["destroyed_at"] is not None:
            return None
        intent_id: UUID | None = row["intent_id"]
        return intent_id

    async def read(self, ref: SecretRef, store_version: int) -> ApiKey:
        return ApiKey(await self._open(ref, store_version))

    async def read_signing_secret(self, ref: SecretRef, store_version: int) -> SigningSecret:
        text = await self._open(ref, store_version)
        if not text.startswith(SigningSecret.PREFIX):
            raise SecretCorrupt
        return SigningSecret(text)

    async def destroy(self, ref: SecretRef, *store_versions: int) -> None:
        await self._run(ref, _DESTROY, versions=list(store_versions))

    async def purge(self, ref: SecretRef) -> None:
        await self._run(ref, _PURGE)

    async def ping(self) -> None:
        try:
            blob = envelope.seal(_PROBE, self._keyset, _PROBE)
            envelope.unseal(blob, self._keyset, _PROBE)
        except SecretCorrupt:
            raise SecretStoreUnavailable from None
        await self._execute(None, _REACH, {})

    async def _open(self, ref: SecretRef, store_version: int) -> str:
        row = await self._at(ref, store_version)
        if row is None or row["sealed"] is None:
            raise SecretMissing
        return envelope.unseal(row["sealed"], self._keyset, _place(ref, store_version)).decode()

    async def _at(self, ref: SecretRef, version: int) -> Row | None:
        return next(iter(await self._run(ref, _AT, version=version)), None)

    async def _run(self, ref: SecretRef, statement: Statement, **values: object) -> Sequence[Row]:
        of_credential = {"organization": ref.organization_id, "credential": ref.credential_id}
        return await self._execute(ref.organization_id, statement, of_credential | values)

    async def _execute(
        self, organization_id: str | None, statement: Statement, values: dict[str, object]
    ) -> Sequence[Row]:
        try:
            async with self._database.session(organization_id) as session:
                found = await session.rows(statement, **values)
                await session.commit()
                return found
        except (DatabaseUnavailable, PostgresError):
            pass  # raised below, so that not even the context holds the driver's words
        raise SecretStoreUnavailable


def _place(ref: SecretRef, store_version: int) -> bytes:
    # Not the kind: no credential has the id of an endpoint, and whoever rewraps knows a row, not what it is for.
    return envelope.place(ref.organization_id, ref.credential_id, store_version)
