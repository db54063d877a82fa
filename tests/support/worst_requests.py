"""Query strings, paths and header fields that cost as much as the size of a request's head allows."""

import asyncio
import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from starlette.types import ASGIApp, Message

# Below the limit of a head, with some room for its other fields.
HEAD_BYTES = 28 * 1024

# Each is repeated until the value has its full size. Query strings and paths are encoded already.
_UNITS = {
    "letters": "x",
    "digits": "9",
    "spaces": "+",
    "wide characters": quote("\U0001f600"),
    "combining characters": quote("\u0301\u200d"),
    "halves of surrogate pairs": "%ED%A0%80",
    "bytes that are not UTF-8": "%FF",
    "encoded percent signs": "%25",
    "control characters": "%01",
    "brackets": "%5B",
    "pieces of a key": "sk-ant-",
    "a time": "2026-01-01T00:00:00.000000000",
    "a time zone": "../Europe/",
    "ids": "0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819",
}
_HEADER_UNITS = {
    "letters": "x",
    "digits": "9",
    "commas": ",",
    "semicolons": ";",
    "quotes": '"',
    "media types": "text/csv;q=0.1,",
    "preferences": "respond-async;a=b,",
    "tags": '"r1",',
    "weak tags": 'W/"r1",',
    "bytes above ASCII": "\u00ff",
}
_HEADERS = (
    "Accept",
    "Idempotency-Key",
    "If-Match",
    "Prefer",
    "traceparent",
    "Content-Type",
    "Origin",
    "Cookie",
)
# Lists of this length are the longest that are accepted.
_LONGEST_LIST, _LONGEST_VALUE = 100, 250


def worst_queries(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield encoded query strings with a name: each parameter with the worst values, and too many parameters."""
    for name in names:
        encoded = quote(name)
        for worst, unit in _UNITS.items():
            yield f"{name}: {worst}", f"{encoded}={unit * ((HEAD_BYTES - len(encoded)) // len(unit))}"
        yield f"{name}: as often as it fits", "&".join([f"{encoded}=a"] * (HEAD_BYTES // (len(encoded) + 3)))
        value = "x" * min(_LONGEST_VALUE, HEAD_BYTES // _LONGEST_LIST - len(encoded) - 5)
        longest = "&".join(f"{encoded}={value}{number}" for number in range(_LONGEST_LIST))
        yield f"{name}: the longest list", longest
    yield "unknown parameters", "&".join(f"a{number}=" for number in range(HEAD_BYTES // 7))
    yield "separators", "&" * HEAD_BYTES
    yield "all parameters", "&".join(f"{quote(name)}=" for name in names)


def worst_path_values() -> Iterator[tuple[str, str]]:
    """Yield encoded values of a path's parameter with a name."""
    for worst, unit in _UNITS.items():
        yield worst, unit.replace("/", "%2F") * (HEAD_BYTES // len(unit))


def worst_headers() -> Iterator[tuple[str, Mapping[str, bytes]]]:
    """Yield header fields with a name."""
    for name in _HEADERS:
        for worst, unit in _HEADER_UNITS.items():
            value = (unit * (HEAD_BYTES // len(unit))).encode("latin-1")
            yield f"{name}: {worst}", {name: value}
    yield "many fields", {f"x-{number}": b"x" * 250 for number in range(90)}


def worst_tokens() -> Iterator[tuple[str, str]]:
    """Yield tokens with a name. None is valid."""
    size = HEAD_BYTES * 3 // 4
    heads: dict[str, Any] = {
        "long claims": {"alg": "RS256", "kid": "k" * size},
        "many claims": {"alg": "RS256"} | {f"a{number}": 0 for number in range(size // 12)},
        "many extensions": {"alg": "RS256", "crit": ["x"] * (size // 5)},
        "digits": {"alg": "RS256", "kid": int("9" * 4000)},
    }
    for name, head in heads.items():
        yield name, f"{_encoded(json.dumps(head).encode())}.e30.c2ln"
    yield "deep claims", f"{_encoded(b'[' * size)}.e30.c2ln"
    yield "dots", "." * HEAD_BYTES
    yield "letters", "a" * HEAD_BYTES


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


@dataclass(frozen=True)
class RawResponse:
    """The status and the size of a response."""

    status: int
    size: int


async def send_raw(
    app: ASGIApp, method: str, url: str, headers: Mapping[str, bytes], body: bytes
) -> RawResponse:
    """Send a request as it is: a client would use far more time to parse it than the service."""
    path, _, query = url.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method.upper(),
        "scheme": "http",
        "server": ("test", 80),
        "client": ("127.0.0.1", 1),
        "root_path": "",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value) for name, value in headers.items()],
        "state": {},
    }
    status = size = 0
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    is_complete = asyncio.Event()

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await is_complete.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal status, size
        status = message.get("status", status)
        size += len(message.get("body", b""))
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            is_complete.set()

    await app(scope, receive, send)
    return RawResponse(status, size)
