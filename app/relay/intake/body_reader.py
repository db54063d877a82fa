"""Reads the whole body of a request, within bounds of size, time and memory."""

import asyncio
from collections.abc import Iterable

from app.relay.errors import REQUEST_TIMEOUT, UNSUPPORTED_MEDIA_TYPE, RelayError
from app.relay.intake.capacity import BodyBudget
from app.relay.records import Receive, RelayLimits


class ClientLeft(Exception):
    """The client closed the connection before its request was complete."""


def require_json(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    """Check the headers of a body; returns its length if the client named it.

    Raises:
        RelayError: it is not JSON, or it is encoded.
    """
    length = None
    for name, value in headers:
        if name == b"content-type" and value.partition(b";")[0].strip().lower() != b"application/json":
            raise RelayError(UNSUPPORTED_MEDIA_TYPE)
        if name == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
            raise RelayError(UNSUPPORTED_MEDIA_TYPE)
        if name == b"content-length" and value.isdigit():
            length = int(value)
    return length


async def read_body(
    receive: Receive, headers: Iterable[tuple[bytes, bytes]], budget: BodyBudget, limits: RelayLimits
) -> bytes:
    """Read the body.

    Raises:
        RelayError: it is too large, too slow, not JSON, or the instance has no memory for it.
        ClientLeft
    """
    length = require_json(headers)
    if length is not None:
        budget.require(length)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                part = message.get("body", b"")
                size += len(part)
                budget.require(size)
                parts.append(part)
                if not message.get("more_body", False):
                    return parts[0] if len(parts) == 1 else b"".join(parts)
    except TimeoutError:
        raise RelayError(REQUEST_TIMEOUT) from None
