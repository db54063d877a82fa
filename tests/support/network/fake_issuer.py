"""A fake identity provider on a loopback port. It publishes the given JWK set and counts requests."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey


class FakeIssuer:
    """Sends `response` on every connection, after `gate` is set; for the discovery document, `discovery` if that is set."""

    def __init__(self) -> None:
        self.url = ""
        self.response = b""
        self.discovery = b""
        self.paths: list[str] = []
        self.headers = b""
        self.gate = asyncio.Event()
        self.gate.set()
        self._arrived = asyncio.Condition()
        self.publish()

    @property
    def request_count(self) -> int:
        return len(self.paths)

    def publish(self, *jwks: object) -> None:
        self.respond_with(json.dumps({"keys": jwks}).encode())

    def respond_with(
        self, body: bytes, *, status: str = "200 OK", headers: Mapping[str, str] | None = None
    ) -> None:
        self.response = self._response(body, status, headers)

    def publish_discovery_document(self, issuer: str) -> None:
        body = json.dumps({"issuer": issuer, "jwks_uri": self.url}).encode()
        self.discovery = self._response(body, "200 OK", None)

    @staticmethod
    def _response(body: bytes, status: str, headers: Mapping[str, str] | None) -> bytes:
        lines = [f"HTTP/1.1 {status}", "Connection: close", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    async def wait_for_requests(self, times: int) -> None:
        async with asyncio.timeout(10), self._arrived:
            await self._arrived.wait_for(lambda: self.request_count >= times)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.headers = await reader.readuntil(b"\r\n\r\n")
            async with self._arrived:
                self.paths.append(self.headers.split(b" ")[1].decode())
                self._arrived.notify_all()
            await self.gate.wait()
            is_discovery = self.paths[-1].endswith("/.well-known/openid-configuration")
            writer.write(self.discovery if is_discovery and self.discovery else self.response)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client closed the connection
        finally:
            writer.close()


@asynccontextmanager
async def running(*, tls: ssl.SSLContext | None = None) -> AsyncIterator[FakeIssuer]:
    issuer = FakeIssuer()
    server = await asyncio.start_server(issuer.serve, "127.0.0.1", 0, ssl=tls)
    scheme = "http" if tls is None else "https"
    issuer.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks"
    try:
        yield issuer
    finally:
        issuer.gate.set()
        server.close()
        await server.wait_closed()


class Clock:
    """A monotonic clock that tests set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def jwk(
    key: Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey, kid: str | None = None, **members: Any
) -> dict[str, Any]:
    match key:
        case Ed25519PublicKey():
            public = jwt.algorithms.OKPAlgorithm.to_jwk(key, as_dict=True)
        case EllipticCurvePublicKey():
            public = jwt.algorithms.ECAlgorithm.to_jwk(key, as_dict=True)
        case _:
            public = jwt.algorithms.RSAAlgorithm.to_jwk(key, as_dict=True)
    # PyJWT adds `key_ops`, which issuers rarely send.
    named = {name: value for name, value in public.items() if name != "key_ops"}
    return named | ({} if kid is None else {"kid": kid}) | members
