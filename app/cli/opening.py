"""What the commands share: they load the settings, open the database, and name the address of the service."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from app.composition.database_access import DatabaseAccess
    from app.settings.checks import Purpose
    from app.settings.settings import Settings

Result = TypeVar("Result")


def configured(purpose: "Purpose | None" = None) -> "Settings":
    """Load the settings, configure logs and traces, and warn about variables that are not settings.

    Commands call it before they import the rest of the application, so that a wrong setting is reported at once.
    """
    from app.observability.logs import configure_logging
    from app.observability.tracing import configure_tracing
    from app.settings.checks import Purpose
    from app.settings.environment import load_settings, unknown_variables

    settings = load_settings(purpose or Purpose.RUN)
    configure_logging(
        level="debug" if settings.debug else settings.log_level,
        log_format=settings.chosen_log_format(is_terminal=sys.stderr.isatty()),
    )
    configure_tracing()
    for name in unknown_variables():
        click.echo(f"warning: {name} is not a setting of byok; see docs/reference/settings.md", err=True)
    return settings


def with_database(
    settings: "Settings",
    work: "Callable[[DatabaseAccess], Result]",
    progress: Callable[[str], None] | None = None,
) -> Result:
    """Run `work` with the logins of the database. An embedded PostgreSQL runs meanwhile."""
    from app.composition.database_access import database_access
    from app.observability.tracing import flush_tracing

    try:
        with database_access(settings, progress or _print_to_stderr) as access:
            return work(access)
    finally:
        flush_tracing()


def address_of(settings: "Settings") -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


def _print_to_stderr(line: str) -> None:
    # The standard output of a command holds only its result.
    click.echo(line, err=True)
