"""The embedded secret store: encrypted envelopes in a PostgreSQL table (`app.secret_store.embedded.table`).

Key-encryption keys (KEKs) are in a file (`app.secret_store.embedded.keyset`), not in the database.
"""

import hmac
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa
import structlog
from asyncpg import PostgresError
from sqlalchemy.dialects.postgresql import insert

from app.core.errors import DatabaseUnavailable, SecretStoreUnavailable
from app.core.keys.api_key import ApiKey
from app.core.keys.signing_secret import SigningSecret
from app.database.engine import Database
from app.database.sessions import Session
from app.database.statements import Query, Row
from app.secret_store.binding import lock_binding_shared
from app.secret_store.embedded import envelope
from app.secret_store.embedded.keyring import Keyring
from app.secret_store.embedded.keyset import Keyset
from app.secret_store.embedded.table import OF_CREDENTIAL, columns, sealed_secret
from app.secret_store.encoding import length_prefixed
from app.secret_store.port import CasMismatch, SecretCorrupt, SecretMissing, SecretRef

Result = TypeVar("Result")

log = structlog.get_logger("byok.secret_store")

_LAST_VERSION = sa.select(
    sa.func.coalesce(sa.func.max(columns.store_version), sa.literal_column("0")).label("last")
).where(OF_CREDENTIAL)
_LAST = Query(_LAST_VERSION)
_FIND = Query(
    sa.select(columns["intent_id"], columns["sealed"], columns.destroyed_at).where(
        OF_CREDENTIAL, columns.store_version == sa.bindparam("version")
    )
)
# VALUES, because Citus deparses other inserts with functions wrongly.
_NEW = {
    "organization_id": sa.bindparam("organization", type_=sa.Text),
    "credential_id": sa.bindparam("credential", type_=sa.Uuid),
    "store_version": sa.bindparam("version", type_=sa.Integer),
    "created_at": sa.func.now(),
}


def _insert(**values: sa.ColumnElement[Any]) -> Query:
    return Query(
        insert(sealed_secret)
        .values({**_NEW, **values})
        .on_conflict_do_nothing()
        .returning(columns.store_version)
    )


_INSERT = _insert(
    intent_id=sa.bindparam("intent", type_=sa.Uuid), sealed=sa.bindparam("blob", type_=sa.LargeBinary)
)
_INSERT_TOMBSTONE = _insert(destroyed_at=sa.func.now())
_destroy = (
    sa.update(sealed_secret)
    .where(OF_CREDENTIAL, columns.destroyed_at.is_(None))
    .values(sealed=sa.null(), destroyed_at=sa.func.now())
)
_DESTROY_ALL = Query(_destroy)
_DESTROY = Query(
    _destroy.where(columns.store_version == sa.any_(sa.bindparam("versions", type_=sa.ARRAY(sa.Integer))))
)
# Fails unless the table exists and may be read. Reads no row.
_PING = Query(sa.select(columns.store_version).where(sa.false()))

_PING_PLAINTEXT = b"round trip"
# During one call the required KEK may change at most twice.
_MAX_KEKS = 3


