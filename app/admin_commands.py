"""Operator commands that maintain the secret store: rotate-root, migrate-secrets and rewrap-secrets."""

import hmac
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from app.composition.database_access import DatabaseAccess, owner_variable, prepare_database
from app.composition.storage import embedded_store, keyset_path, open_database
from app.composition.vault import open_vault
from app.core.errors import Unavailable
from app.database.cells.contents import secrets_left_behind
from app.database.connections import describe_failure
from app.database.engine import Database
from app.database.instance_lock import Lock, LockTaken, take_exclusive_locks
from app.database.preflight import DATABASE_ERRORS
from app.database.unit_of_work import UnitsOfWork
from app.secret_maintenance.move_to_vault import MoveToVault
from app.secret_maintenance.progress import OperationRefused, Progress
from app.secret_maintenance.rewrap_command import RewrapCommand
from app.secret_maintenance.rotate_kek import RotateKek
from app.secret_store.binding import VAULT, StoreMismatch, StoreMoving, read_binding
from app.secret_store.embedded.keyring import Keyring
from app.secret_store.embedded.keyset import Keyset, KeysetRefused
from app.secret_store.embedded.table import EncryptedSecretList, EncryptedTableUnreadable
from app.secret_store.vault.responses import VaultUnavailable
from app.settings.environment import SettingsRefused
from app.settings.settings import Settings

_LOCK_MESSAGES = {
    Lock.OPERATOR: "another maintenance command is running on this database. Run this command again when it has ended",
    Lock.INSTANCES: "instances of the service are running on this database. Stop every `byok serve` and `byok worker`,"
    " then run this command again",
}


async def rotate_root(
    settings: Settings, access: DatabaseAccess, progress: Progress, *, only_prepare: bool
) -> None:
    """Rotate the key-encryption key of the embedded store.

    Args:
        settings: the settings.
        access: the database logins.
        progress: receives one line per step.
        only_prepare: only add the next key to the keyset file.

    Raises:
        SettingsRefused: the keyset file cannot be used.
        OperationRefused: another command is running, or the command cannot continue.
    """
    async with _locked_database(settings, access, Lock.OPERATOR) as (database, _):
        keys = await _keyring(settings, database)
        rotation = RotateKek(UnitsOfWork(database), keys, EncryptedSecretList(database), progress)
        await (rotation.prepare() if only_prepare else rotation.run())


async def migrate_secrets(
    settings: Settings, access: DatabaseAccess, progress: Progress, *, cancel: bool
) -> None:
    """Move all keys and signing secrets from the embedded store to Vault.

    Args:
        settings: the settings.
        access: the database logins.
        progress: receives one line per step.
        cancel: undo an interrupted run and stay with the embedded store.

    Raises:
        SettingsRefused: no Vault address is set, or the keyset file cannot be used.
        OperationRefused: an instance or another command is running, or the command cannot continue.
    """
    if settings.vault.address is None and not cancel:
        raise SettingsRefused.of(
            "VAULT__ADDRESS", "set it to the address of the Vault server to move the keys to"
        )
    async with _locked_database(settings, access, Lock.OPERATOR, Lock.INSTANCES) as (database, resources):
        keys = await _keyring(settings, database, for_move=True)
        source = embedded_store(database, keys)
        target = source if settings.vault.address is None else open_vault(settings, resources)
        move = MoveToVault(
            UnitsOfWork(database),
            source=source,
            target=target,
            encrypted=EncryptedSecretList(database),
            progress=progress,
        )
        await (move.cancel() if cancel else move.run())


async def rewrap_secrets(
    settings: Settings, access: DatabaseAccess, progress: Progress, *, rotate_keys: bool
) -> None:
    """Rewrap all keys and signing secrets in Vault with the newest version of the transit keys.

    Args:
        settings: the settings.
        access: the database logins.
        progress: receives one line per step.
        rotate_keys: first rotate the transit key of every organization.

    Raises:
        SettingsRefused: no Vault address is set.
        OperationRefused: another command is running, or the command cannot continue.
    """
    if settings.vault.address is None:
        raise SettingsRefused.of("VAULT__ADDRESS", "not set. For the embedded store, use `byok rotate-root`")
    async with _locked_database(settings, access, Lock.OPERATOR) as (database, resources):
        await _require_vault(database)
        vault = open_vault(settings, resources)
        await RewrapCommand(UnitsOfWork(database), vault, progress).run(rotate_keys=rotate_keys)


async def _require_vault(database: Database) -> None:
    async with database.session(None, read_only=True) as session:
        binding = await read_binding(session)
    if binding is None or binding.identity != VAULT:
        raise OperationRefused(
            "the keys of this database are not stored in Vault. Next: byok migrate-secrets"
        )


async def _require_complete_moves(settings: Settings, access: DatabaseAccess) -> None:
    """Refuse secrets in a cell that their organization has left: the command would reach only those where it lives."""
    try:
        left = await secrets_left_behind(access.owner)
    except DATABASE_ERRORS as error:
        raise SettingsRefused.of(owner_variable(settings), describe_failure(error)) from None
    if left:
        raise OperationRefused(
            "a move between cells was stopped and left secrets behind; nothing was changed. Move these again, then run this"
            " command",
            *(f"byok cells move {it.organization_id} {it.cell}" for it in left),
        )


@asynccontextmanager
async def _locked_database(
    settings: Settings, access: DatabaseAccess, *locks: Lock
) -> AsyncIterator[tuple[Database, AsyncExitStack]]:
    """Open the database and hold the locks. Translate errors to messages that explain how to fix them."""
    await prepare_database(settings, access)
    try:
        async with AsyncExitStack() as resources:
            database = open_database(settings, access, resources)
            await resources.enter_async_context(take_exclusive_locks(database, *locks))
            if len(await database.cells()) > 1:
                await _require_complete_moves(settings, access)
            yield database, resources
    except LockTaken as error:
        raise OperationRefused(_LOCK_MESSAGES[error.lock]) from None
    except KeysetRefused as error:
        raise SettingsRefused.of("DATA_DIR", str(error)) from None
    except EncryptedTableUnreadable as error:
        raise OperationRefused(str(error)) from None
    except VaultUnavailable as error:
        raise OperationRefused(
            "Vault rejected a request; no data was lost. Fix the cause (if the permission is denied: byok vault-setup),"
            " then run the command again",
            error.reason,
        ) from None
    except Unavailable as error:
        raise OperationRefused(error.detail + " No data was lost. Run the command again") from None


async def _keyring(settings: Settings, database: Database, *, for_move: bool = False) -> Keyring:
    """Load the keyset that encrypts the keys of this database. Never creates one."""
    async with database.session(None, read_only=True) as session:
        binding = await read_binding(session)
    if binding is None:
        raise OperationRefused("this database has no keys yet. Next: byok serve")
    if binding.identity == VAULT:
        if for_move:
            return Keyring(
                Keyset.generate()
            )  # not used: all keys are in Vault already, and the file may be deleted
        raise OperationRefused("the keys of this database are stored in Vault. Next: byok rewrap-secrets")
    if binding.moving_to is not None and not for_move:
        raise OperationRefused(str(StoreMoving()))
    keys = Keyring.load(keyset_path(settings))
    if not hmac.compare_digest(keys.keyset.identity, binding.identity):
        raise SettingsRefused.of("DATA_DIR", str(StoreMismatch()))
    return keys
