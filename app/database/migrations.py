"""Migrates the schema, as the owner of the tables."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any

import asyncpg
import sqlalchemy as sa

from app.database.cells.directory import HAVE_BEEN_ADDED, HOME, NAMES
from app.database.connections import create_engine, read_only_transaction


def _script_directory() -> Path:
    """A wheel has the scripts inside the package; a checkout has them next to it, for developers."""
    package = Path(str(files("app")))
    packaged = package / "migrations"
    return packaged if packaged.is_dir() else package.parent / "migrations"


_SCRIPTS = _script_directory()
_VERSIONS = _SCRIPTS / "versions"
_REVISION = re.compile(r"""^revision(?:: str)? = ["'](\w+)["']""", re.MULTILINE)
_DOWN_REVISION = re.compile(r"""^down_revision(?:: [^=]+)? = ["'](\w+)["']""", re.MULTILINE)
# The schema, and not the role PUBLIC.
_SCHEMA = re.compile(r"\bpublic\b")
_TABLES_OF_ORGANIZATIONS = """
    SELECT c.oid::regclass::text, c.relforcerowsecurity FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'organization_id'
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    ORDER BY 1
"""
_REVISION_OF = "SELECT version_num FROM {cell}.alembic_version"
# Row-level security binds the owner too. With `byok.org` set, it sees the rows of that organization, to move them.
_LET_OWNER_IN = """
    DO $$
    DECLARE
        policy name;
        guarded regclass;
    BEGIN
        FOR policy, guarded IN
            SELECT p.polname, p.polrelid::regclass FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
            WHERE c.relnamespace = '{cell}'::regnamespace AND p.polname IN ('organization', 'organization_insert', 'organization_delete')
            AND p.polroles <> '{{0}}'
        LOOP
            EXECUTE format('ALTER POLICY %I ON %s TO PUBLIC', policy, guarded);
        END LOOP;
    END $$
"""
# Sends the workers the functions that are older than the extension, and with them the owner's role. Before the schema: with a
# schema of the same transaction, Citus sends roles as the owner, who may not create any.
_SEND_TO_WORKERS = """
    DO $$
    DECLARE
        definition text;
    BEGIN
        FOR definition IN
            SELECT pg_get_functiondef(p.oid) FROM pg_proc p WHERE p.pronamespace = 'cells'::regnamespace AND NOT EXISTS (
                SELECT FROM pg_dist_object o WHERE o.classid = 'pg_proc'::regclass AND o.objid = p.oid)
        LOOP
            EXECUTE definition;
        END LOOP;
    END $$
"""
_TRY_LOCK = "SELECT pg_try_advisory_xact_lock(hashtext('byok.migrations'))"
_STATEMENT_CHARACTERS = 100

_RUN_AGAIN = "Run `byok migrate` again"
# By SQLSTATE, or by its class.
_ADVICE = {
    "42501": "The login lacks a privilege. Run docs/deploy/roles.sql again as a superuser: it gives byok_owner the database and"
    " the tables that another role has migrated. Migrate as byok_owner: BYOK_DATABASE__MIGRATION_URL",
    "55P03": f"Another transaction holds a lock. End long transactions, or stop the service. {_RUN_AGAIN}",
    "57014": f"The server cancelled the statement; a timeout of the login or the database may be too short. {_RUN_AGAIN}",
    "40P01": f"It was in a deadlock with another transaction. {_RUN_AGAIN}",
    "25006": "The server is read-only: a standby, or after a failover. Set BYOK_DATABASE__MIGRATION_URL to the primary server",
    "53": f"The server is out of disk space, memory or connections. Free some. {_RUN_AGAIN}",
    "42": "The schema differs from the one that this revision expects. Undo changes that were made by hand, or report the"
    " revision and the SQLSTATE",
    "23": "Rows of this database violate a new constraint. Report the revision and the SQLSTATE",
    "25P03": f"The command was suspended, or its machine was. {_RUN_AGAIN}",
    "P0": "Do what the message says",
}
_OTHER_ADVICE = "Report the revision and the SQLSTATE"
# Classes whose messages name objects of the schema, or are the migration's own text. Others may quote rows.
_QUOTABLE = ("42", "P0")
# Classes that mean that the server went away: not the statement's fault.
_CONNECTION = ("08", "57P")


class MigrationFailed(Exception):
    """The schema was not changed. The message names the revision, the statement and the SQLSTATE, and the next step."""


def _no_progress(_line: str) -> None: ...


async def migrate(
    url: sa.URL, target: str = "head", progress: Callable[[str], object] = _no_progress
) -> None:
    """Upgrade the schema of every cell to the revision `target`. The target `base` downgrades it to nothing.

    Each cell has a separate transaction: either all revisions are applied to it, or none. If a cell fails, those
    before it stay migrated, and the next run continues with it.

    Args:
        url: the owner's login.
        target: a revision.
        progress: receives one line before each cell but the first, and one if another migration is running.

    Raises:
        MigrationFailed: a statement failed, or a revision is not known.
    """
    cells = await _other_cells(url)
    if target == "base" and cells:
        raise MigrationFailed("There are cells. Move their organizations to the first cell, and remove them")
    await _run(url, partial(_migrate_cell, cell=HOME, target=target, progress=progress))
    for number, cell in enumerate(cells, 1):
        progress(f"Migrating the cell {cell} ({number} of {len(cells)}) ...")
        await _run(url, partial(_migrate_cell, cell=cell, target=target, progress=progress))


async def _other_cells(url: sa.URL) -> Sequence[str]:
    try:
        return [cell for cell, _ in await _revisions(url) if cell != HOME]
    except asyncpg.InsufficientPrivilegeError:
        try:
            async with read_only_transaction(url) as connection:
                await connection.fetchval(_REVISION_OF.format(cell=HOME))
        except asyncpg.InsufficientPrivilegeError:
            return []  # the migration of the first cell fails too, with an explanation
        msg = (
            f"The login may not read the cells and their revisions. Nothing was changed. {_ADVICE['42501']}."
        )
        raise MigrationFailed(msg) from None


async def create_cell(url: sa.URL, cell: str, *, is_distributed: bool = False) -> None:
    """Create a schema with all tables, and list it in the directory, in one transaction.

    With the first call, the directory receives all organizations that exist, and the policies of the first cell let the
    owner see the rows of an organization, which locks every table. No instance may run then, because it would not know of
    cells.

    Args:
        url: the owner's login.
        cell: a valid name.
        is_distributed: put all tables of the cell on one worker of Citus. `missing_for_workers` determines whether it can be.

    Raises:
        MigrationFailed
    """

    def run(connection: sa.Connection) -> None:
        with _explained_errors():
            if not _has_cells(connection):
                connection.execute(sa.text("SET LOCAL lock_timeout = '3s'"))
                _list_organizations(connection)
                _let_owner_in(connection, HOME)
            if is_distributed:
                connection.execute(sa.text(_SEND_TO_WORKERS))
            connection.execute(sa.text(f"CREATE SCHEMA {cell}"))
            connection.execute(sa.text(f"GRANT USAGE ON SCHEMA {cell} TO byok_service"))
            _migrate_cell(connection, cell=cell, target="head")
            # At the end, because Citus does not accept every statement of the migrations for a distributed schema.
            if is_distributed:
                connection.execute(sa.text(f"SELECT citus_schema_distribute('{cell}')"))
            connection.execute(sa.text("INSERT INTO cells.cell (name) VALUES (:name)"), {"name": cell})

    await _run(url, run)


def _has_cells(connection: sa.Connection) -> bool:
    """Whether the first cell has been added. The directory exists only after its migration."""
    is_there = bool(connection.scalar(sa.text(HAVE_BEEN_ADDED)))
    return is_there and bool(connection.scalar(sa.text("SELECT EXISTS (SELECT FROM cells.cell)")))


def _let_owner_in(connection: sa.Connection, cell: str) -> None:
    """Let the owner move the rows of this cell. Locks only tables whose policies do not allow it yet."""
    connection.execute(sa.text(_LET_OWNER_IN.format(cell=cell)))


def _list_organizations(connection: sa.Connection) -> None:
    """List all organizations, in the first cell. For this, row-level security does not bind the owner."""
    connection.execute(sa.text("INSERT INTO cells.cell (name) VALUES ('public')"))
    for table, is_forced in connection.execute(sa.text(_TABLES_OF_ORGANIZATIONS)).all():
        if is_forced:
            connection.execute(sa.text(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY"))
        connection.execute(
            sa.text(
                f"INSERT INTO cells.organization_cell SELECT DISTINCT organization_id, 'public' FROM {table}"
                " ON CONFLICT DO NOTHING"
            )
        )
        if is_forced:
            connection.execute(sa.text(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY"))


async def current_revision(url: sa.URL) -> str | None:
    """The revision of the database's schema; None before the first migration.

    If cells have different revisions, that of one that differs from the first cell.
    """
    (_, home), *others = await _revisions(url)
    return next((revision for _, revision in others if revision != home), home)


async def _revisions(url: sa.URL) -> list[tuple[str, str | None]]:
    """The cells and the revisions of their schemas, the first cell first."""
    async with read_only_transaction(url) as connection:
        if not await connection.fetchval("SELECT to_regclass('public.alembic_version') IS NOT NULL"):
            return [(HOME, None)]
        has_cells = await connection.fetchval(HAVE_BEEN_ADDED)
        cells = [row["name"] for row in (await connection.fetch(NAMES) if has_cells else [])] or [HOME]
        return [(cell, await connection.fetchval(_REVISION_OF.format(cell=cell))) for cell in cells]


def _migrate_cell(
    connection: sa.Connection,
    *,
    cell: str,
    target: str,
    config: Any = None,
    progress: Callable[[str], object] = _no_progress,
) -> None:
    from alembic import command  # noqa: PLC0415  # slow to import, and rarely needed

    config = config or _config()
    config.attributes["connection"] = connection
    if cell != HOME:
        config.attributes["cell"] = cell
        connection.execute(sa.text(f"SET LOCAL search_path = {cell}"))
        sa.event.listen(connection, "before_cursor_execute", partial(_for_cell, cell), retval=True)
    with _explained_errors():
        # `migrations/env.py` waits for it.
        if not connection.scalar(sa.text(_TRY_LOCK)):
            progress("Another migration of this database is running. Waiting until it ends ...")
        (command.downgrade if target == "base" else command.upgrade)(config, target)
        # Also for tables that a migration has just created.
        if _has_cells(connection):
            _let_owner_in(connection, cell)


def _for_cell(cell: str, *execution: Any) -> tuple[str, Any]:
    """Let a statement of a migration refer to the cell. Migrations name the schema `public`, always in lower case."""
    _connection, _cursor, statement, parameters, *_ = execution
    return _SCHEMA.sub(cell, statement), parameters


def newest_revision() -> str | None:
    """The revision that this version of the service needs: the one that no other builds on.

    Reads the files without alembic, which takes longer to import than the rest of a start.
    """
    revisions, built_on = set(), set()
    for file in _VERSIONS.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        revisions.update(_REVISION.findall(text))
        built_on.update(_DOWN_REVISION.findall(text))
    heads = revisions - built_on
    return heads.pop() if len(heads) == 1 else None


@contextmanager
def _explained_errors() -> Iterator[None]:
    from alembic.util.exc import CommandError  # noqa: PLC0415  # slow to import, and rarely needed

    try:
        yield
    except CommandError:
        raise MigrationFailed(
            "the target or the schema's revision is not known to this version. Migrate with the version that has it;"
            " the files in migrations/versions name the revisions"
        ) from None
    except sa.exc.DBAPIError as error:
        state = str(getattr(error.orig, "sqlstate", None) or "")
        if not state or state.startswith(_CONNECTION):
            raise
        raise MigrationFailed(_explanation(error, state)) from None


def _explanation(error: sa.exc.DBAPIError, state: str) -> str:
    statement = " ".join((error.statement or "").split())
    if len(statement) > _STATEMENT_CHARACTERS:
        statement = f"{statement[:_STATEMENT_CHARACTERS]}..."
    reason = ""
    if state.startswith(_QUOTABLE) and error.orig is not None:
        reason = f": {getattr(error.orig.__cause__, 'message', '')}"
    advice = _ADVICE.get(state) or _ADVICE.get(state[:2]) or _OTHER_ADVICE
    return (
        f"{_failed_migration(error.__traceback__)} failed with SQLSTATE {state}{reason} (statement: {statement})."
        f" The schema was not changed. {advice}."
    )


def _failed_migration(trace: TracebackType | None) -> str:
    """The migration whose code raised the error, by the frames that led to it."""
    while trace is not None:
        code = trace.tb_frame
        if Path(code.f_code.co_filename).parent == _VERSIONS:
            name = Path(code.f_code.co_filename).stem.partition("_")[2]
            return f"the migration {code.f_globals.get('revision')} ({name})"
        trace = trace.tb_next
    return "a change of the table alembic_version"


def _config() -> Any:
    from alembic.config import Config  # noqa: PLC0415  # slow to import, and rarely needed

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


async def _run(url: sa.URL, function: Any) -> Any:
    """Call a synchronous function with a connection, in one transaction."""
    engine = create_engine(url)
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(function)
    finally:
        await engine.dispose()
