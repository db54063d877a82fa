"""PostgreSQL servers as an operator gets them: only initdb, and one superuser with a password.

They listen on a loopback port and run as an unprivileged account. Versions: the installed Debian packages, and those of
the wheel.
"""

import os
import pwd
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from app.database.embedded.cluster import program
from tests.support.database.accounts import as_account, free_port

WHEEL = program("postgres").parents[2]
ROLES_SCRIPT = Path(__file__).parents[3] / "docs" / "deploy" / "roles.sql"
_STEP_SECONDS = 0.01
_SHARES = "fsync = off\nmax_connections = 60\nshared_buffers = 16MB\n"


def installations() -> dict[str, Path]:
    """The directories of the programs, by a name."""
    debian = {f"Debian {path.parent.name}": path for path in Path("/usr/lib/postgresql").glob("*/bin")}
    return debian | {"wheel 16": WHEEL / "pginstall" / "bin", "wheel 18": WHEEL / "pginstall18" / "bin"}


@dataclass(frozen=True, kw_only=True)
class BareServer:
    """A running server and its superuser."""

    programs: Path
    data: Path
    superuser: sa.URL

    def login(self, name: str, password: str, database: str = "byok") -> sa.URL:
        return self.superuser.set(username=name, password=password, database=database)

    def run_roles_script(self, login: sa.URL, **passwords: str) -> None:
        """The command of docs/how-to/deploy.md."""
        assert login.password is not None
        subprocess.run(  # a fixed program
            [
                str(self.programs / "psql"),
                "-X",
                "-v",
                "ON_ERROR_STOP=1",
                "-d",
                "postgres",
                "-f",
                str(ROLES_SCRIPT),
            ],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ
            | {
                "PGHOST": str(login.host),
                "PGPORT": str(login.port),
                "PGUSER": str(login.username),
                "PGPASSWORD": str(login.password),
            }
            | passwords,
        )

    def run(self, command: str, *arguments: str) -> None:
        """Run a program of PostgreSQL on the data directory. A server that it starts does not know the password."""
        secret = {} if command == "pg_ctl" else {"PGPASSWORD": str(self.superuser.password)}
        subprocess.run(  # a fixed program
            [str(self.programs / command), "-D", str(self.data), *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=os.environ | secret,
            **_account_options(),
        )

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.superuser.port} -k ''"
        self.run("pg_ctl", "-w", "-l", str(self.data / "log"), "-o", options, "start")

    def stop_if_running(self) -> None:
        if self.processes():
            self.run("pg_ctl", "-w", "-m", "immediate", "stop")

    def promote(self) -> None:
        """Make a primary of a replica."""
        self.run("pg_ctl", "-w", "promote")

    def kill(self) -> None:
        """Kill all processes of the server at once, as a power failure does."""
        processes = self.processes()
        for process in processes:
            process.suspend()
        for process in processes:
            process.kill()
        while any(map(_is_alive, processes)):
            time.sleep(_STEP_SECONDS)
        # A start would wait for a process that init has not reaped yet.
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def processes(self) -> list[psutil.Process]:
        try:
            postmaster = psutil.Process(int((self.data / "postmaster.pid").read_text().split("\n", 1)[0]))
            return [it for it in (postmaster, *postmaster.children(recursive=True)) if _is_alive(it)]
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
            return []


@contextmanager
def bare_server(
    programs: Path,
    port: int | None = None,
    *,
    password: str | None = None,
    settings: str = "",
    encoding: str = "UTF8",
) -> Iterator[BareServer]:
    """Create and start a server, by default on a free port; stop and remove it on leaving.

    Args:
        programs: the directory of the programs.
        port: a loopback port. None: a free one.
        password: the superuser's password. None: a random one.
        settings: more lines of `postgresql.conf`.
        encoding: that of new databases, with the locale C.
    """
    options = ("--encoding", encoding, "--locale", "C")
    with _server_directory(programs, password or secrets.token_hex(8), port) as server:
        password_file = server.data.with_name("password")
        password_file.write_text(str(server.superuser.password))
        _give_to_account(password_file)
        server.run(
            "initdb",
            *("-U", "postgres", "-A", "scram-sha-256", "--pwfile", str(password_file), "--no-sync"),
            *options,
        )
        with (server.data / "postgresql.conf").open("a") as file:
            file.write(_SHARES + settings)
        server.start()
        yield server


@contextmanager
def replica_of(primary: BareServer) -> Iterator[BareServer]:
    """Create and start a streaming replica, as docs/how-to/pooler-and-replica.md does; remove it on leaving."""
    with _server_directory(primary.programs, str(primary.superuser.password)) as server:
        source = f"host=127.0.0.1 port={primary.superuser.port} user=postgres application_name=replica"
        server.run("pg_basebackup", "-R", "-X", "stream", "-c", "fast", "--no-sync", "-d", source)
        with (server.data / "postgresql.auto.conf").open("a") as settings:
            # The password of this connection would otherwise come from a file of the account.
            settings.write(f"primary_conninfo = '{source} password={primary.superuser.password}'\n")
        server.start()
        yield server


@contextmanager
def _server_directory(programs: Path, password: str, port: int | None = None) -> Iterator[BareServer]:
    """An empty data directory of a server. What runs there is stopped on leaving."""
    with tempfile.TemporaryDirectory(prefix="byok-bare-") as name:
        home = Path(name)
        home.chmod(0o711)
        data = home / "data"
        data.mkdir(mode=0o700)
        _give_to_account(data)
        url = sa.URL.create(
            "postgresql+asyncpg", "postgres", password, "127.0.0.1", port or free_port(), "postgres"
        )
        server = BareServer(programs=programs, data=data, superuser=url)
        try:
            yield server
        finally:
            server.stop_if_running()


def _is_alive(process: psutil.Process) -> bool:
    """Whether it still runs. One that init has not reaped yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _give_to_account(path: Path) -> None:
    if options := _account_options():
        os.chown(path, options["user"], options["group"])


def _account_options() -> dict[str, Any]:
    """PostgreSQL does not run as root."""
    return as_account(pwd.getpwnam("nobody")) if os.geteuid() == 0 else {}
