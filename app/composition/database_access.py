"""The logins of the database, and what a start checks and prepares in it: revision, privileges, migrations."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa
import structlog

from app.database.connections import (
    check_session_settings,
    describe_failure,
    is_pooled,
    shares_sessions,
)
from app.database.embedded.server import (
    EmbeddedPostgresFailed,
    EmbeddedPostgresMissing,
    embedded_postgres,
    is_running,
)
from app.database.engine import DatabaseLogin
from app.database.migrations import current_revision, migrate, newest_revision
from app.database.preflight import (
    DATABASE_ERRORS,
    ENCODING,
    OLDEST_POSTGRESQL,
    compare_replica,
    database_encoding,
    has_replayed,
    is_service_member,
    rls_bypasses,
    server_version,
)
from app.database.url import DatabaseUrl
from app.settings.environment import SettingsRefused
from app.settings.groups.storage import DatabaseSettings
from app.settings.settings import Settings

NOT_A_MEMBER = (
    "the login is not a member of byok_service; set BYOK_DATABASE__URL to a login that is, such as byok_app, and"
    " BYOK_DATABASE__MIGRATION_URL to the owner of the tables"
)

UNKNOWN_POOLER = (
    "a pooler in transaction mode is between; add pgbouncer=true to the URL, and set BYOK_DATABASE__DIRECT_URL to the same"
    " login on the server itself"
)
ROLE_WITHOUT_LOGIN = (
    "the service switches to byok_service, which cannot log in to the workers of Citus. Set BYOK_DATABASE__URL to the login"
    " byok_app, and BYOK_DATABASE__MIGRATION_URL to byok_owner"
)
REPORTS_NOT_A_MEMBER = "the login is not a member of byok_service; use one that is, such as byok_app"
ANOTHER_SERVER = "the server is not a physical replica of the one in BYOK_DATABASE__URL; reports from another server would be wrong"
POOLED_DIRECT_URL = "leads to a pooler in transaction mode; set it to the server itself"

# How long a start waits for a replica to show a role that the first migration has just created.
_REPLAY_SECONDS = 10.0

Progress = Callable[[str], None]

log = structlog.get_logger("byok.database")


def _no_progress(_line: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseAccess:
    """The login of the tables' owner, which migrates, and the login of the service.

    On the embedded PostgreSQL these are the same roles as in production: `byok_owner` and `byok_app`. `reports` is the
    login on a replica, if there is one.
    """

    owner: sa.URL
    login: DatabaseLogin
    reports: DatabaseLogin | None = None


@contextmanager
def database_access(settings: Settings, progress: Progress = _no_progress) -> Iterator[DatabaseAccess]:
    """The logins of the database. Without a configured database, the embedded PostgreSQL runs until the context exits.

    Args:
        settings: the settings.
        progress: receives one line before each step that may take seconds.

    Raises:
        SettingsRefused: the embedded PostgreSQL is not installed, or does not start.
    """
    configured = settings.database
    owner = configured.migration_url or configured.direct_url or configured.url
    service = configured.url or configured.migration_url
    if owner is not None and service is not None:
        yield _configured_access(configured, owner=owner, service=service)
        return
    if not (settings.data_dir / "postgres").exists():
        progress("Creating the embedded PostgreSQL ...")
    elif not is_running(settings.data_dir):
        progress("Starting the embedded PostgreSQL ...")
    try:
        with embedded_postgres(settings.data_dir) as logins:
            yield DatabaseAccess(owner=logins.owner, login=DatabaseLogin(url=logins.service, set_role=False))
    except EmbeddedPostgresMissing as error:
        raise SettingsRefused.of("DATABASE__URL", str(error)) from None
    except EmbeddedPostgresFailed as error:
        raise SettingsRefused.of("DATA_DIR", str(error)) from None


def _configured_access(
    database: DatabaseSettings, *, owner: DatabaseUrl, service: DatabaseUrl
) -> DatabaseAccess:
    # If the owner and the service have one login, every connection switches to the service's role.
    set_role = database.url is None or database.migration_url is None
    return DatabaseAccess(
        owner=owner.for_sqlalchemy(),
        login=DatabaseLogin(
            url=service.for_sqlalchemy(),
            set_role=set_role,
            direct_url=None if database.direct_url is None else database.direct_url.for_sqlalchemy(),
        ),
        reports=None
        if database.reports_url is None
        else DatabaseLogin(url=database.reports_url.for_sqlalchemy(), set_role=set_role),
    )


async def prepare_database(
    settings: Settings, access: DatabaseAccess, progress: Progress = _no_progress
) -> None:
    """Migrate the schema in development.

    In production, check that the schema is current and that the service's login cannot bypass row-level security.

    Raises:
        SettingsRefused: a check failed, or the database cannot be reached.
        MigrationFailed
    """
    if not settings.is_production:
        # Before the service's login, because both may lead to the server that does not respond.
        with _refuse_database_errors(owner_variable(settings)):
            await _check_server(settings, access.owner)
    await _check_poolers(settings, access.login)
    if settings.is_production:
        with _refuse_database_errors("DATABASE__URL"):
            await _check_production(access)
    else:
        with _refuse_database_errors(owner_variable(settings)):
            await _migrate_development(access, progress)
        with _refuse_database_errors("DATA_DIR" if settings.database.url is None else "DATABASE__URL"):
            await _check_membership(access)
    if access.reports is not None:
        # After the migrations, because the first one may create the role that the check looks for.
        await _check_reports(settings, access.login, access.reports)


async def migrate_to(
    settings: Settings, access: DatabaseAccess, target: str, progress: Progress = _no_progress
) -> str | None:
    """Migrate as the owner, in any environment; returns the new revision of the schema.

    Raises:
        SettingsRefused: the database cannot be reached or used.
        MigrationFailed
    """
    with _refuse_database_errors(owner_variable(settings)):
        await _check_server(settings, access.owner)
        await migrate(access.owner, target, progress)
        return await current_revision(access.owner)


def owner_variable(settings: Settings) -> str:
    """The setting that has the owner's login."""
    if settings.database.migration_url is not None:
        return "DATABASE__MIGRATION_URL"
    if settings.database.direct_url is not None:
        return "DATABASE__DIRECT_URL"
    return "DATA_DIR" if settings.database.url is None else "DATABASE__URL"


