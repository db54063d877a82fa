"""A client of the relay, as the server presents it, that does not read a part of its response, and then leaves."""

import asyncio
import json
from collections.abc import Mapping

from app.relay.records import Message
from app.relay.router import RelayPaths
from tests.support.relay.relay_service import RelayUser, request


class StuckClient:
    """Asks for a stream. `is_stuck` is set when a part of the response waits for it to read. `got` is what it read.

    Args:
        user: whose request it is.
        headers: more headers of the request.
        unread: the parts with these bytes wait; None: the last part does.
    """

    def __init__(self, user: RelayUser, headers: Mapping[str, str], *, unread: bytes | None = None) -> None:
        self.got = bytearray()
        self.is_stuck = asyncio.Event()
        self.leaves = asyncio.Event()
        self._user = user
        self._headers = headers
        self._unread = unread
        self._has_left = asyncio.Event()
        self._unsent = [{"type": "http.request", "body": json.dumps(request(stream=True)).encode()}]

    async def request(self) -> None:
        """Send the request; returns when the relay is done with it."""
        headers = self._user.headers(self._headers).items()
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/relay/anthropic/v1/messages",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers],
            "state": {"request_id": "req_stuck"},
        }
        await RelayPaths(_no_other_path, lambda: self._user.services)(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if self._unsent:
            return self._unsent.pop()
        await self.leaves.wait()
        asyncio.get_running_loop().call_soon(self._has_left.set)
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] != "http.response.body":
            return
        body = message["body"]
        is_unread = not message["more_body"] if self._unread is None else self._unread in body
        if is_unread:
            self.is_stuck.set()
            await self._has_left.wait()
        self.got += body


async def _no_other_path(*_: object) -> None:
    raise AssertionError("the path belongs to the relay")
