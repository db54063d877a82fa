"""Where the service keeps things: its database, a replica for reports, and the secret store."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from app.composition.database_access import DatabaseAccess
from app.core.errors import DatabaseUnavailable, SecretStoreUnavailable
from app.database.engine import Database
from app.database.instance_lock import LockTaken, share_instance_lock
from app.database.pool_shares import PoolQuotas
from app.database.replicas.units import replica_units
from app.database.unit_of_work import UnitsOfWork
from app.secret_store.binding import VAULT, KeysetOutdated, StoreMismatch, bind_store
from app.secret_store.embedded.keyring import Keyring
from app.secret_store.embedded.keyset import KeysetRefused
from app.secret_store.embedded.store import EmbeddedSecretStore
from app.settings.environment import SettingsRefused
from app.settings.groups.storage import DatabaseSettings
from app.settings.settings import Settings

if TYPE_CHECKING:
    from app.secret_store.vault.store import VaultSecretStore


def open_database(settings: Settings, access: DatabaseAccess, resources: AsyncExitStack) -> Database:
    """The connection pool of the service."""
    database = Database(
        access.login,
        pool_size=settings.database.pool_size,
        timeout_seconds=settings.database.timeout.total_seconds(),
        quotas=_pool_quotas(settings.database),
    )
    resources.push_async_callback(database.close)
    return database


async def open_usage_reads(
    settings: Settings,
    access: DatabaseAccess,
    primary: Database,
    units: UnitsOfWork,
    resources: AsyncExitStack,
) -> UnitsOfWork:
    """Units of work for usage reports and lists of usage events: on the replica if there is one."""
    if access.reports is None:
        return units
    if len(await primary.cells()) > 1:
        # A replica has no locks, so a move between the cells could end between two statements of a report.
        raise SettingsRefused.of(
            "DATABASE__REPORTS_URL", "reports from a replica are not supported with cells; remove it"
        )
    quotas = PoolQuotas(per_organization=_pool_quotas(settings.database).per_organization, reserved=0)
    replica = Database(
        access.reports,
        pool_size=settings.database.pool_size,
        timeout_seconds=settings.database.timeout.total_seconds(),
        quotas=quotas,
        is_replica=True,
    )
    resources.push_async_callback(replica.close)
    return await resources.enter_async_context(replica_units(primary, replica))


def _pool_quotas(settings: DatabaseSettings) -> PoolQuotas:
    per_organization, reserved = settings.connections_per_organization, settings.reserved_connections
    return PoolQuotas(
        per_organization=max(1, settings.pool_size // 2) if per_organization is None else per_organization,
        reserved=settings.pool_size * 3 // 10 if reserved is None else reserved,
    )


async def open_secret_store(
    settings: Settings, database: Database, resources: AsyncExitStack
) -> "EmbeddedSecretStore | VaultSecretStore":
    """Vault if an address is set, else the embedded store. It must be the store that holds the keys of this database."""
    store: EmbeddedSecretStore | VaultSecretStore
    try:
        await resources.enter_async_context(share_instance_lock(database))
        if settings.vault.address is None:
            keys = Keyring.load_or_create(keyset_path(settings))
            store = embedded_store(database, keys)
            bound = await bind_store(database, keys.keyset.identity)
            if bound.kek_id is not None and keys.keyset.kek(bound.kek_id) is None:
                raise KeysetOutdated
        else:
            from app.composition.vault import open_vault  # noqa: PLC0415  # slow to import, and rarely needed

            store = open_vault(settings, resources)
            await bind_store(database, VAULT)
    except LockTaken:
        raise SettingsRefused.of(
            "DATABASE__URL",
            "`byok migrate-secrets` is moving the keys of this database; start the service again when it has finished",
        ) from None
    except (KeysetRefused, StoreMismatch) as error:
        raise SettingsRefused.of(
            "DATA_DIR" if settings.vault.address is None else "VAULT__ADDRESS", str(error)
        ) from None
    except (SecretStoreUnavailable, DatabaseUnavailable):
        raise SettingsRefused.of("DATABASE__URL", "the database cannot be reached") from None
    return store


def embedded_store(database: Database, keys: Keyring) -> EmbeddedSecretStore:
    """The secret store in the database."""
    return EmbeddedSecretStore(database, keys)


def keyset_path(settings: Settings) -> Path:
    """The file with the key-encryption keys of the embedded store."""
    return settings.data_dir / "secret-store" / "keyset.json"
