"""The embedded store's key-encryption keys (KEKs), of which the primary one encrypts, and its fingerprint key.

They are in one file with mode 0600 under the data directory. A process that finds no file never
overwrites one, and the file is replaced atomically: a reader sees a complete keyset or none.
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
_MAX_FILE_BYTES = 1 << 20
_KEY_ID = re.compile(rf"[0-9a-f]{{{2 * KEY_ID_BYTES}}}")


class KeysetRefused(Exception):
    """The keyset cannot be used. The message is a constant and names the remedy."""


class KeysetMissing(KeysetRefused):
    """The file does not exist."""

    def __init__(self) -> None:
        super().__init__("The keyset file does not exist. Restore it from a backup.")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEncryptionKey:
    """A key that wraps DEKs. Every blob that it encrypts holds its `id`."""

    id: str
    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> "KeyEncryptionKey":
        return cls(id=secrets.token_hex(KEY_ID_BYTES), secret=secrets.token_bytes(KEY_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyset:
    """KEKs by id, the id of the primary one, and the fingerprint key, which is never rotated."""

    primary_kek_id: str
    keks: Mapping[str, KeyEncryptionKey]  # oldest first
    fingerprint_key: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> "Keyset":
        kek = KeyEncryptionKey.generate()
        return cls(
            primary_kek_id=kek.id,
            keks=MappingProxyType({kek.id: kek}),
            fingerprint_key=secrets.token_bytes(KEY_BYTES),
        )

    @classmethod
    def load(cls, path: Path) -> "Keyset":
        """Read the file after checking its type, owner and mode.

        Raises:
            KeysetMissing: the file does not exist.
            KeysetRefused: the file cannot be used.
        """
        try:
            return _decode(read_private_file(path, max_bytes=_MAX_FILE_BYTES))
        except FileNotFoundError:
            raise KeysetMissing from None
        except PrivateFileRefused as error:
            raise _file_refused(error) from None
        except OSError:
            raise KeysetRefused("The keyset file cannot be read. Check its disk and its path.") from None

    @classmethod
    def load_or_create(cls, path: Path) -> "Keyset":
        """Read the file, or create it with a new keyset. Concurrent processes all get the same keyset.

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
        """Replace the file atomically. With concurrent callers the last one wins.

        Raises:
            KeysetRefused
        """
        try:
            replace_private_file(path, _encode(self))
        except PrivateFileRefused as error:
            raise _file_refused(error) from None

    @property
    def primary_kek(self) -> KeyEncryptionKey:
        """The KEK that encrypts."""
        return self.keks[self.primary_kek_id]

    @property
    def identity(self) -> str:
        """Names this keyset without revealing its keys. A rotation of the KEK does not change it."""
        return hmac.digest(self.fingerprint_key, b"byok keyset identity", "sha256").hex()

    def kek(self, key_id: str) -> KeyEncryptionKey | None:
        """The KEK with that id, or None if the keyset does not hold it."""
        return self.keks.get(key_id)

    @property
    def newest_kek_id(self) -> str:
        """The id of the KEK that was added last: the primary one, or the next primary one."""
        return tuple(self.keks)[-1]

    def with_new_kek(self) -> "Keyset":
        """A keyset with an additional new KEK, which can decrypt but does not encrypt yet."""
        kek = KeyEncryptionKey.generate()
        while kek.id in self.keks:
            kek = KeyEncryptionKey.generate()
        return replace(self, keks=MappingProxyType({**self.keks, kek.id: kek}))

    def with_primary_kek(self, key_id: str) -> "Keyset":
        """A keyset that encrypts with another of its KEKs and can still decrypt with all of them.

        Raises:
            KeysetRefused: the keyset does not hold that KEK.
        """
        self._require(key_id)
        return replace(self, primary_kek_id=key_id)

    def with_new_primary_kek(self) -> "Keyset":
        """A keyset that encrypts with a new KEK and can still decrypt with the older ones."""
        prepared = self.with_new_kek()
        return prepared.with_primary_kek(prepared.newest_kek_id)

    def without_kek(self, key_id: str) -> "Keyset":
        """A keyset that can no longer decrypt blobs of that KEK.

        Raises:
            KeysetRefused: the KEK is the primary one, or the keyset does not hold it.
        """
        if key_id == self.primary_kek_id:
            raise KeysetRefused(
                "The primary key-encryption key cannot be removed. Make another one primary first."
            )
        self._require(key_id)
        kept = {kek.id: kek for kek in self.keks.values() if kek.id != key_id}
        return replace(self, keks=MappingProxyType(kept))

    def _require(self, key_id: str) -> None:
        if key_id not in self.keks:
            raise KeysetRefused("The keyset holds no key-encryption key with that id. Nothing was changed.")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Keyset cannot be pickled or copied")


def _encode(keyset: Keyset) -> bytes:
    document = {
        "version": _FORMAT,
        "primary": keyset.primary_kek_id,
        "roots": {kek.id: base64.b64encode(kek.secret).decode() for kek in keyset.keks.values()},
        "fingerprint": base64.b64encode(keyset.fingerprint_key).decode(),
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def _decode(text: bytes) -> Keyset:
    try:
        return _from_document(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # raised below, because the context would keep these errors, which hold the file's text
    raise KeysetRefused("The keyset file is damaged or is not a keyset. Restore it from a backup.")


def _from_document(document: dict[str, Any]) -> Keyset:
    if document["version"] != _FORMAT:
        raise KeysetRefused("Another release wrote the keyset file. Run the service in that release.")
    keks = {
        key_id: KeyEncryptionKey(id=key_id, secret=_key(key)) for key_id, key in document["roots"].items()
    }
    if document["primary"] not in keks or not all(map(_KEY_ID.fullmatch, keks)):
        raise ValueError
    return Keyset(
        primary_kek_id=document["primary"],
        keks=MappingProxyType(keks),
        fingerprint_key=_key(document["fingerprint"]),
    )


def _key(encoded: str) -> bytes:
    key = base64.b64decode(encoded, validate=True)
    if len(key) != KEY_BYTES:
        raise ValueError
    return key


def _file_refused(error: PrivateFileRefused) -> KeysetRefused:
    return KeysetRefused(str(error))  # the path and a constant
