"""What the embedded store promises beside the port: what rests in its table, and what it refuses to open."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from app.core.api_key import ApiKey
from app.core.errors import SecretStoreUnavailable
from app.database.engine import Database
from app.secret_store.embedded import envelope
from app.secret_store.embedded.keyset import Keyset
from app.secret_store.embedded.store import EmbeddedSecretStore
from app.secret_store.embedded.table import sealed_secret
from app.secret_store.port import SecretCorrupt, SecretMissing, SecretRef

KEY = ApiKey.parse("sk-ant-api03-R2D2" + 80 * "x" + "igAA")
ROW = sealed_secret.c


@pytest.fixture
def keyset() -> Keyset:
    return Keyset.generate()


@pytest.fixture
def store(database: Database, keyset: Keyset) -> EmbeddedSecretStore:
    return EmbeddedSecretStore(database, keyset)


@asynccontextmanager
async def as_service(database: Database, ref: SecretRef) -> AsyncIterator[AsyncConnection]:
    engine = create_async_engine(database._login.url)
    async with engine.begin() as connection:
        await connection.execute(sa.text("SET LOCAL ROLE byok_service"))
        await connection.execute(sa.text(f"SET LOCAL byok.org = '{ref.organization_id}'"))
        yield connection
    await engine.dispose()


async def rows(database: Database, ref: SecretRef) -> list[sa.Row[tuple[object, ...]]]:
    async with as_service(database, ref) as connection:
        return list(await connection.execute(sa.select(sealed_secret).order_by(ROW.store_version)))


async def sealed(database: Database, ref: SecretRef, version: int) -> bytes:
    async with as_service(database, ref) as connection:
        blob: bytes = (
            await connection.execute(sa.select(ROW.sealed).where(ROW.store_version == version))
        ).scalar_one()
        return blob


async def put(database: Database, ref: SecretRef, version: int, blob: bytes) -> None:
    """Change the row as an intruder in the database would."""
    async with as_service(database, ref) as connection:
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

    async def test_destroying_empties_the_row_and_says_when(
        self, store: EmbeddedSecretStore, database: Database, ref: SecretRef
    ) -> None:
        await write(store, ref)

        await store.destroy(ref, 1)
        (destroyed,) = await rows(database, ref)
        await store.purge(ref)
        (purged,) = await rows(database, ref)

        assert destroyed.sealed is None
        assert destroyed.destroyed_at is not None
        assert purged.destroyed_at == destroyed.destroyed_at

    async def test_a_tombstone_is_a_row_without_intent_and_secret(
        self, store: EmbeddedSecretStore, database: Database, ref: SecretRef
    ) -> None:
        await store.tombstone(ref, intent_id=uuid4(), expected_version=0)

        (row,) = await rows(database, ref)

        assert (row.intent_id, row.sealed) == (None, None)
        assert row.destroyed_at is not None

    async def test_a_destroyed_write_is_no_tombstone(
        self, store: EmbeddedSecretStore, ref: SecretRef
    ) -> None:
        await write(store, ref)
        await store.destroy(ref, 1)

        assert not await store.tombstone(ref, intent_id=uuid4(), expected_version=0)

    async def test_rows_of_another_organization_are_out_of_sight(
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
        blob = await sealed(database, ref, 1)
        await put(database, ref, 1, blob[:-1] + bytes([blob[-1] ^ 1]))

        with pytest.raises(SecretCorrupt):
            await store.read(ref, 1)

    @pytest.mark.parametrize("left", [0, 1, 60, 124, 150])
    async def test_a_truncated_blob(
        self, store: EmbeddedSecretStore, database: Database, ref: SecretRef, left: int
    ) -> None:
        await write(store, ref)
        await put(database, ref, 1, (await sealed(database, ref, 1))[:left])

        with pytest.raises(SecretCorrupt):
            await store.read(ref, 1)

    async def test_the_blob_of_another_version(
        self, store: EmbeddedSecretStore, database: Database, ref: SecretRef
    ) -> None:
        await write(store, ref)
        await write(store, ref, expected_version=1)
        await put(database, ref, 2, await sealed(database, ref, 1))

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
        await put(database, ref, 1, await sealed(database, other, 1))

        with pytest.raises(SecretCorrupt):
            await store.read(ref, 1)

    async def test_a_blob_put_back_after_its_destruction_under_a_dropped_root_key(
        self, store: EmbeddedSecretStore, database: Database, keyset: Keyset, ref: SecretRef
    ) -> None:
        await write(store, ref)
        backup = await sealed(database, ref, 1)
        await store.destroy(ref, 1)
        with pytest.raises(SecretMissing):
            await store.read(ref, 1)
        shredded = EmbeddedSecretStore(database, keyset.with_new_primary().without(keyset.primary_id))
        await put(database, ref, 1, backup)

        with pytest.raises(SecretCorrupt):
            await shredded.read(ref, 1)


class TestRootRotation:
    async def test_rewrapped_secrets_outlive_the_old_root_key(
        self, store: EmbeddedSecretStore, database: Database, keyset: Keyset, ref: SecretRef
    ) -> None:
        await write(store, ref)
        rotated = keyset.with_new_primary()
        where = envelope.place(ref.organization_id, ref.credential_id, 1)

        await put(database, ref, 1, envelope.rewrap(await sealed(database, ref, 1), rotated, where))

        after = EmbeddedSecretStore(database, rotated.without(keyset.primary_id))
        assert await after.read(ref, 1) == KEY
        with pytest.raises(SecretCorrupt):
            await store.read(ref, 1)

    async def test_fingerprints_stay(
        self, store: EmbeddedSecretStore, database: Database, keyset: Keyset
    ) -> None:
        after = EmbeddedSecretStore(database, keyset.with_new_primary().without(keyset.primary_id))

        assert await after.fingerprint("org_a", KEY) == await store.fingerprint("org_a", KEY)


class TestDatabaseErrors:
    async def test_a_statement_the_database_refuses_is_an_outage_without_its_words(
        self, store: EmbeddedSecretStore, ref: SecretRef
    ) -> None:
        beyond_integer = 1 << 40

        with pytest.raises(SecretStoreUnavailable) as refusal:
            await store.read(ref, beyond_integer)

        assert refusal.value.__cause__ is None
        assert refusal.value.__context__ is None
