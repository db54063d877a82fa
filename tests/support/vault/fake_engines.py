"""The engines of the fake Vault: KV v2 and transit, in memory."""

import hashlib
import hmac
import os
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from starlette.responses import JSONResponse, Response

JSON = dict[str, Any]


class ErrorResponse(Exception):
    """An error response in Vault's form."""

    def __init__(self, status: int, *errors: str, data: JSON | None = None) -> None:
        super().__init__(status)
        self.response = JSONResponse({"errors": list(errors)} if data is None else {"data": data}, status)


@dataclass(frozen=True, kw_only=True)
class ReceivedRequest:
    """One request, as Vault received it."""

    method: str
    path: str
    token: str | None
    namespace: str | None
    body: JSON
    version: int = 0
    wrap_ttl: str | None = None


class FakeKvEngine:
    """KV v2."""

    def __init__(self) -> None:
        self.config: JSON = {"max_versions": 0, "cas_required": False}
        self._versions: dict[str, list[JSON | None]] = {}  # None: destroyed
        self._deleted: set[tuple[str, int]] = set()  # softly: they may be undeleted

    def respond(self, received: ReceivedRequest, operation: str, path: str) -> Response:
        if operation == "config":
            self.config |= received.body
            return data_response(**self.config) if received.method == "GET" else Response(status_code=204)
        if received.method == "LIST":
            return self._names(path)
        versions, version = self._versions.get(path, []), received.version
        if operation in {"destroy", "undelete"} or received.method == "DELETE":
            return self._remove_or_restore(received, operation, path, versions)
        if operation == "metadata" and versions:
            listed = {str(n): {"destroyed": content is None} for n, content in enumerate(versions, 1)}
            return data_response(current_version=len(versions), versions=listed)
        if received.method == "POST":
            return self._put(received, path, versions)
        if not 0 < version <= len(versions):
            raise ErrorResponse(404)
        found = None if (path, version) in self._deleted else versions[version - 1]
        metadata = {"version": version, "destroyed": versions[version - 1] is None}
        if found is None:
            raise ErrorResponse(404, data={"data": None, "metadata": metadata})
        return data_response(data=found, metadata=metadata)

    def _remove_or_restore(
        self, received: ReceivedRequest, operation: str, path: str, versions: list[JSON | None]
    ) -> Response:
        if operation == "undelete":
            self._deleted -= {(path, number) for number in received.body["versions"]}
        elif operation == "destroy":
            for number in received.body["versions"]:
                if number <= len(versions):
                    versions[number - 1] = None
        else:
            self._deleted.add((path, len(versions)))
        return Response(status_code=204)

    def _put(self, received: ReceivedRequest, path: str, versions: list[JSON | None]) -> Response:
        if received.body["options"]["cas"] != len(versions):
            raise ErrorResponse(400, "check-and-set parameter did not match the current version")
        self._versions.setdefault(path, versions).append(received.body["data"])
        return data_response(version=len(versions))

    def _names(self, path: str) -> Response:
        """List the names directly below the path."""
        prefix = f"{path.rstrip('/')}/" if path else ""
        below = [name.removeprefix(prefix) for name in self._versions if name.startswith(prefix)]
        if not below:
            raise ErrorResponse(404)
        return data_response(keys=sorted({f"{name.split('/')[0]}{'/' * ('/' in name)}" for name in below}))


class FakeTransitEngine:
    """Transit."""

    def __init__(self) -> None:
        self.keys: dict[str, JSON] = {}

    def respond(self, received: ReceivedRequest, operation: str, name: str) -> JSON:
        if operation == "config":
            return {}
        if operation == "keys":
            return self._key(received, name)
        if name not in self.keys:
            raise ErrorResponse(400, "encryption key not found")
        versions: list[bytes] = self.keys[name]["versions"]
        number, body = len(versions), received.body
        if operation == "hmac":
            digest = hmac.digest(versions[-1], b64decode(body["input"]), hashlib.sha256)
            return {"hmac": f"vault:v{number}:{b64encode(digest).decode()}"}
        context = b64decode(body.get("context", ""))
        if operation == "encrypt":
            return {"ciphertext": _encrypt(versions, b64decode(body["plaintext"]), context)}
        plaintext = _decrypt(versions, body["ciphertext"], context)
        if operation == "rewrap":
            return {"ciphertext": _encrypt(versions, plaintext, context)}
        return {"plaintext": b64encode(plaintext).decode()}

    def _key(self, received: ReceivedRequest, name: str) -> JSON:
        if received.method == "GET" and name not in self.keys:
            raise ErrorResponse(404)
        key = self.keys.setdefault(name, {"type": received.body.get("type"), "versions": [os.urandom(32)]})
        if received.path.endswith("/rotate"):
            key["versions"].append(os.urandom(32))
        return {"type": key["type"]}


def data_response(**data: Any) -> Response:
    return JSONResponse({"data": data})


def _encrypt(versions: list[bytes], plaintext: bytes, context: bytes) -> str:
    nonce = os.urandom(12)
    nonce_and_ciphertext = nonce + AESGCM(versions[-1]).encrypt(nonce, plaintext, context)
    return f"vault:v{len(versions)}:{b64encode(nonce_and_ciphertext).decode()}"


def _decrypt(versions: list[bytes], ciphertext: str, context: bytes) -> bytes:
    try:
        _, version, text = ciphertext.split(":")
        nonce_and_ciphertext = b64decode(text, validate=True)
        return AESGCM(versions[int(version[1:]) - 1]).decrypt(
            nonce_and_ciphertext[:12], nonce_and_ciphertext[12:], context
        )
    except (InvalidTag, ValueError, IndexError):
        raise ErrorResponse(400, "cipher: message authentication failed") from None
