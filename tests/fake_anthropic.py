"""A small fake of Anthropic's API: the last word of the key says how it behaves.

`python -m tests.fake_anthropic --port N` serves it; `serve()` does so inside a test. The journal
says what arrived, without keys; `received_keys` is the one place that keeps them.
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

from tests.fake_anthropic_answers import (
    ANSWERS,
    MODELS,
    NORMAL_PATHS,
    Answer,
    error,
    route,
)

Receive = Any
Send = Any

# Header values the journal may show: none of them can hold a key.
SHOWN = ("anthropic-version", "anthropic-workspace-id", "accept", "accept-encoding", "user-agent")
BEHAVIOURS = {*ANSWERS, *NORMAL_PATHS, "flaky500", "huge", "echo", "redirect"}
HUGE = 10_000_000


def make_key(behaviour: str = "valid") -> str:
    """A key in the real grammar, new each time, whose last word chooses the behaviour."""
    return f"sk-ant-api03-{secrets.token_hex(40)}-{behaviour}"


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One request, without its key."""

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
    """The ASGI application. `release` lets answers go that `slow` and `stall` hold back."""

    journal: list[Entry] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _overrides: dict[str, str] = field(default_factory=dict, repr=False)
    _keys: list[str] = field(default_factory=list, repr=False)
    _seen: Counter[str] = field(default_factory=Counter, repr=False)

    def received_keys(self) -> list[str]:
        """Every key that arrived, in clear, in order: for the assertion that the right one did."""
        return list(self._keys)

    def requests_of(self, key: str) -> list[Entry]:
        return [entry for entry in self.journal if entry.credential_digest == digest(key)]

    def behave(self, key: str, behaviour: str) -> None:
        """From now on this key behaves otherwise, as when it is revoked."""
        self._overrides[digest(key)] = behaviour

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        body = await _body_of(receive)
        if scope["path"] == "/_journal":
            await _send(send, Answer(200, [asdict(entry) for entry in self.journal]))
            return
        entry, key = self._write_down(scope)
        self.arrived.set()
        if entry.behaviour == "slow":
            await self._hold(receive)
        answer = self._answer(scope, entry, key, body)
        await _send(send, answer, hold=self._hold(receive) if entry.behaviour == "stall" else None)

    def _write_down(self, scope: Any) -> tuple[Entry, str]:
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

    async def _hold(self, receive: Receive) -> None:
        """Until a test releases it or the client goes away."""
        released = asyncio.create_task(self.release.wait())
        left = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({released, left}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            released.cancel()
            left.cancel()

    def _answer(self, scope: Any, entry: Entry, key: str, body: bytes) -> Answer:
        refusal = _refused(entry)
        if refusal is not None:
            return refusal
        self._seen[key] += 1
        if self._is_normal(entry, key):
            return route(entry.method, entry.path, body)
        match entry.behaviour:
            case "huge":
                return Answer(200, {**MODELS.body, "padding": "x" * HUGE})
            case "echo":
                return error(401, "authentication_error", key, headers={"x-echo": key, "request-id": key})
            case "redirect":
                # Another origin in the eyes of a client, and yet this journal.
                return Answer(307, b"", {"location": f"http://localhost:{scope['server'][1]}/elsewhere"})
        return ANSWERS.get(entry.behaviour or "", ANSWERS["invalid"])

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


def _refused(entry: Entry) -> Answer | None:
    """What is refused before the key is looked at."""
    if entry.credential_header is None:
        return error(401, "authentication_error", "x-api-key header is required")
    if "not exactly one credential" in entry.complaints:
        return ANSWERS["legacyinvalid"]
    if "origin" in entry.complaints:
        return ANSWERS["cors"]
    if "no anthropic-version" in entry.complaints:
        return error(400, "invalid_request_error", "anthropic-version: header is required")
    return None


async def _send(send: Send, answer: Answer, *, hold: Any = None) -> None:
    body, headers = answer.encoded()
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if hold is not None:
        half = len(body) // 2
        await send({"type": "http.response.body", "body": body[:half], "more_body": True})
        await hold
        body = body[half:]
    await send({"type": "http.response.body", "body": body})


async def _body_of(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        part = await receive()
        body += part.get("body", b"")
        more = part.get("more_body", False)
    return body


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@dataclass(frozen=True, kw_only=True)
class Served:
    """A fake that listens."""

    base_url: str
    fake: FakeAnthropic


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ctrl-C is the test run's."""
        yield


@asynccontextmanager
async def serve(*, port: int = 0, certificate: Path | None = None) -> AsyncIterator[Served]:
    """Serve a new fake on loopback; over TLS if given a PEM file of private key and chain."""
    fake = FakeAnthropic()
    listener = socket.create_server(("127.0.0.1", port))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = uvicorn.Config(
        fake, log_config=None, lifespan="off", ssl_certfile=certificate, timeout_graceful_shutdown=1
    )
    server = _Server(config)
    # Connections wait in the listener's queue until the server is up: there is nothing to wait for here.
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


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_main())
