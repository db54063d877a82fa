"""The account that runs the embedded PostgreSQL when the service runs as root, which PostgreSQL refuses."""

import pwd
import shutil
import stat
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

ACCOUNT = "pgserver"

_TRAVERSABLE = stat.S_IXGRP | stat.S_IXOTH


def account_for(directory: Path) -> pwd.struct_passwd | None:
    """The account that owns the data directory; for a new one `pgserver`, which is created if it does not exist.

    None: there is no such account, and it cannot be created.
    """
    with suppress(KeyError):
        owner = directory.stat().st_uid if directory.exists() else 0
        if owner != 0:
            return pwd.getpwuid(owner)
        with suppress(KeyError):
            return pwd.getpwnam(ACCOUNT)
        useradd = shutil.which("useradd")
        if useradd is not None:
            # Its result does not matter: another process may create the account at the same time.
            command = (useradd, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT)
            subprocess.run(command, check=False, capture_output=True)  # noqa: S603  # a fixed program
        return pwd.getpwnam(ACCOUNT)
    return None


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
