"""The account that runs the embedded PostgreSQL when the service runs as root, which PostgreSQL refuses."""

import fcntl
import os
import pwd
import shutil
import stat
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ACCOUNT = "pgserver"

_TRAVERSABLE = stat.S_IXGRP | stat.S_IXOTH
_LOCKED = "/etc"  # where the account files are
_LOCK_SECONDS = 10.0
_RETRY_SECONDS = 0.1


def account_for(directory: Path, name: str = ACCOUNT) -> pwd.struct_passwd | None:
    """The account that owns the data directory; for a new one the account `name`, which is created if it does not exist.

    None: there is no such account, and it cannot be created.
    """
    owner = directory.stat().st_uid if directory.exists() else 0
    if owner == 0:
        return _find(name) or _create(name)
    with suppress(KeyError):
        return pwd.getpwuid(owner)
    return None


def _find(name: str) -> pwd.struct_passwd | None:
    with suppress(KeyError):
        return pwd.getpwnam(name)
    return None


def _create(name: str) -> pwd.struct_passwd | None:
    useradd = shutil.which("useradd")
    if useradd is None:
        return None
    command = (useradd, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", name)
    with _one_at_a_time():
        found = _find(name)
        if found is None:
            subprocess.run(command, check=False, capture_output=True)  # noqa: S603  # a fixed program
            found = _find(name)
        return found


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Let one process at a time create the account.

    Two runs of `useradd` for one name may both succeed, each with another id, and the id of the first is lost.
    """
    directory = os.open(_LOCKED, os.O_RDONLY)
    deadline = time.monotonic() + _LOCK_SECONDS
    try:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() > deadline:
                break
            time.sleep(_RETRY_SECONDS)
        yield
    finally:
        os.close(directory)


def make_traversable(directories: Iterable[Path], account: pwd.struct_passwd) -> None:
    """Let the account pass through these directories, without reading them."""
    for directory in directories:
        found = directory.stat()
        if not found.st_mode & stat.S_IXOTH and found.st_uid != account.pw_uid:
            directory.chmod(stat.S_IMODE(found.st_mode) | _TRAVERSABLE)


def make_readable(programs: Path) -> None:
    """Let every account run these programs of the wheel, also if they were installed under a strict umask."""
    needed = stat.S_IROTH | stat.S_IXOTH
    installation, package = programs.parent, programs.parents[1]
    if all(
        (path.stat().st_mode & needed) == needed for path in (programs / "postgres", programs, installation)
    ):
        return
    for root in (installation, package.with_name(f"{package.name}.libs")):
        for path in (root, *root.rglob("*")):
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))
