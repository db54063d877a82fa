"""PgBouncer in transaction mode before a PostgreSQL server, as docs/how-to/pooler-and-replica.md sets it up."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.support.database.accounts import as_account, free_port, wait_until_listening

PROGRAM = "pgbouncer"
_SETTINGS = """
[databases]
* = {server}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
pool_mode = {pool_mode}
default_pool_size = {pool_size}
max_client_conn = 500
auth_type = {auth_type}
auth_file = {users}
server_round_robin = {round_robin}
logfile = {log}
log_connections = 0
log_disconnections = 0
"""


def pooler_program() -> str | None:
    """The path of PgBouncer; Debian installs it outside the PATH of ordinary users."""
    return shutil.which(PROGRAM) or shutil.which(PROGRAM, path="/usr/sbin:/usr/local/sbin")


def availability_message() -> str:
    """A line for the summary of a test run."""
    if pooler_program() is not None:
        return "Pooler: tests also ran through PgBouncer."
    return "Pooler: skipped, because PgBouncer is not installed. Run scripts/install-servers as root."


@dataclass(frozen=True, kw_only=True)
class Pooler:
    """A running PgBouncer."""

    port: int
    process: "subprocess.Popen[bytes]"

    def url(self, direct: sa.URL) -> sa.URL:
        """The same login and database through the pooler, marked as the service expects it."""
        return (
            sa.URL.create("postgresql+asyncpg", direct.username, direct.password, "127.0.0.1", self.port)
            .set(database=direct.database)
            .update_query_dict({"pgbouncer": "true"})
        )


@contextmanager
def pooler_before(
    *logins: sa.URL, pool_size: int = 4, pool_mode: str = "transaction", round_robin: bool = False
) -> Iterator[Pooler]:
    """Run PgBouncer for these logins of one server.

    Args:
        logins: URLs with the users and passwords; they lead to the same host and port.
        pool_size: sessions of the server per database and login, fewer than the clients have.
        pool_mode: when a session of the server is given to another client.
        round_robin: give each transaction another session of the server, the worst case for state in sessions.
    """
    program = pooler_program()
    assert program is not None, "install the Debian package pgbouncer"
    directory = str(logins[0].query.get("host", ""))
    account = pwd.getpwuid(Path(directory).stat().st_uid) if directory else pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory(prefix="byok-pooler-") as name:
        home, port = Path(name), free_port()
        users = "".join(f'"{login.username}" "{login.password or ""}"\n' for login in logins)
        (home / "users.txt").write_text(users)
        (home / "pgbouncer.ini").write_text(
            _SETTINGS.format(
                server=f"host={directory or logins[0].host} port={logins[0].port or 5432}",
                port=port,
                pool_size=pool_size,
                pool_mode=pool_mode,
                auth_type="scram-sha-256" if logins[0].password else "trust",
                users=home / "users.txt",
                round_robin=int(round_robin),
                log=home / "log",
            )
        )
        options: dict[str, Any] = {}
        if os.geteuid() == 0:
            for path in (home, *home.iterdir()):
                os.chown(path, account.pw_uid, account.pw_gid)
            options = as_account(account)
        with subprocess.Popen(
            [program, "-q", str(home / "pgbouncer.ini")],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **options,
        ) as process:
            try:
                wait_until_listening(port, process)
                yield Pooler(port=port, process=process)
            finally:
                process.kill()