async def _check_server(settings: Settings, owner: sa.URL) -> None:
    """Refuse a server or database on which migrations or requests would fail without an explanation."""
    if await server_version(owner) < OLDEST_POSTGRESQL:
        raise SettingsRefused.of(owner_variable(settings), "PostgreSQL 15 or newer is required")
    if (encoding := await database_encoding(owner)) != ENCODING:
        raise SettingsRefused.of(owner_variable(settings), wrong_encoding(encoding))


def wrong_encoding(encoding: str) -> str:
    """What is wrong with such a database, and what to do."""
    return (
        f"the database has the encoding {encoding}, which cannot store every text, and must be UTF8; drop it and run"
        " docs/deploy/roles.sql, or create it with TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
    )


async def _migrate_development(access: DatabaseAccess, progress: Progress) -> None:
    at, needed = await current_revision(access.owner), newest_revision()
    if at != needed:
        progress("Creating the tables ..." if at is None else f"Migrating the tables to {needed} ...")
        await migrate(access.owner, progress=progress)


@contextmanager
def _refuse_database_errors(variable: str) -> Iterator[None]:
    try:
        yield
    except DATABASE_ERRORS as error:
        raise SettingsRefused.of(variable, describe_failure(error)) from None


async def _check_poolers(settings: Settings, login: DatabaseLogin) -> None:
    """Refuse a pooler in transaction mode that the settings do not know of. It would lose locks and statements."""
    if settings.database.url is None:
        return
    if not is_pooled(login.url):
        with _refuse_database_errors("DATABASE__URL"):
            if await shares_sessions(login.url):
                raise SettingsRefused.of("DATABASE__URL", UNKNOWN_POOLER)
            await check_session_settings(login.url)
    elif login.direct_url is not None:
        with _refuse_database_errors("DATABASE__DIRECT_URL"):
            if await shares_sessions(login.direct_url):
                raise SettingsRefused.of("DATABASE__DIRECT_URL", POOLED_DIRECT_URL)


async def _check_reports(settings: Settings, login: DatabaseLogin, reports: DatabaseLogin) -> None:
    """Refuse a replica that row-level security does not apply to, or that is not one.

    One that is down, or that does not receive what the primary has, is not needed.
    """
    try:
        facts = await compare_replica(login.session_url, reports.url)
        bypasses = await rls_bypasses(reports.url) if settings.is_production else ()
        is_member = await is_service_member(reports.url)
        if facts.is_same_cluster and not is_member:
            # The role may be newer than what the replica shows.
            if not await has_replayed(facts.position, reports.url, seconds=_REPLAY_SECONDS):
                log.warning("reports_database_behind", bytes=facts.bytes_behind)
                return
            is_member = await is_service_member(reports.url)
    except DATABASE_ERRORS as error:
        log.warning("reports_database_unavailable", error=type(error).__name__)
        return
    if bypasses:
        raise SettingsRefused.of("DATABASE__REPORTS_URL", bypasses_security(bypasses))
    if not facts.is_same_cluster:
        raise SettingsRefused.of("DATABASE__REPORTS_URL", ANOTHER_SERVER)
    if not is_member:
        raise SettingsRefused.of("DATABASE__REPORTS_URL", REPORTS_NOT_A_MEMBER)


def bypasses_security(bypasses: Sequence[str]) -> str:
    """What is wrong with such a login, and what to do."""
    return (
        f"the service's login {', '.join(bypasses)}, so row-level security does not apply to it;"
        " use a login that is only a member of byok_service"
    )


async def _check_production(access: DatabaseAccess) -> None:
    bypasses = await rls_bypasses(access.login.url)
    if bypasses:
        raise SettingsRefused.of("DATABASE__URL", bypasses_security(bypasses))
    await _check_membership(access)
    if await current_revision(access.login.url) != newest_revision():
        raise SettingsRefused.of(
            "DATABASE__URL", "the schema is not at the revision of this version; run `byok migrate`"
        )


async def _check_membership(access: DatabaseAccess) -> None:
    if not await is_service_member(access.login.url):
        raise SettingsRefused.of("DATABASE__URL", NOT_A_MEMBER)
