"""The embedded store's envelope: AES-256-GCM under a data key, itself wrapped under a root key.

A blob is: format (1 byte), root key id (4), salt (32), wrapped data key (nonce 12, key 32, tag 16),
then the payload (nonce 12, ciphertext, tag 16): 125 bytes more than the secret.
"""

import os
import struct
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.secret_store.embedded.keyset import KEY_BYTES, KEY_ID_BYTES, Keyset, RootKey
from app.secret_store.encoding import length_prefixed
from app.secret_store.port import SecretCorrupt

_FORMAT = 1
_SALT_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
_HEADER = struct.Struct(f"!B{KEY_ID_BYTES}s{_SALT_BYTES}s{_NONCE_BYTES + KEY_BYTES + _TAG_BYTES}s")


def place(organization_id: str, credential_id: UUID, store_version: int) -> bytes:
    """Where a blob belongs. It is authenticated with the blob, which opens nowhere else."""
    return length_prefixed(organization_id.encode(), credential_id.bytes, str(store_version).encode())


def root_id(blob: bytes) -> str:
    """Which root key a blob says it is sealed under."""
    return blob[1 : 1 + KEY_ID_BYTES].hex()


def seal(secret: bytes, keyset: Keyset, where: bytes) -> bytes:
    data_key = os.urandom(KEY_BYTES)
    return _header(data_key, keyset.primary, where) + _encrypt(data_key, secret, where)


def unseal(blob: bytes, keyset: Keyset, where: bytes) -> bytes:
    """The secret.

    Raises:
        SecretCorrupt: the blob was changed, belongs elsewhere, or its root key was dropped.
    """
    return _decrypt(_data_key(blob, keyset, where), blob[_HEADER.size :], where)


def rewrap(blob: bytes, keyset: Keyset, where: bytes) -> bytes:
    """The same payload, not decrypted, with its data key under the primary root key.

    Raises:
        SecretCorrupt: the data key was changed, belongs elsewhere, or its root key was dropped.
    """
    return _header(_data_key(blob, keyset, where), keyset.primary, where) + blob[_HEADER.size :]


def _header(data_key: bytes, root: RootKey, where: bytes) -> bytes:
    salt = os.urandom(_SALT_BYTES)
    wrapped = _encrypt(_wrapping_key(root, salt, where), data_key, where)
    return _HEADER.pack(_FORMAT, bytes.fromhex(root.id), salt, wrapped)


def _data_key(blob: bytes, keyset: Keyset, where: bytes) -> bytes:
    if len(blob) < _HEADER.size:
        raise SecretCorrupt
    blob_format, key_id, salt, wrapped = _HEADER.unpack_from(blob)
    root = keyset.root(key_id.hex())
    if blob_format != _FORMAT or root is None:
        raise SecretCorrupt
    return _decrypt(_wrapping_key(root, salt, where), wrapped, where)


def _wrapping_key(root: RootKey, salt: bytes, where: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=where).derive(root.secret)


def _encrypt(key: bytes, plaintext: bytes, where: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, where)


def _decrypt(key: bytes, box: bytes, where: bytes) -> bytes:
    if len(box) < _NONCE_BYTES + _TAG_BYTES:
        raise SecretCorrupt
    try:
        return AESGCM(key).decrypt(box[:_NONCE_BYTES], box[_NONCE_BYTES:], where)
    except InvalidTag:
        raise SecretCorrupt from None