class EmbeddedSecretStore:
    """`SecretStore` over the table.

    Args:
        database: the service's pool. Every statement runs as the secret's organization.
        keys: the KEKs and the fingerprint key. A keyring reads its file again after the file was replaced.
    """

    def __init__(self, database: Database, keys: Keyset | Keyring) -> None:
        self._database = database
        self._keys = keys if isinstance(keys, Keyring) else Keyring(keys)

    async def fingerprint(self, organization_id: str, key: ApiKey) -> str:
        message = length_prefixed(organization_id.encode(), key.reveal().encode())
        return f"v1:{hmac.digest(self._keys.keyset.fingerprint_key, message, 'sha256').hex()}"

    async def current_version(self, ref: SecretRef) -> int:
        (found,) = await self._read(ref, _LAST)
        version: int = found["last"]
        return version

    async def write(
        self, ref: SecretRef, secret: ApiKey | SigningSecret, *, intent_id: UUID, expected_version: int
    ) -> int:
        version = expected_version + 1
        inserted = await self._insert_encrypted(ref, secret, version=version, intent_id=intent_id)
        # If not inserted, an earlier attempt of the same intent may have succeeded without a response.
        if inserted or await self.intent_at(ref, version) == intent_id:
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
        if await self._change(ref, _INSERT_TOMBSTONE, last=expected_version, version=version):
            return True
        found = await self._find(ref, version)
        return found is not None and found["intent_id"] is None

    async def intent_at(self, ref: SecretRef, store_version: int) -> UUID | None:
        found = await self._find(ref, store_version)
        if found is None or found["destroyed_at"] is not None:
            return None
        intent_id: UUID | None = found["intent_id"]
        return intent_id

    async def read(self, ref: SecretRef, store_version: int) -> ApiKey:
        return ApiKey(await self._decrypt(ref, store_version))

    async def read_signing_secret(self, ref: SecretRef, store_version: int) -> SigningSecret:
        text = await self._decrypt(ref, store_version)
        if not text.startswith(SigningSecret.PREFIX):
            raise SecretCorrupt
        return SigningSecret(text)

    async def destroy(self, ref: SecretRef, *store_versions: int) -> None:
        await self._change(ref, _DESTROY, versions=list(store_versions))

    async def destroy_all(self, ref: SecretRef) -> None:
        await self._change(ref, _DESTROY_ALL)

    async def ping(self) -> None:
        try:
            blob = envelope.encrypt(_PING_PLAINTEXT, self._keys.keyset, _PING_PLAINTEXT)
            envelope.decrypt(blob, self._keys.keyset, _PING_PLAINTEXT)
        except SecretCorrupt:
            raise SecretStoreUnavailable from None

        async def query(session: Session) -> None:
            await session.rows(_PING)

        await self._in_transaction(None, query)

    async def _insert_encrypted(
        self, ref: SecretRef, secret: ApiKey | SigningSecret, *, version: int, intent_id: UUID
    ) -> bool:
        """Encrypt the secret under the required KEK and insert it. Returns False if the number is taken."""
        self._keys.refresh()
        keyset = self._keys.keyset
        for _ in range(_MAX_KEKS):
            blob = envelope.encrypt(secret.reveal().encode(), keyset, _associated_data(ref, version))
            try:
                inserted = await self._change(
                    ref,
                    _INSERT,
                    kek_id=keyset.primary_kek_id,
                    last=version - 1,
                    version=version,
                    intent=intent_id,
                    blob=blob,
                )
            except _WrongKek as refusal:
                # During a rotation the file may be ahead of the database, or this process behind the file.
                self._keys.refresh()
                keyset = self._keys.keyset
                if keyset.kek(refusal.required_kek_id) is None:
                    break
                keyset = keyset.with_primary_kek(refusal.required_kek_id)
            else:
                return bool(inserted)
        log.warning("keyset_outdated")
        raise SecretStoreUnavailable

    async def _decrypt(self, ref: SecretRef, store_version: int) -> str:
        for is_last_attempt in (False, True):
            found = await self._find(ref, store_version)
            if found is None or found["sealed"] is None:
                raise SecretMissing
            try:
                return envelope.decrypt(
                    found["sealed"], self._keys.keyset, _associated_data(ref, store_version)
                ).decode()
            except SecretCorrupt:
                if is_last_attempt:
                    raise
            # The KEK may be newer than our copy of the keyset, or the secret was rewrapped after we read its row.
            self._keys.refresh()
        raise AssertionError("unreachable")

    async def _find(self, ref: SecretRef, version: int) -> Row | None:
        return next(iter(await self._read(ref, _FIND, version=version)), None)

    async def _read(self, ref: SecretRef, statement: Query, **values: object) -> Sequence[Row]:
        """Run a SELECT, in one round trip."""
        try:
            return await _rows(self._database.autocommit_read(ref.organization_id), ref, statement, values)
        except (DatabaseUnavailable, PostgresError):
            pass  # raised below, as in `_in_transaction`
        raise SecretStoreUnavailable

    async def _change(
        self,
        ref: SecretRef,
        statement: Query,
        *,
        kek_id: str | None = None,
        last: int | None = None,
        **values: object,
    ) -> Sequence[Row]:
        """Run a statement that writes.

        With `last`, do nothing unless that is the last version. Rows are never deleted, so of concurrent transactions that
        find the same last version, the primary key lets one insert the next.

        Raises:
            SecretStoreUnavailable: the keys are being moved or were moved to Vault.
            _WrongKek: the database requires another KEK than `kek_id`.
        """

        async def change(session: Session) -> Sequence[Row]:
            binding = await lock_binding_shared(session)
            if binding is not None and binding.is_embedded_store_closed:
                log.warning("secrets_moved")
                raise SecretStoreUnavailable
            required = None if binding is None else binding.kek_id
            if required is not None and kek_id not in (None, required):
                raise _WrongKek(required)
            if last is not None and (await _rows(session, ref, _LAST, {}))[0]["last"] != last:
                return []
            return await _rows(session, ref, statement, values)

        return await self._in_transaction(ref.organization_id, change)

    async def _in_transaction(
        self, organization_id: str | None, work: Callable[[Session], Awaitable[Result]]
    ) -> Result:
        try:
            async with self._database.session(organization_id) as session:
                result = await work(session)
                await session.commit()
                return result
        except (DatabaseUnavailable, PostgresError):
            pass  # raised below, so that the exception context does not hold the driver's message
        raise SecretStoreUnavailable


class _WrongKek(Exception):
    """The database requires another KEK for encryption."""

    def __init__(self, required_kek_id: str) -> None:
        super().__init__("another key-encryption key is required")
        self.required_kek_id = required_kek_id


async def _rows(
    session: Session, ref: SecretRef, statement: Query, values: dict[str, object]
) -> Sequence[Row]:
    owner = {"organization": ref.organization_id, "credential": ref.credential_id}
    return await session.rows(statement, **owner, **values)


def _associated_data(ref: SecretRef, store_version: int) -> bytes:
    # Without the kind: ids of credentials and endpoints never collide, and a rewrap knows only the row's id.
    return envelope.associated_data_for(ref.organization_id, ref.credential_id, store_version)
