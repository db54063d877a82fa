"""The embedded store's envelope: AES-256-GCM under a data-encryption key (DEK), which is wrapped under a KEK.

A blob is: format (1 byte), KEK id (4), salt (32), wrapped DEK (nonce 12, key 32, tag 16),
then the payload (nonce 12, ciphertext, tag 16): 125 bytes more than the secret.
"""

import os
import struct
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.secret_store.embedded.keyset import KEY_BYTES, KEY_ID_BYTES, KeyEncryptionKey, Keyset
from app.secret_store.encoding import length_prefixed
from app.secret_store.port import SecretCorrupt

_FORMAT = 1
_SALT_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
_HEADER = struct.Struct(f"!B{KEY_ID_BYTES}s{_SALT_BYTES}s{_NONCE_BYTES + KEY_BYTES + _TAG_BYTES}s")


def associated_data_for(organization_id: str, credential_id: UUID, store_version: int) -> bytes:
    """The row that a blob belongs to. It is authenticated with the blob, which decrypts in no other row."""
    return length_prefixed(organization_id.encode(), credential_id.bytes, str(store_version).encode())


def kek_id(blob: bytes) -> str:
    """The id of the KEK that the blob's header names. Not authenticated."""
    return blob[1 : 1 + KEY_ID_BYTES].hex()


def encrypt(secret: bytes, keyset: Keyset, associated_data: bytes) -> bytes:
    """Encrypt the secret under a new DEK, wrapped under the primary KEK."""
    dek = os.urandom(KEY_BYTES)
    return _header(dek, keyset.primary_kek, associated_data) + _aes_gcm_encrypt(dek, secret, associated_data)


def decrypt(blob: bytes, keyset: Keyset, associated_data: bytes) -> bytes:
    """Return the secret.

    Raises:
        SecretCorrupt: the blob was changed, belongs to another row, or its KEK is not in the keyset.
    """
    return _aes_gcm_decrypt(_unwrap_dek(blob, keyset, associated_data), blob[_HEADER.size :], associated_data)


def rewrap(blob: bytes, keyset: Keyset, associated_data: bytes) -> bytes:
    """Return the blob with its DEK wrapped under the primary KEK. The payload is not decrypted.

    Raises:
        SecretCorrupt: the wrapped DEK was changed, belongs to another row, or its KEK is not in the keyset.
    """
    dek = _unwrap_dek(blob, keyset, associated_data)
    return _header(dek, keyset.primary_kek, associated_data) + blob[_HEADER.size :]


def _header(dek: bytes, kek: KeyEncryptionKey, associated_data: bytes) -> bytes:
    salt = os.urandom(_SALT_BYTES)
    wrapped = _aes_gcm_encrypt(_wrapping_key(kek, salt, associated_data), dek, associated_data)
    return _HEADER.pack(_FORMAT, bytes.fromhex(kek.id), salt, wrapped)


def _unwrap_dek(blob: bytes, keyset: Keyset, associated_data: bytes) -> bytes:
    if len(blob) < _HEADER.size:
        raise SecretCorrupt
    blob_format, key_id, salt, wrapped = _HEADER.unpack_from(blob)
    kek = keyset.kek(key_id.hex())
    if blob_format != _FORMAT or kek is None:
        raise SecretCorrupt
    return _aes_gcm_decrypt(_wrapping_key(kek, salt, associated_data), wrapped, associated_data)


def _wrapping_key(kek: KeyEncryptionKey, salt: bytes, associated_data: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=associated_data).derive(kek.secret)


def _aes_gcm_encrypt(key: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, associated_data)


def _aes_gcm_decrypt(key: bytes, nonce_and_ciphertext: bytes, associated_data: bytes) -> bytes:
    if len(nonce_and_ciphertext) < _NONCE_BYTES + _TAG_BYTES:
        raise SecretCorrupt
    nonce, ciphertext = nonce_and_ciphertext[:_NONCE_BYTES], nonce_and_ciphertext[_NONCE_BYTES:]
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, associated_data)
    except InvalidTag:
        raise SecretCorrupt from None
