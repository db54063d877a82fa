"""The embedded store beyond the port's contract: what its table holds, and what it refuses to decrypt."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from app.core.errors import SecretStoreUnavailable
from app.core.keys.api_key import ApiKey
from app.database.engine import Database
from app.secret_store.embedded import envelope
from app.secret_store.embedded.keyset import Keyset
from app.secret_store.embedded.store import EmbeddedSecretStore
from app.secret_store.embedded.table import sealed_secret
from app.secret_store.port import SecretCorrupt, SecretMissing, SecretRef
from tests.support.database.cells import schema_of_run

KEY = ApiKey.parse("sk-ant-api03-R2D2" + 80 * "x" + "igAA")
ROW = sealed_secret.c


@pytest.fixture
def keyset() -> Keyset:
    return Keyset.generate()


@pytest.fixture
def store(database: Database, keyset: Keyset) -> EmbeddedSecretStore:
    return EmbeddedSecretStore(database, keyset)


@asynccontextmanager
async def service_connection(database: Database, ref: SecretRef) -> AsyncIterator[AsyncConnection]:
    engine = create_async_engine(database._login.url)
    async with engine.begin() as connection:
        if database._login.set_role:
            await connection.execute(sa.text("SET LOCAL ROLE byok_service"))
        await connection.execute(sa.text(f"SET LOCAL byok.org = '{ref.organization_id}'"))
        await connection.execute(sa.text(f"SET LOCAL search_path = {schema_of_run()}"))
        yield connection
    await engine.dispose()


async def rows(database: Database, ref: SecretRef) -> list[sa.Row[tuple[object, ...]]]:
    async with service_connection(database, ref) as connection:
        return list(await connection.execute(sa.select(sealed_secret).order_by(ROW.store_version)))


async def encrypted_blob(database: Database, ref: SecretRef, version: int) -> bytes:
    async with service_connection(database, ref) as connection:
        blob: bytes = (
            await connection.execute(sa.select(ROW.sealed).where(ROW.store_version == version))
        ).scalar_one()
        return blob


async def replace_blob(database: Database, ref: SecretRef, version: int, blob: bytes) -> None:
    """Change the row as an attacker with access to the database would."""
    async with service_connection(database, ref) as connection:
        changed = await connection.execute(
            sa.update(sealed_secret).where(ROW.store_version == version).values(sealed=blob)
        )
        assert changed.rowcount == 1


async def write(store: EmbeddedSecretStore, ref: SecretRef, *, expected_version: int = 0) -> None:
    await store.write(ref, KEY, intent_id=uuid4(), expected_version=expected_version)


class TestAtRest:
    async def test_the_table_holds_no_part_of_the_key(
        self, store: EmbeddedSecretStore, database: Database, ref: SecretRef
    ) -> None:
        await write(store, ref)

        (row,) = await rows(database, ref)

        assert row.created_at is not None
        assert row.destroyed_at is None
        assert KEY.reveal()[:20].encode() not in row.sealed

    async def test_destroying_empties_the_row_and_records_the_time(
        self, store: EmbeddedSecretStore, database: Database, ref: SecretRef
    ) -> None:
        await write(store, ref)

        await store.destroy(ref, 1)
        (destroyed,) = await rows(database, ref)
        await store.destroy_all(ref)
        (destroyed_again,) = await rows(database, ref)

        assert destroyed.sealed is None
        assert destroyed.destroyed_at is not None
        assert destroyed_again.destroyed_at == destroyed.destroyed_at

    async def test_a_tombstone_is_a_row_without_intent_and_secret(
        self, store: EmbeddedSecretStore, database: Database, ref: SecretRef
    ) -> None:
        await store.tombstone(ref, intent_id=uuid4(), expected_version=0)

        (row,) = await rows(database, ref)

        assert (row.intent_id, row.sealed) == (None, None)
        assert row.destroyed_at is not None

    async def test_a_destroyed_version_is_not_a_tombstone(
        self, store: EmbeddedSecretStore, ref: SecretRef
    ) -> None:
        await write(store, ref)
        await store.destroy(ref, 1)

        assert not await store.tombstone(ref, intent_id=uuid4(), expected_version=0)

    async def test_rows_of_another_organization_are_invisible(
        self,
        store: EmbeddedSecretStore,
        database: Database,
        ref: SecretRef,
        make_ref: Callable[[], SecretRef],
    ) -> None:
        await write(store, ref)

        assert await rows(database, make_ref()) == []


class TestReadRefuses:
    async def test_a_changed_blob(
        self, store: EmbeddedSecretStore, database: Database, ref: SecretRef
    ) -> None:
        await write(store, ref)
        blob = await encrypted_blob(database, ref, 1)
        await replace_blob(database, ref, 1, blob[:-1] + bytes([blob[-1] ^ 1]))

        with pytest.raises(SecretCorrupt):
            await store.read(ref, 1)

    @pytest.mark.parametrize("length", [0, 1, 60, 124, 150])
    async def test_a_truncated_blob(
        self, store: EmbeddedSecretStore, database: Database, ref: SecretRef, length: int
    ) -> None:
        await write(store, ref)
        await replace_blob(database, ref, 1, (await encrypted_blob(database, ref, 1))[:length])

        with pytest.raises(SecretCorrupt):
            await store.read(ref, 1)

    async def test_the_blob_of_another_version(
        self, store: EmbeddedSecretStore, database: Database, ref: SecretRef
    ) -> None:
        await write(store, ref)
        await write(store, ref, expected_version=1)
        await replace_blob(database, ref, 2, await encrypted_blob(database, ref, 1))

        with pytest.raises(SecretCorrupt):
            await store.read(ref, 2)

    async def test_the_blob_of_another_organization(
        self,
        store: EmbeddedSecretStore,
        database: Database,
        ref: SecretRef,
        make_ref: Callable[[], SecretRef],
    ) -> None:
        other = make_ref()
        await write(store, ref)
        await write(store, other)
        await replace_blob(database, ref, 1, await encrypted_blob(database, other, 1))

        with pytest.raises(SecretCorrupt):
            await store.read(ref, 1)

    async def test_a_restored_blob_under_a_removed_kek(
        self, store: EmbeddedSecretStore, database: Database, keyset: Keyset, ref: SecretRef
    ) -> None:
        await write(store, ref)
        backup = await encrypted_blob(database, ref, 1)
        await store.destroy(ref, 1)
        with pytest.raises(SecretMissing):
            await store.read(ref, 1)
        without_old_kek = EmbeddedSecretStore(
            database, keyset.with_new_primary_kek().without_kek(keyset.primary_kek_id)
        )
        await replace_blob(database, ref, 1, backup)

        with pytest.raises(SecretCorrupt):
            await without_old_kek.read(ref, 1)


class TestKekRotation:
    async def test_rewrapped_secrets_are_readable_without_the_old_kek(
        self, store: EmbeddedSecretStore, database: Database, keyset: Keyset, ref: SecretRef
    ) -> None:
        await write(store, ref)
        rotated = keyset.with_new_primary_kek()
        associated_data = envelope.associated_data_for(ref.organization_id, ref.credential_id, 1)

        await replace_blob(
            database,
            ref,
            1,
            envelope.rewrap(await encrypted_blob(database, ref, 1), rotated, associated_data),
        )

        with_new_kek = EmbeddedSecretStore(database, rotated.without_kek(keyset.primary_kek_id))
        assert await with_new_kek.read(ref, 1) == KEY
        with pytest.raises(SecretCorrupt):
            await store.read(ref, 1)

    async def test_keeps_fingerprints(
        self, store: EmbeddedSecretStore, database: Database, keyset: Keyset
    ) -> None:
        with_new_kek = EmbeddedSecretStore(
            database, keyset.with_new_primary_kek().without_kek(keyset.primary_kek_id)
        )

        assert await with_new_kek.fingerprint("org_a", KEY) == await store.fingerprint("org_a", KEY)


class TestDatabaseErrors:
    async def test_a_refused_statement_is_an_outage_without_the_drivers_message(
        self, store: EmbeddedSecretStore, ref: SecretRef
    ) -> None:
        beyond_integer = 1 << 40

        with pytest.raises(SecretStoreUnavailable) as refusal:
            await store.read(ref, beyond_integer)

        assert refusal.value.__cause__ is None
        assert refusal.value.__context__ is None


class TestRead:
    async def test_takes_no_transaction(
        self, store: EmbeddedSecretStore, database: Database, ref: SecretRef, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await write(store, ref)
        if database._is_pooled or database._cells is not None:
            pytest.skip("a read without a transaction needs a connection that stays the same")
        monkeypatch.setattr(database, "session", None)

        assert (await store.read(ref, 1)).reveal() == KEY.reveal()
