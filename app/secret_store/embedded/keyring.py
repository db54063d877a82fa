"""The keyset as its file holds it now. Another process may rotate the KEK while this one runs."""

import hmac
from pathlib import Path
from typing import TypeAlias

import structlog

from app.secret_store.embedded.keyset import Keyset, KeysetRefused

log = structlog.get_logger("byok.secret_store")

_FileStamp: TypeAlias = tuple[int, int, int]  # inode, modification time in ns, size


class Keyring:
    """A keyset that is read from its file again after the file was replaced.

    Args:
        keyset: the keyset at the start.
        path: its file. None for a keyset that never changes.
        stamp: identifies the state of the file that `keyset` was read from.
    """

    def __init__(self, keyset: Keyset, path: Path | None = None, *, stamp: _FileStamp | None = None) -> None:
        self.keyset = keyset
        self._path = path
        self._stamp = stamp

    @classmethod
    def load_or_create(cls, path: Path) -> "Keyring":
        """Load the file, or create it with a new keyset. Raises KeysetRefused."""
        Keyset.load_or_create(path)
        return cls.load(path)

    @classmethod
    def load(cls, path: Path) -> "Keyring":
        """Load the file. Raises KeysetRefused."""
        stamp = _stamp(path)  # taken before reading, so that a replacement in between causes a reload later
        return cls(Keyset.load(path), path, stamp=stamp)

    def refresh(self) -> bool:
        """Read the file again if it was replaced. Returns True if the keyset changed."""
        if self._path is None or (stamp := _stamp(self._path)) in (None, self._stamp):
            return False
        self._stamp = stamp
        try:
            found = Keyset.load(self._path)
        except KeysetRefused:
            log.warning("keyset_not_reloaded", reason="refused")
            return False
        if not hmac.compare_digest(found.identity, self.keyset.identity):
            log.warning("keyset_not_reloaded", reason="another_keyset")
            return False
        self.keyset = found
        log.info("keyset_reloaded", keks=len(found.keks))
        return True

    def replace(self, keyset: Keyset) -> None:
        """Write another keyset to the file and use it. Not safe for concurrent callers.

        Raises:
            KeysetRefused
        """
        if self._path is not None:
            keyset.save(self._path)
            self._stamp = _stamp(self._path)
        self.keyset = keyset


def _stamp(path: Path) -> _FileStamp | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
