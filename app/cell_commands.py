"""Operator commands for cells: list, add, close, open, move and delete."""

import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from app.composition.database_access import ROLE_WITHOUT_LOGIN, DatabaseAccess, owner_variable
from app.composition.storage import open_database
from app.core.errors import DatabaseUnavailable
from app.database.cells.contents import CellInUse, delete_cell, set_takes_new
from app.database.cells.directory import ARE_ON_CITUS, CELL_PATTERN, HOME
from app.database.cells.moves import Moved, MoveRefused, move_organization
from app.database.cells.nodes import (
    Node,
    WorkersNotReady,
    cell_addresses,
    missing_for_workers,
    read_nodes,
    wait_for_workers,
)
from app.database.connections import connect, describe_failure, read_only_transaction
from app.database.instance_lock import Lock, LockTaken, take_exclusive_locks
from app.database.migrations import MigrationFailed, create_cell, current_revision, newest_revision
from app.database.preflight import DATABASE_ERRORS
from app.secret_maintenance.progress import OperationRefused
from app.settings.environment import SettingsRefused
from app.settings.settings import Settings

_LIST = """
    SELECT c.name, c.takes_new, count(o.organization_id) AS organizations
    FROM cells.cell c LEFT JOIN cells.organization_cell o ON o.cell = c.name
    GROUP BY c.name, c.takes_new ORDER BY c.name <> 'public', c.name
"""
_NAME = re.compile(CELL_PATTERN)
# Schemas that are not cells. A schema named like a role is in the default search path of that role.
_RESERVED = re.compile(r"public|cells|information_schema|pg_.*|citus.*|columnar.*|byok_.*")
_IS_ROLE = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)"
_LOCK_MESSAGES = {
    Lock.OPERATOR: "Another maintenance command is running on this database. Run this command again when it has ended",
    Lock.INSTANCES: "Instances of the service are running. Before the first cell is added, stop every `byok serve` and"
    " `byok worker`",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A cell. Without a directory, all organizations live in the first cell, and `organizations` is not known."""

    name: str
    takes_new: bool
    organizations: int | None
    worker: str | None = None  # host:port, if it is on a worker of Citus


async def list_nodes(settings: Settings, access: DatabaseAccess) -> Sequence[Node]:
    """The nodes of Citus, the coordinator first. Without Citus, none.

    Raises:
        SettingsRefused
    """
    async with _refused_errors(settings), read_only_transaction(access.owner) as connection:
        return await read_nodes(connection)


async def list_cells(settings: Settings, access: DatabaseAccess) -> Sequence[Cell]:
    """All cells, the first one first.

    Raises:
        SettingsRefused, OperationRefused
    """
    await _check_revision(settings, access)
    async with _refused_errors(settings), read_only_transaction(access.owner) as connection:
        addresses = await cell_addresses(connection)
        found = [Cell(**row, worker=addresses.get(row["name"])) for row in await connection.fetch(_LIST)]
    return found or [Cell(name=HOME, takes_new=True, organizations=None)]


async def add_cell(
    settings: Settings, access: DatabaseAccess, name: str, *, on_coordinator: bool = False
) -> str | None:
    """Create a cell, in which some of the new organizations will live. On Citus, it is on a worker.

    If there is only one cell, all instances have to be stopped: one that runs may not know of cells, or read reports from
    a replica. All of it is one transaction, on the worker too. If the command or a node is killed, there is no such cell,
    and the command may be repeated.

    Args:
        settings: the settings.
        access: the database logins.
        name: its name.
        on_coordinator: on Citus, leave the cell on the coordinator.

    Returns:
        The worker that it is on, as host:port, or None.

    Raises:
        SettingsRefused, OperationRefused
    """
    known = await _check_new(settings, access, name)
    is_distributed = not on_coordinator and await _is_on_citus(settings, access)
    if is_distributed:
        await _require_workers(settings, access)
    locks = [Lock.OPERATOR] if len(known) > 1 else [Lock.OPERATOR, Lock.INSTANCES]
    async with _locked(settings, access, *locks):
        try:
            async with _refused_errors(settings):
                if is_distributed:
                    await _wait_for_workers(access)
                await create_cell(access.owner, name, is_distributed=is_distributed)
        except MigrationFailed as error:
            raise OperationRefused(str(error)) from None
    async with _refused_errors(settings), read_only_transaction(access.owner) as connection:
        return (await cell_addresses(connection)).get(name)


async def move(
    settings: Settings,
    access: DatabaseAccess,
    organization_id: str,
    cell: str,
    progress: Callable[[str], object],
) -> Moved:
    """Move an organization to a cell. Only one such command runs at a time.

    Raises:
        SettingsRefused, OperationRefused
    """
    if (await list_cells(settings, access))[0].organizations is None:
        raise OperationRefused("There are no cells. Next: byok cells add NAME")
    async with _locked(settings, access, Lock.OPERATOR):
        try:
            async with _refused_errors(settings):
                return await move_organization(access.owner, organization_id, cell, progress)
        except MoveRefused as error:
            raise OperationRefused(str(error)) from None


async def delete(settings: Settings, access: DatabaseAccess, name: str) -> None:
    """Delete a cell in which no organization lives, with its tables.

    Raises:
        SettingsRefused, OperationRefused
    """
    await _require_cell(settings, access, name)
    if name == HOME:
        raise OperationRefused(
            "The first cell cannot be deleted, because the directory and the keyset are there"
        )
    async with _locked(settings, access, Lock.OPERATOR):
        try:
            async with _refused_errors(settings):
                await delete_cell(access.owner, name)
        except CellInUse as error:
            raise OperationRefused(str(error)) from None


async def let_take_new(settings: Settings, access: DatabaseAccess, name: str, *, takes_new: bool) -> None:
    """Let new organizations live in the cell, or none. Those that live there stay.

    Raises:
        SettingsRefused, OperationRefused
    """
    await _require_cell(settings, access, name)
    async with _refused_errors(settings):
        await set_takes_new(access.owner, name, takes_new=takes_new)


async def _require_cell(settings: Settings, access: DatabaseAccess, name: str) -> None:
    known = await list_cells(settings, access)
    if known[0].organizations is None:
        raise OperationRefused("There are no cells. Next: byok cells add NAME")
    if all(cell.name != name for cell in known):
        raise OperationRefused("There is no such cell. `byok cells list` shows them")


@asynccontextmanager
async def _locked(settings: Settings, access: DatabaseAccess, *locks: Lock) -> AsyncIterator[None]:
    try:
        async with AsyncExitStack() as resources:
            database = open_database(settings, access, resources)
            await resources.enter_async_context(take_exclusive_locks(database, *locks))
            yield
    except LockTaken as error:
        raise OperationRefused(_LOCK_MESSAGES[error.lock]) from None
    except DatabaseUnavailable as error:
        raise OperationRefused(error.detail) from None


async def _check_new(settings: Settings, access: DatabaseAccess, name: str) -> Sequence[Cell]:
    """Refuse a name that a new cell cannot have. Returns the cells that there are."""
    if not _NAME.fullmatch(name) or _RESERVED.fullmatch(name):
        raise OperationRefused(
            "The name must be lower-case letters, digits and underscores, and not a reserved one: public, cells,"
            " information_schema, or one that begins with byok_, pg_, citus or columnar"
        )
    known = await list_cells(settings, access)
    if any(cell.name == name for cell in known):
        raise OperationRefused("There is such a cell already. `byok cells list` shows it")
    async with _refused_errors(settings), read_only_transaction(access.owner) as connection:
        if await connection.fetchval(_IS_ROLE, name):
            raise OperationRefused("A role of the database server has this name. Use another one")
    if access.reports is not None:
        raise SettingsRefused.of(
            "DATABASE__REPORTS_URL", "reports from a replica are not supported with cells; remove it"
        )
    return known


async def _is_on_citus(settings: Settings, access: DatabaseAccess) -> bool:
    async with _refused_errors(settings), read_only_transaction(access.owner) as connection:
        return bool(await connection.fetchval(ARE_ON_CITUS))


async def _require_workers(settings: Settings, access: DatabaseAccess) -> None:
    """Refuse a cluster on which a cell on a worker would not work, with what has to change."""
    if access.login.set_role:
        raise SettingsRefused.of("DATABASE__URL", ROLE_WITHOUT_LOGIN)
    async with _refused_errors(settings):
        missing = await missing_for_workers(access.owner, access.login.session_url)
    if missing:
        lines = "\n".join(missing)
        msg = f"{lines}\nThen run this command again, or add --on-coordinator to put the cell on the coordinator"
        raise OperationRefused(msg)


async def _wait_for_workers(access: DatabaseAccess) -> None:
    """What an earlier run left on a worker that was killed would keep this one waiting."""
    connection = await connect(access.owner)
    try:
        await wait_for_workers(connection)
    except WorkersNotReady as error:
        raise OperationRefused(str(error)) from None
    finally:
        await connection.close()


async def _check_revision(settings: Settings, access: DatabaseAccess) -> None:
    async with _refused_errors(settings):
        if await current_revision(access.owner) != newest_revision():
            raise OperationRefused("The schema is not at the revision of this version. Next: byok migrate")


@asynccontextmanager
async def _refused_errors(settings: Settings) -> AsyncIterator[None]:
    try:
        yield
    except DATABASE_ERRORS as error:
        raise SettingsRefused.of(owner_variable(settings), describe_failure(error)) from None
