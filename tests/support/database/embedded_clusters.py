"""Data directories of embedded servers: copies of one that is created once, and what crashes leave in them."""

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import sqlalchemy as sa

from app.database.embedded.postmaster import Postmaster
from app.database.embedded.server import embedded_postgres

# Runs the embedded server of a directory until standard input ends or SIGTERM arrives.
_USER = """
import signal, sys
from pathlib import Path
from app.database.embedded.server import embedded_postgres

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with embedded_postgres(Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""


def copy_of(data_dir: Path, target: Path) -> Path:
    """Copy a stopped data directory with its owner and modes."""
    subprocess.run(["/bin/cp", "-a", str(data_dir), str(target)], check=True)
    return target


def postmaster_of(data_dir: Path) -> Postmaster | None:
    """The server that runs on this data directory."""
    return Postmaster.find(data_dir.resolve() / "postgres")


def stop_if_running(data_dir: Path) -> None:
    with embedded_postgres(data_dir):
        pass


def write_as_server(path: Path, content: bytes) -> None:
    """Write a file that belongs to the account of the server."""
    path.write_bytes(content)
    found = path.parent.stat()
    os.chown(path, found.st_uid, found.st_gid)


@contextmanager
def unrelated_process(data_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the server's account that is not PostgreSQL."""
    uid = (data_dir / "postgres").stat().st_uid
    options: dict[str, Any] = {}
    if os.geteuid() == 0:
        options = {"user": uid, "group": pwd.getpwuid(uid).pw_gid, "extra_groups": []}
    with subprocess.Popen(["/bin/sleep", "600"], cwd="/", **options) as process:
        try:
            yield process
        finally:
            process.kill()


def user_process(data_dir: Path) -> "subprocess.Popen[bytes]":
    """Start a process that uses the embedded server, and wait until it does."""
    process = subprocess.Popen(
        [sys.executable, "-c", _USER, str(data_dir)],
        cwd=Path(__file__).parents[3],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    while (line := process.stdout.readline()) != b"ready\n":
        assert line, "the process ended"
    return process


async def fetch_as(url: sa.URL, statement: str) -> list[tuple[Any, ...]]:
    """Run a query with the login of `url`."""
    connection = await asyncpg.connect(
        host=str(url.query["host"]), port=url.port, user=url.username, database=url.database
    )
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()
