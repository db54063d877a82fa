"""The sealed store for one machine: envelopes in a PostgreSQL table of its own (`app.secret_store.embedded.table`).

Root keys are in a file (`app.secret_store.embedded.keyset`), not in the database.
"""

import hmac
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar
from uuid import UUID

import sqlalchemy as sa
import structlog
from asyncpg import PostgresError
from sqlalchemy.dialects.postgresql import insert

from app.core.api_key import ApiKey
from app.core.errors import DatabaseUnavailable, SecretStoreUnavailable
from app.core.signing_secret import SigningSecret
from app.database.engine import Database, Query, Row, Session
from app.secret_store.binding import hold_binding
from app.secret_store.embedded import envelope
from app.secret_store.embedded.keyring import Keyring
from app.secret_store.embedded.keyset import Keyset
from app.secret_store.embedded.table import OF_CREDENTIAL, row, sealed_secret
from app.secret_store.encoding import length_prefixed
from app.secret_store.port import CasMismatch, SecretCorrupt, SecretMissing, SecretRef

Result = TypeVar("Result")

log = structlog.get_logger(__name__)

_LAST_VERSION = sa.select(
    sa.func.coalesce(sa.func.max(row.store_version), sa.literal_column("0")).label("last")
).where(OF_CREDENTIAL)
_LAST = Query(_LAST_VERSION)
_AT = Query(
    sa.select(row["intent_id"], row["sealed"], row.destroyed_at).where(
        OF_CREDENTIAL, row.store_version == sa.bindparam("version")
    )
)

# The cas: the number must follow the last one seen, and the primary key settles who of two was first.
_TAKE = Query(
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
    .returning(row.store_version)
)
_END = (
    sa.update(sealed_secret)
    .where(OF_CREDENTIAL, row.destroyed_at.is_(None))
    .values(sealed=sa.null(), destroyed_at=sa.func.now())
)
_PURGE = Query(_END)
_DESTROY = Query(
    _END.where(row.store_version == sa.any_(sa.bindparam("versions", type_=sa.ARRAY(sa.Integer))))
)
# Needs the table and the right to read it, and looks at no row.
_REACH = Query(sa.select(row.store_version).where(sa.false()))

_PROBE = b"round trip"
# A rotation may come in between twice, not more often within one call.
_MOST_ROOTS = 3


