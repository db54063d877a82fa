"""The embedded store's root keys: several that can open, one that seals, and the fingerprint key.

They live in one file of mode 0600 under the data directory. It is never overwritten by a process
that finds none, and replaced in one step, so a reader meets a whole keyset or none.
"""

import base64
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from app.core.private_file import (
    PrivateFileRefused,
    create_private_file,
    read_private_file,
    replace_private_file,
)

KEY_BYTES = 32
KEY_ID_BYTES = 4

_FORMAT = 1
_LARGEST_FILE = 1 << 20
_KEY_ID = re.compile(rf"[0-9a-f]{{{2 * KEY_ID_BYTES}}}")


class KeysetRefused(Exception):
    """The keyset cannot be used. The message is a constant and says how to mend it."""


class KeysetMissing(KeysetRefused):
    """There is no file."""

    def __init__(self) -> None:
        super().__init__("There is no keyset file. Restore it from a backup.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RootKey:
    """A key that wraps data keys. `id` stands in every blob it seals."""

    id: str
    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> "RootKey":
        return cls(id=secrets.token_hex(KEY_ID_BYTES), secret=secrets.token_bytes(KEY_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyset:
    """Root keys by id, which of them is primary, and the key of fingerprints, which is never rotated."""

    primary_id: str
    roots: Mapping[str, RootKey]  # oldest first
    fingerprint_key: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> "Keyset":
        root = RootKey.generate()
        return cls(
            primary_id=root.id,
            roots=MappingProxyType({root.id: root}),
            fingerprint_key=secrets.token_bytes(KEY_BYTES),
        )

    @classmethod
    def load(cls, path: Path) -> "Keyset":
        """Read the file, once its kind, owner and mode are as they must be.

        Raises:
            KeysetMissing: there is no file.
            KeysetRefused
        """
        try:
            return _decode(read_private_file(path, max_bytes=_LARGEST_FILE))
        except FileNotFoundError:
            raise KeysetMissing from None
        except PrivateFileRefused as error:
            raise _file_refused(error) from None
        except OSError:
            raise KeysetRefused("The keyset file cannot be read. Check its disk and its path.") from None

    @classmethod
    def load_or_create(cls, path: Path) -> "Keyset":
        """Read the file, or put a fresh one there; of several processes at once, all get the same.

        Raises:
            KeysetRefused
        """
        try:
            return cls.load(path)
        except KeysetMissing:
            pass
        try:
            create_private_file(path, _encode(cls.generate()))
        except PrivateFileRefused as error:
            raise _file_refused(error) from None
        return cls.load(path)

    def save(self, path: Path) -> None:
        """Replace the file in one step. One caller at a time: the last one wins.

        Raises:
            KeysetRefused
        """
        try:
            replace_private_file(path, _encode(self))
        except PrivateFileRefused as error:
            raise _file_refused(error) from None

    @property
    def primary(self) -> RootKey:
        """The root key that seals."""
        return self.roots[self.primary_id]

    @property
    def identity(self) -> str:
        """Names this keyset without telling of its keys. Outlives rotations of the root."""
        return hmac.digest(self.fingerprint_key, b"byok keyset identity", "sha256").hex()

    def root(self, key_id: str) -> RootKey | None:
        """The root key of that id; None when it was dropped."""
        return self.roots.get(key_id)

    @property
    def newest_id(self) -> str:
        """The root key that came last: what seals, or will once it is made primary."""
        return tuple(self.roots)[-1]

    def with_new_root(self) -> "Keyset":
        """A keyset that also opens what a fresh root key seals, and goes on sealing with the primary."""
        root = RootKey.generate()
        while root.id in self.roots:
            root = RootKey.generate()
        return replace(self, roots=MappingProxyType({**self.roots, root.id: root}))

    def with_primary(self, key_id: str) -> "Keyset":
        """A keyset that seals with that root key of its own and still opens what the others sealed."""
        assert key_id in self.roots
        return replace(self, primary_id=key_id)

    def with_new_primary(self) -> "Keyset":
        """A keyset that seals with a fresh root key and still opens what the others sealed."""
        prepared = self.with_new_root()
        return prepared.with_primary(prepared.newest_id)

    def without(self, key_id: str) -> "Keyset":
        """A keyset that can no longer open what that root key sealed.

        Raises:
            KeysetRefused: the key is primary, or not here.
        """
        if key_id == self.primary_id:
            raise KeysetRefused("The primary root key cannot be dropped. Make another one primary first.")
        if key_id not in self.roots:
            raise KeysetRefused("The keyset holds no root key of that id. Nothing was dropped.")
        kept = {root.id: root for root in self.roots.values() if root.id != key_id}
        return replace(self, roots=MappingProxyType(kept))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Keyset cannot be pickled or copied")


def _encode(keyset: Keyset) -> bytes:
    document = {
        "version": _FORMAT,
        "primary": keyset.primary_id,
        "roots": {root.id: base64.b64encode(root.secret).decode() for root in keyset.roots.values()},
        "fingerprint": base64.b64encode(keyset.fingerprint_key).decode(),
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def _decode(text: bytes) -> Keyset:
    try:
        return _from_document(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # raised below: these errors hold the file's text, which would stay on as context
    raise KeysetRefused("The keyset file is damaged or no keyset at all. Restore it from a backup.")


def _from_document(document: dict[str, Any]) -> Keyset:
    if document["version"] != _FORMAT:
        raise KeysetRefused("Another release wrote the keyset file. Run the service in that release.")
    roots = {key_id: RootKey(id=key_id, secret=_key(key)) for key_id, key in document["roots"].items()}
    if document["primary"] not in roots or not all(map(_KEY_ID.fullmatch, roots)):
        raise ValueError
    return Keyset(
        primary_id=document["primary"],
        roots=MappingProxyType(roots),
        fingerprint_key=_key(document["fingerprint"]),
    )


def _key(encoded: str) -> bytes:
    key = base64.b64decode(encoded, validate=True)
    if len(key) != KEY_BYTES:
        raise ValueError
    return key


def _file_refused(error: PrivateFileRefused) -> KeysetRefused:
    return KeysetRefused(str(error))  # the path and a constant
