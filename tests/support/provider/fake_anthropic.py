"""A small fake of Anthropic's API. The last word of the key selects the behaviour.

`python -m tests.support.provider.fake_anthropic --port N` serves it; `serve()` does so inside a test. The journal
records requests without keys. Only `received_keys` has the keys.
"""

import argparse
import asyncio
import hashlib
import secrets
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from tests.support.provider.fake_anthropic_responses import (
    MODELS,
    NORMAL_PATHS,
    RESPONSES,
    FakeResponse,
    error,
    route,
)

Receive = Any
Send = Any

# Headers whose values the journal may contain: they cannot contain a key.
SHOWN = ("anthropic-version", "anthropic-workspace-id", "accept", "accept-encoding", "user-agent")
BEHAVIOURS = {*RESPONSES, *NORMAL_PATHS, "flaky500", "huge", "echo", "redirect"}
HUGE_BYTES = 10_000_000


def make_key(behaviour: str = "valid") -> str:
    """Return a new random key with the real syntax. Its last word selects the behaviour."""
    return f"sk-ant-api03-{secrets.token_hex(40)}-{behaviour}"


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A recorded request, without its key."""

    method: str
    path: str
    behaviour: str | None
    header_names: tuple[str, ...]
    shown_headers: dict[str, str]
    credential_header: str | None
    credential_digest: str | None
    complaints: tuple[str, ...]


@dataclass(kw_only=True)
class FakeAnthropic:
    """The ASGI application. Keys `slow` and `stall` get their response when `release` is set."""

    journal: list[Entry] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _overrides: dict[str, str] = field(default_factory=dict, repr=False)
    _keys: list[str] = field(default_factory=list, repr=False)
    _seen: Counter[str] = field(default_factory=Counter, repr=False)

    def received_keys(self) -> list[str]:
        """Return all received keys in plain text, in order, so that tests can assert which key was sent."""
        return list(self._keys)

    def requests_of(self, key: str) -> list[Entry]:
        return [entry for entry in self.journal if entry.credential_digest == digest(key)]

    def behave(self, key: str, behaviour: str) -> None:
        """Change the behaviour of this key, for example to `invalid` as if it was revoked."""
        self._overrides[digest(key)] = behaviour

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        body = await _body_of(receive)
        if scope["path"] == "/_journal":
            await _send(send, FakeResponse(200, [asdict(entry) for entry in self.journal]))
            return
        entry, key = self._record(scope)
        self.arrived.set()
        if entry.behaviour == "slow":
            await self._wait_for_release(receive)
        response = self._respond(scope, entry, key, body)
        await _send(
            send, response, hold=self._wait_for_release(receive) if entry.behaviour == "stall" else None
        )

    def _record(self, scope: Any) -> tuple[Entry, str]:
        headers = [(name.decode().lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        credentials = [(name, value) for name, value in headers if name in {"x-api-key", "authorization"}]
        name, value = credentials[0] if credentials else (None, "")
        key = value.removeprefix("Bearer ")
        behaviour = self._overrides.get(digest(key), key.rpartition("-")[2])
        entry = Entry(
            method=scope["method"],
            path=scope["path"],
            behaviour=behaviour if behaviour in BEHAVIOURS else None,
            header_names=tuple(sorted(name for name, _ in headers)),
            shown_headers={name: value for name, value in headers if name in SHOWN},
            credential_header=name,
            credential_digest=digest(key) if key else None,
            complaints=tuple(_complaints(headers, credentials)),
        )
        self.journal.append(entry)
        if key:
            self._keys.append(key)
        return entry, key

    async def _wait_for_release(self, receive: Receive) -> None:
        """Wait until a test sets `release` or the client disconnects."""
        released = asyncio.create_task(self.release.wait())
        disconnected = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({released, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            released.cancel()
            disconnected.cancel()

    def _respond(self, scope: Any, entry: Entry, key: str, body: bytes) -> FakeResponse:
        rejection = _rejection(entry)
        if rejection is not None:
            return rejection
        self._seen[key] += 1
        if self._is_normal(entry, key):
            return route(entry.method, entry.path, body)
        match entry.behaviour:
            case "huge":
                return FakeResponse(200, {**MODELS.body, "padding": "x" * HUGE_BYTES})
            case "echo":
                return error(401, "authentication_error", key, headers={"x-echo": key, "request-id": key})
            case "redirect":
                # A different origin for the client, but the same fake and journal.
                return FakeResponse(
                    307, b"", {"location": f"http://localhost:{scope['server'][1]}/elsewhere"}
                )
        return RESPONSES.get(entry.behaviour or "", RESPONSES["invalid"])

    def _is_normal(self, entry: Entry, key: str) -> bool:
        match entry.behaviour:
            case "orgscoped":
                return "anthropic-workspace-id" in entry.shown_headers
            case "flaky500":
                return self._seen[key] > 1
        return entry.path in NORMAL_PATHS.get(entry.behaviour or "", ())


def _complaints(headers: list[tuple[str, str]], credentials: list[tuple[str, str]]) -> list[str]:
    names = {name for name, _ in headers}
    found: list[str] = [name for name in ("origin", "cookie") if name in names]
    found += sorted(name for name in names if name.startswith("x-forwarded-"))
    if len(credentials) != 1 or any("," in value for _, value in credentials):
        found.append("not exactly one credential")
    if "anthropic-version" not in names:
        found.append("no anthropic-version")
    return found


def _rejection(entry: Entry) -> FakeResponse | None:
    """Return the error for a request that the API rejects before it checks the key."""
    if entry.credential_header is None:
        return error(401, "authentication_error", "x-api-key header is required")
    if "not exactly one credential" in entry.complaints:
        return RESPONSES["legacyinvalid"]
    if "origin" in entry.complaints:
        return RESPONSES["cors"]
    if "no anthropic-version" in entry.complaints:
        return error(400, "invalid_request_error", "anthropic-version: header is required")
    return None


async def _send(send: Send, response: FakeResponse, *, hold: Any = None) -> None:
    body, headers = response.encoded()
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    if hold is not None:
        half = len(body) // 2
        await send({"type": "http.response.body", "body": body[:half], "more_body": True})
        await hold
        body = body[half:]
    await send({"type": "http.response.body", "body": body})


async def _body_of(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running fake."""

    base_url: str
    fake: FakeAnthropic


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave Ctrl-C to the test run."""
        yield


@asynccontextmanager
async def serve(*, port: int = 0, certificate: Path | None = None) -> AsyncIterator[Served]:
    """Serve a new fake on loopback. `certificate` is a PEM file with private key and chain, to use TLS."""
    fake = FakeAnthropic()
    listener = socket.create_server(("127.0.0.1", port))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = uvicorn.Config(
        fake, log_config=None, lifespan="off", ssl_certfile=certificate, timeout_graceful_shutdown=1
    )
    server = _Server(config)
    # Connections wait in the listener's queue until the server is ready, so this need not wait.
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    scheme = "http" if certificate is None else "https"
    try:
        yield Served(base_url=f"{scheme}://127.0.0.1:{listener.getsockname()[1]}", fake=fake)
    finally:
        fake.release.set()
        server.should_exit = True
        await serving


async def _main() -> None:
    parser = argparse.ArgumentParser(description="Serve the fake until interrupted.")
    parser.add_argument("--port", type=int, default=0)
    async with serve(port=parser.parse_args().port) as served:
        print(served.base_url, flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """Serve until interrupted."""
    with suppress(KeyboardInterrupt):
        asyncio.run(_main())


if __name__ == "__main__":
    main()