class EmbeddedSecretStore:
    """`SecretStore` over the table.

    Args:
        database: the service's pool; every statement runs as the secret's organization.
        keys: root keys and the fingerprint key; a keyring reads them again when their file was replaced.
    """

    def __init__(self, database: Database, keys: Keyset | Keyring) -> None:
        self._database = database
        self._keys = keys if isinstance(keys, Keyring) else Keyring(keys)

    async def fingerprint(self, organization_id: str, key: ApiKey) -> str:
        message = length_prefixed(organization_id.encode(), key.reveal().encode())
        return f"v1:{hmac.digest(self._keys.keyset.fingerprint_key, message, 'sha256').hex()}"

    async def current_version(self, ref: SecretRef) -> int:
        (found,) = await self._run(ref, _LAST)
        version: int = found["last"]
        return version

    async def write(
        self, ref: SecretRef, secret: ApiKey | SigningSecret, *, intent_id: UUID, expected_version: int
    ) -> int:
        version = expected_version + 1
        taken = await self._seal(ref, secret, version=version, intent_id=intent_id)
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
        if await self._change(ref, _TAKE, version=version, intent=None, sealed_bytes=None):
            return True
        found = await self._at(ref, version)
        return found is not None and found["intent_id"] is None

    async def intent_at(self, ref: SecretRef, store_version: int) -> UUID | None:
        found = await self._at(ref, store_version)
        if found is None or found["destroyed_at"] is not None:
            return None
        intent_id: UUID | None = found["intent_id"]
        return intent_id

    async def read(self, ref: SecretRef, store_version: int) -> ApiKey:
        return ApiKey(await self._open(ref, store_version))

    async def read_signing_secret(self, ref: SecretRef, store_version: int) -> SigningSecret:
        text = await self._open(ref, store_version)
        if not text.startswith(SigningSecret.PREFIX):
            raise SecretCorrupt
        return SigningSecret(text)

    async def destroy(self, ref: SecretRef, *store_versions: int) -> None:
        await self._change(ref, _DESTROY, versions=list(store_versions))

    async def purge(self, ref: SecretRef) -> None:
        await self._change(ref, _PURGE)

    async def ping(self) -> None:
        try:
            blob = envelope.seal(_PROBE, self._keys.keyset, _PROBE)
            envelope.unseal(blob, self._keys.keyset, _PROBE)
        except SecretCorrupt:
            raise SecretStoreUnavailable from None

        async def reach(session: Session) -> None:
            await session.rows(_REACH)

        await self._within(None, reach)

    async def _seal(
        self, ref: SecretRef, secret: ApiKey | SigningSecret, *, version: int, intent_id: UUID
    ) -> bool:
        """Take the number with the secret sealed under the root key that may seal; False where it is taken."""
        self._keys.refresh()
        keyset = self._keys.keyset
        for _ in range(_MOST_ROOTS):
            sealed = envelope.seal(secret.reveal().encode(), keyset, _place(ref, version))
            try:
                taken = await self._change(
                    ref, _TAKE, root=keyset.primary_id, version=version, intent=intent_id, sealed_bytes=sealed
                )
            except _RootOutdated as outdated:
                # Between two steps of a rotation the file may be ahead of the database, or we behind the file.
                self._keys.refresh()
                keyset = self._keys.keyset
                if keyset.root(outdated.allowed) is None:
                    break
                keyset = keyset.with_primary(outdated.allowed)
            else:
                return bool(taken)
        log.warning("keyset_outdated")
        raise SecretStoreUnavailable

    async def _open(self, ref: SecretRef, store_version: int) -> str:
        for is_last in (False, True):
            found = await self._at(ref, store_version)
            if found is None or found["sealed"] is None:
                raise SecretMissing
            try:
                return envelope.unseal(
                    found["sealed"], self._keys.keyset, _place(ref, store_version)
                ).decode()
            except SecretCorrupt:
                if is_last:
                    raise
            # Sealed under a root key that came since we read the file, or rewrapped since we read the row.
            self._keys.refresh()
        raise AssertionError("unreachable")

    async def _at(self, ref: SecretRef, version: int) -> Row | None:
        return next(iter(await self._run(ref, _AT, version=version)), None)

    async def _run(self, ref: SecretRef, statement: Query, **values: object) -> Sequence[Row]:
        return await self._within(ref.organization_id, lambda session: _rows(session, ref, statement, values))

    async def _change(
        self, ref: SecretRef, statement: Query, *, root: str | None = None, **values: object
    ) -> Sequence[Row]:
        """Write, unless the keys lie elsewhere by now, or `root` may not seal any more."""

        async def change(session: Session) -> Sequence[Row]:
            binding = await hold_binding(session)
            if binding is not None and binding.is_left:
                log.warning("secrets_moved")
                raise SecretStoreUnavailable
            allowed = None if binding is None else binding.root_id
            if allowed is not None and root not in (None, allowed):
                raise _RootOutdated(allowed)
            return await _rows(session, ref, statement, values)

        return await self._within(ref.organization_id, change)

    async def _within(
        self, organization_id: str | None, work: Callable[[Session], Awaitable[Result]]
    ) -> Result:
        try:
            async with self._database.session(organization_id) as session:
                result = await work(session)
                await session.commit()
                return result
        except (DatabaseUnavailable, PostgresError):
            pass  # raised below, so that not even the context holds the driver's words
        raise SecretStoreUnavailable


class _RootOutdated(Exception):
    """Another root key is the one that seals."""

    def __init__(self, allowed: str) -> None:
        super().__init__("another root key seals")
        self.allowed = allowed


async def _rows(
    session: Session, ref: SecretRef, statement: Query, values: dict[str, object]
) -> Sequence[Row]:
    of_credential = {"organization": ref.organization_id, "credential": ref.credential_id}
    return await session.rows(statement, **of_credential, **values)


def _place(ref: SecretRef, store_version: int) -> bytes:
    # Not the kind: no credential has the id of an endpoint, and whoever rewraps knows a row, not what it is for.
    return envelope.place(ref.organization_id, ref.credential_id, store_version)
