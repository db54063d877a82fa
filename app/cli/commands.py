"""The group of all commands. It ends each of them in order."""

import os
import signal
import sys
import threading
from typing import Any

import click

from app import __version__
from app.cli import cells, diagnosis, maintenance, serving, tokens

# A service runs until a signal stops it, so a signal is not an error. It is one for the other commands.
_SERVICES = ("serve", "worker")
_INTERRUPTED = 128 + signal.SIGINT


class _Commands(click.Group):
    """Ends every command in order: after a signal, and after an error that the command does not expect."""

    def main(self, *args: Any, **options: Any) -> Any:
        open_closed_streams()
        return super().main(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(0 if ctx.invoked_subcommand in _SERVICES else _INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:  # noqa: BLE001  # also of libraries, whose messages may quote a secret
            shown = _shown(error)
        raise shown from None


def _shown(error: Exception) -> click.ClickException:
    """Turn an error into what the command prints: its message only if the service wrote it."""
    from app.settings.environment import SettingsRefused

    if isinstance(error, SettingsRefused):
        return _SettingsError(str(error))
    from app.database.migrations import MigrationFailed
    from app.secret_maintenance.progress import OperationRefused

    if isinstance(error, (MigrationFailed, OperationRefused)):
        return click.ClickException(str(error))
    return _Unexpected(error)


class _SettingsError(click.ClickException):
    """Ends the command with exit status 2 and one line for each invalid variable."""

    exit_code = 2


class _Unexpected(click.ClickException):
    """An error that no command expects. Shows its type and where it was raised."""

    def __init__(self, error: Exception) -> None:
        import traceback

        frames = "".join(traceback.format_list(traceback.extract_tb(error.__traceback__)))
        super().__init__(
            f"unexpected {type(error).__name__}. Report it with these lines; its message is left out, because it may"
            f" contain a secret.\n{frames.rstrip()}"
        )


def open_closed_streams() -> None:
    """Open standard streams that the parent process has closed (`2>&-`), on the null device.

    Otherwise a file or connection that the command opens would get the number of the stream, and what is written to the stream.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115  # stays open


@click.group(cls=_Commands)
@click.version_option(__version__, prog_name="byok")
def main() -> None:
    """Bring your own Anthropic key. Settings are environment variables; see docs/reference/settings.md."""
    # With this variable, the TLS contexts of asyncpg and of the trace exporter would write session keys to a file.
    os.environ.pop("SSLKEYLOGFILE", None)
    # SIGTERM ends a command like Ctrl-C does; otherwise the embedded PostgreSQL would keep running.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


for command in (
    serving.serve,
    serving.worker,
    maintenance.migrate,
    tokens.token,
    tokens.page,
    diagnosis.openapi,
    maintenance.price_backfill,
    maintenance.vault_setup,
    maintenance.rotate_root_command,
    maintenance.migrate_secrets_command,
    maintenance.rewrap_secrets_command,
    cells.cells,
    diagnosis.doctor,
):
    main.add_command(command)
