"""Files that contain keys: private to the service's user, written atomically, never symbolic links.

A new file appears by a hard link. If several processes create it at the same time, one succeeds and the others read its
content. Reading refuses a file that another user owns or may access, and a symbolic link.
"""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HAS_MODES = os.name == "posix"
# O_NONBLOCK: opening a FIFO must not block until it has a writer.
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)

_UNWRITABLE = "cannot be written; its directory must belong to this user, on a disk with free space."


class PrivateFileRefused(Exception):
    """A key file that must not be used. The message explains how to fix it and never contains the file's content."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path


def create_private_file(path: Path, content: bytes) -> bool:
    """Create the file with `content` unless it exists.

    Returns:
        Whether this call created the file; False if it existed already.

    Raises:
        PrivateFileRefused: the file cannot be written.
    """
    with _temporary_file(path, content) as temporary:
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
    """Read the file.

    Raises:
        FileNotFoundError: the file does not exist.
        PrivateFileRefused: it is not a regular file, other users may access it, or it is larger than `max_bytes`.
    """
    try:
        descriptor = os.open(path, _READ)
    except FileNotFoundError:
        raise
    except PermissionError:
        raise PrivateFileRefused(
            path,
            "may not be opened by this user; change the owner of the file and of its directory to the user of the service"
            " (chown -R).",
        ) from None
    except OSError:
        raise PrivateFileRefused(
            path, "cannot be opened, or is a link; put the regular file there itself, owned by this user."
        ) from None
    try:
        _refuse_unless_private(path, os.fstat(descriptor))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(max_bytes + 1)
    finally:
        os.close(descriptor)
    if len(content) > max_bytes:
        raise PrivateFileRefused(path, "is too large for a key file; restore it from a backup.")
    return content


def replace_private_file(path: Path, content: bytes) -> None:
    """Replace the file's content atomically: after a crash the file has either the old or the new content.

    Raises:
        PrivateFileRefused: the file cannot be written or replaced.
    """
    with _temporary_file(path, content) as temporary:
        try:
            temporary.replace(path)
        except OSError:
            raise PrivateFileRefused(
                path, "cannot be replaced; it must be a file in a directory that this user may write."
            ) from None
        _sync_directory(path.parent)


@contextmanager
def _temporary_file(path: Path, content: bytes) -> Iterator[Path]:
    """Write a temporary file in the same directory, synced to disk. It is deleted afterwards unless renamed."""
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
    """Create missing directories like `mkdir -p`, but each with mode 0700 and not only the last."""
    if directory.is_dir():
        return
    _make_private_directory(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)


def _refuse_unless_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise PrivateFileRefused(
            path, "is not a regular file; put the regular file there itself, owned by this user."
        )
    if not _HAS_MODES:
        return
    if status.st_uid != os.geteuid():
        raise PrivateFileRefused(
            path, "belongs to another user; change its owner to the user of the service (chown)."
        )
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise PrivateFileRefused(
            path,
            "may be read or written by other users; run chmod 600 on it and treat its keys as compromised.",
        )


def _sync_directory(directory: Path) -> None:
    if not _HAS_MODES:
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
