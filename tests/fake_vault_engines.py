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


class Refused(Exception):
    """An error of Vault's own form."""

    def __init__(self, status: int, *errors: str, data: JSON | None = None) -> None:
        super().__init__(status)
        self.response = JSONResponse({"errors": list(errors)} if data is None else {"data": data}, status)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request."""

    method: str
    path: str
    token: str | None
    namespace: str | None
    body: JSON
    version: int = 0
    wrap_ttl: str | None = None


class FakeVersions:
    """KV v2."""

    def __init__(self) -> None:
        self.config: JSON = {"max_versions": 0, "cas_required": False}
        self._kept: dict[str, list[JSON | None]] = {}  # None: destroyed

    def answer(self, asked: Asked, operation: str, path: str) -> Response:
        if operation == "config":
            self.config |= asked.body
            return answered(**self.config) if asked.method == "GET" else Response(status_code=204)
        if asked.method == "LIST":
            return self._names(path)
        kept, version = self._kept.get(path, []), asked.version
        if operation == "destroy":
            for number in asked.body["versions"]:
                if number <= len(kept):
                    kept[number - 1] = None
            return Response(status_code=204)
        if operation == "metadata" and kept:
            versions = {str(n): {"destroyed": content is None} for n, content in enumerate(kept, 1)}
            return answered(current_version=len(kept), versions=versions)
        if asked.method == "POST":
            return self._put(asked, path, kept)
        if not 0 < version <= len(kept):
            raise Refused(404)
        found, metadata = kept[version - 1], {"version": version, "destroyed": kept[version - 1] is None}
        if found is None:
            raise Refused(404, data={"data": None, "metadata": metadata})
        return answered(data=found, metadata=metadata)

    def _put(self, asked: Asked, path: str, kept: list[JSON | None]) -> Response:
        if asked.body["options"]["cas"] != len(kept):
            raise Refused(400, "check-and-set parameter did not match the current version")
        self._kept.setdefault(path, kept).append(asked.body["data"])
        return answered(version=len(kept))

    def _names(self, path: str) -> Response:
        """What lies below, one floor down."""
        floor = f"{path.rstrip('/')}/" if path else ""
        below = [name.removeprefix(floor) for name in self._kept if name.startswith(floor)]
        if not below:
            raise Refused(404)
        return answered(keys=sorted({f"{name.split('/')[0]}{'/' * ('/' in name)}" for name in below}))


class FakeTransit:
    """Transit."""

    def __init__(self) -> None:
        self.keys: dict[str, JSON] = {}

    def answer(self, asked: Asked, operation: str, name: str) -> JSON:
        if operation == "config":
            return {}
        if operation == "keys":
            return self._key(asked, name)
        if name not in self.keys:
            raise Refused(400, "encryption key not found")
        versions: list[bytes] = self.keys[name]["versions"]
        number, body = len(versions), asked.body
        if operation == "hmac":
            digest = hmac.digest(versions[-1], b64decode(body["input"]), hashlib.sha256)
            return {"hmac": f"vault:v{number}:{b64encode(digest).decode()}"}
        context = b64decode(body.get("context", ""))
        if operation == "encrypt":
            return {"ciphertext": _seal(versions, b64decode(body["plaintext"]), context)}
        plaintext = _unseal(versions, body["ciphertext"], context)
        if operation == "rewrap":
            return {"ciphertext": _seal(versions, plaintext, context)}
        return {"plaintext": b64encode(plaintext).decode()}

    def _key(self, asked: Asked, name: str) -> JSON:
        if asked.method == "GET" and name not in self.keys:
            raise Refused(404)
        key = self.keys.setdefault(name, {"type": asked.body.get("type"), "versions": [os.urandom(32)]})
        if asked.path.endswith("/rotate"):
            key["versions"].append(os.urandom(32))
        return {"type": key["type"]}


def answered(**data: Any) -> Response:
    return JSONResponse({"data": data})


def _seal(versions: list[bytes], plaintext: bytes, context: bytes) -> str:
    nonce = os.urandom(12)
    box = nonce + AESGCM(versions[-1]).encrypt(nonce, plaintext, context)
    return f"vault:v{len(versions)}:{b64encode(box).decode()}"


def _unseal(versions: list[bytes], ciphertext: str, context: bytes) -> bytes:
    try:
        _, version, text = ciphertext.split(":")
        box = b64decode(text, validate=True)
        return AESGCM(versions[int(version[1:]) - 1]).decrypt(box[:12], box[12:], context)
    except (InvalidTag, ValueError, IndexError):
        raise Refused(400, "cipher: message authentication failed") from None
