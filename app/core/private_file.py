"""Files that hold keys: ours alone, whole or absent, never behind a link.

A file appears by hard link, so of several processes that start at once one wins and the others
read what it wrote. Reading refuses what somebody else owns, may read or has put a link in place of.
"""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HAS_MODES = os.name == "posix"
# O_NONBLOCK: opening a FIFO must not wait for its writer.
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)

_UNWRITABLE = "cannot be written; its directory must belong to this user and have room."


class PrivateFileRefused(Exception):
    """A key file that must not be used as it is. Says how to mend it, never what it holds."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path


def create_private_file(path: Path, content: bytes) -> bool:
    """Write `content` unless the file exists; True when it is ours, False when another came first.

    Raises:
        PrivateFileRefused: the file system cannot hold it.
    """
    with _written_beside(path, content) as temporary:
        try:
            os.link(temporary, path, follow_symlinks=False)
        except FileExistsError:
            return False
        except OSError:
            raise PrivateFileRefused(
                path, "cannot be created; put the data directory on a local file system with hard links."
            ) from None
        _sync_directory(path.parent)
        return True


def read_private_file(path: Path, *, max_bytes: int) -> bytes:
    """What the file holds.

    Raises:
        FileNotFoundError: there is none.
        PrivateFileRefused: it is not a regular file of this user alone, or too large.
    """
    try:
        descriptor = os.open(path, _READ)
    except FileNotFoundError:
        raise
    except OSError:
        raise PrivateFileRefused(
            path, "cannot be opened, or is a link; put a regular file of this user in its place."
        ) from None
    try:
        _refuse_unless_private(path, os.fstat(descriptor))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(max_bytes + 1)
    finally:
        os.close(descriptor)
    if len(content) > max_bytes:
        raise PrivateFileRefused(path, "is too large to be what it should be; restore it from a backup.")
    return content


def replace_private_file(path: Path, content: bytes) -> None:
    """Put `content` in the file's place at once: after a crash there is the old or the new, never a part.

    Raises:
        PrivateFileRefused: the file system cannot hold it.
    """
    with _written_beside(path, content) as temporary:
        try:
            temporary.replace(path)
        except OSError:
            raise PrivateFileRefused(
                path, "cannot be replaced; it must be a file in a directory that this user may write."
            ) from None
        _sync_directory(path.parent)


@contextmanager
def _written_beside(path: Path, content: bytes) -> Iterator[Path]:
    """A temporary file in the same directory, on disk in full; gone afterwards unless renamed."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _make_private_directory(path.parent)
        descriptor = os.open(temporary, _WRITE, 0o600)
    except OSError:
        raise PrivateFileRefused(path, _UNWRITABLE) from None
    try:
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
        except OSError:
            raise PrivateFileRefused(path, _UNWRITABLE) from None
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _make_private_directory(directory: Path) -> None:
    """Like mkdir -p, but 0700 for every directory that was missing, not for the last alone."""
    if directory.is_dir():
        return
    _make_private_directory(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)


def _refuse_unless_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise PrivateFileRefused(path, "is not a regular file; put one of this user in its place.")
    if not _HAS_MODES:
        return
    if status.st_uid != os.geteuid():
        raise PrivateFileRefused(path, "belongs to another user; give it to the user of the service (chown).")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise PrivateFileRefused(
            path, "may be read or written by others; run chmod 600 on it and consider its keys known."
        )


def _sync_directory(directory: Path) -> None:
    if not _HAS_MODES:
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
