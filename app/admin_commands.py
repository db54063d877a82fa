"""The commands of an operator on the secret store, over what the settings name."""

import hmac
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from app.composition.bootstrap import (
    DatabaseAccess,
    embedded_store,
    keyset_path,
    open_database,
    open_vault,
    prepare_database,
)
from app.core.errors import Unavailable
from app.database.engine import Database
from app.database.instance_lock import Lock, LockTaken, alone
from app.database.unit_of_work import UnitsOfWork
from app.secret_maintenance.move_to_vault import MoveToVault
from app.secret_maintenance.progress import OperationRefused, Progress
from app.secret_maintenance.rewrap_command import RewrapCommand
from app.secret_maintenance.rotate_root_key import RotateRootKey
from app.secret_store.binding import VAULT, StoreMismatch, StoreMoving, read_binding
from app.secret_store.embedded.keyring import Keyring
from app.secret_store.embedded.keyset import Keyset, KeysetRefused
from app.secret_store.embedded.table import SealedList, SealedTableUnreadable
from app.secret_store.vault.responses import VaultUnavailable
from app.settings.environment import Settings, SettingsRefused

_TAKEN = {
    Lock.OPERATOR: "another operator's command runs on this database; wait for its end",
    Lock.INSTANCES: "instances of the service run on this database. Stop every `byok serve` and `byok worker`, and run"
    " it again",
}


async def rotate_root(
    settings: Settings, access: DatabaseAccess, progress: Progress, *, only_prepare: bool
) -> None:
    """Raises SettingsRefused, OperationRefused."""
    async with _at_work(settings, access, Lock.OPERATOR) as (database, _):
        keys = await _keyring(settings, database)
        rotation = RotateRootKey(UnitsOfWork(database), keys, SealedList(database), progress)
        await (rotation.prepare() if only_prepare else rotation.run())


async def migrate_secrets(
    settings: Settings, access: DatabaseAccess, progress: Progress, *, cancel: bool
) -> None:
    """Raises SettingsRefused, OperationRefused."""
    if settings.vault.address is None and not cancel:
        raise SettingsRefused.of("VAULT__ADDRESS", "set it to the Vault to move the keys to")
    async with _at_work(settings, access, Lock.OPERATOR, Lock.INSTANCES) as (database, resources):
        keys = await _keyring(settings, database, for_move=True)
        source = embedded_store(database, keys)
        target = source if settings.vault.address is None else open_vault(settings, resources)
        move = MoveToVault(
            UnitsOfWork(database),
            source=source,
            target=target,
            sealed=SealedList(database),
            progress=progress,
        )
        await (move.cancel() if cancel else move.run())


async def rewrap_secrets(
    settings: Settings, access: DatabaseAccess, progress: Progress, *, rotate_keys: bool
) -> None:
    """Raises SettingsRefused, OperationRefused."""
    if settings.vault.address is None:
        raise SettingsRefused.of("VAULT__ADDRESS", "keys outside Vault are rewrapped by `byok rotate-root`")
    async with _at_work(settings, access, Lock.OPERATOR) as (database, resources):
        await _require_vault(database)
        vault = open_vault(settings, resources)
        await RewrapCommand(UnitsOfWork(database), vault, progress).run(rotate_keys=rotate_keys)


async def _require_vault(database: Database) -> None:
    async with database.session(None, read_only=True) as session:
        binding = await read_binding(session)
    if binding is None or binding.identity != VAULT:
        raise OperationRefused("this database's keys do not lie in Vault. Next: byok migrate-secrets")


@asynccontextmanager
async def _at_work(
    settings: Settings, access: DatabaseAccess, *locks: Lock
) -> AsyncIterator[tuple[Database, AsyncExitStack]]:
    """The database, with the locks held; what goes wrong is told in words that say how to mend it."""
    await prepare_database(settings, access)
    try:
        async with AsyncExitStack() as resources:
            database = open_database(settings, access, resources)
            await resources.enter_async_context(alone(database, *locks))
            yield database, resources
    except LockTaken as error:
        raise OperationRefused(_TAKEN[error.lock]) from None
    except KeysetRefused as error:
        raise SettingsRefused.of("DATA_DIR", str(error)) from None
    except SealedTableUnreadable as error:
        raise OperationRefused(str(error)) from None
    except VaultUnavailable as error:
        raise OperationRefused(
            "Vault stopped it, and nothing is lost. Mend that (if permission is denied: byok vault-setup), then run it"
            " again",
            error.reason,
        ) from None
    except Unavailable as error:
        raise OperationRefused(error.detail + " Nothing is lost: run the command again") from None


async def _keyring(settings: Settings, database: Database, *, for_move: bool = False) -> Keyring:
    """The keyset that the database's keys are sealed with. Nothing is made here."""
    async with database.session(None, read_only=True) as session:
        binding = await read_binding(session)
    if binding is None:
        raise OperationRefused("this database has no keys yet. Next: byok serve")
    if binding.identity == VAULT:
        if for_move:
            return Keyring(Keyset.generate())  # the file may be gone: nothing is opened with it any more
        raise OperationRefused("this database's keys lie in Vault. Next: byok rewrap-secrets")
    if binding.moving_to is not None and not for_move:
        raise OperationRefused(str(StoreMoving()))
    keys = Keyring.load(keyset_path(settings))
    if not hmac.compare_digest(keys.keyset.identity, binding.identity):
        raise SettingsRefused.of("DATA_DIR", str(StoreMismatch()))
    return keys
