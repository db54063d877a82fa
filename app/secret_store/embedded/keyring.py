"""The keyset as its file holds it now. Another process may rotate its root while this one runs."""

import hmac
from pathlib import Path
from typing import TypeAlias

import structlog

from app.secret_store.embedded.keyset import Keyset, KeysetRefused

log = structlog.get_logger(__name__)

_Stamp: TypeAlias = tuple[int, int, int]


class Keyring:
    """A keyset and, unless it is fixed, the file that it is read from again once that was replaced.

    Args:
        keyset: what to begin with.
        path: its file; None for a keyset that never changes.
    """

    def __init__(self, keyset: Keyset, path: Path | None = None, *, stamp: _Stamp | None = None) -> None:
        self.keyset = keyset
        self._path = path
        self._stamp = stamp

    @classmethod
    def load_or_create(cls, path: Path) -> "Keyring":
        """Raises KeysetRefused."""
        Keyset.load_or_create(path)
        return cls.load(path)

    @classmethod
    def load(cls, path: Path) -> "Keyring":
        """Raises KeysetRefused."""
        stamp = _stamp(path)  # before reading: what is replaced in between is read again later
        return cls(Keyset.load(path), path, stamp=stamp)

    def refresh(self) -> bool:
        """Read the file again if it was replaced; True where another keyset came of it."""
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
        log.info("keyset_reloaded", roots=len(found.roots))
        return True

    def replace(self, keyset: Keyset) -> None:
        """Put another keyset in the file's place. One caller at a time.

        Raises:
            KeysetRefused
        """
        if self._path is not None:
            keyset.save(self._path)
            self._stamp = _stamp(self._path)
        self.keyset = keyset


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
