"""An identity provider on a loopback port that publishes what a test tells it to, and counts who asks."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey


class FakeIssuer:
    """Answers every connection with `answer`, once `gate` is open."""

    def __init__(self) -> None:
        self.url = ""
        self.answer = b""
        self.paths: list[str] = []
        self.headers = b""
        self.gate = asyncio.Event()
        self.gate.set()
        self._came = asyncio.Condition()
        self.publish()

    @property
    def asked(self) -> int:
        return len(self.paths)

    def publish(self, *jwks: object) -> None:
        self.reply(json.dumps({"keys": jwks}).encode())

    def reply(self, body: bytes, *, status: str = "200 OK", headers: Mapping[str, str] | None = None) -> None:
        lines = [f"HTTP/1.1 {status}", "Connection: close", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.answer = "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    async def has_been_asked(self, times: int) -> None:
        async with asyncio.timeout(10), self._came:
            await self._came.wait_for(lambda: self.asked >= times)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.headers = await reader.readuntil(b"\r\n\r\n")
            async with self._came:
                self.paths.append(self.headers.split(b" ")[1].decode())
                self._came.notify_all()
            await self.gate.wait()
            writer.write(self.answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client had seen enough
        finally:
            writer.close()


@asynccontextmanager
async def running() -> AsyncIterator[FakeIssuer]:
    issuer = FakeIssuer()
    server = await asyncio.start_server(issuer.serve, "127.0.0.1", 0)
    issuer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks"
    try:
        yield issuer
    finally:
        issuer.gate.set()
        server.close()
        await server.wait_closed()


class Clock:
    """Monotonic seconds, moved by hand."""

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
    # PyJWT adds key_ops, which issuers seldom send.
    named = {name: value for name, value in public.items() if name != "key_ops"}
    return named | ({} if kid is None else {"kid": kid}) | members
