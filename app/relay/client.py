"""The client's side of a request: its response, and whether the client is still there."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from app.api.middleware import ABORT, IS_WRITE_PAUSED, READ_SECONDS
from app.relay.records import EndedBy, Message, Receive, Send
from app.relay.stream_end import LAST_BYTES


class SlowClient(Exception):
    """The client left its response unread for too long."""


class Interruption:
    """Cancels the block that it surrounds, from another task, and remembers why.

    The first reason counts. After the block, `by` is that reason, or None. If the reason came before the block, the block
    ends at its first suspension.
    """

    def __init__(self) -> None:
        self.by: EndedBy | None = None
        self._task: asyncio.Task[object] | None = None

    def interrupt(self, by: EndedBy) -> None:
        """Cancel the block. Call it from another task or from a callback, never from within the block."""
        if self.by is None:
            self.by = by
            if self._task is not None:
                self._task.cancel()

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        if self.by is not None and self._task is not None:
            self._task.cancel()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        task, self._task = self._task, None
        if self.by is None or task is None or kind is not asyncio.CancelledError:
            return False
        # The server cancels too, at its own time-out: then there is one more request than ours.
        return task.uncancel() == 0


class Client:
    """Sends the response of one request.

    Args:
        scope: of ASGI.
        receive: of ASGI.
        send: of ASGI.
        unread_seconds: how long the client may take nothing.
    """

    def __init__(self, scope: Message, receive: Receive, send: Send, *, unread_seconds: float) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._unread_seconds = unread_seconds
        self.status = 0  # of the response; 0 before its head is sent
        self.last_bytes = b""  # of the body that was sent; a part whose sending is cancelled is not sent
        self.is_gone = False
        extensions = scope.get("extensions", {})
        self._is_write_paused: Callable[[], bool] = extensions.get(IS_WRITE_PAUSED, _unknown)
        set_read_seconds = extensions.get(READ_SECONDS)
        if set_read_seconds is not None:
            set_read_seconds(unread_seconds)

    @property
    def has_head(self) -> bool:
        """Whether the response has begun."""
        return self.status != 0

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Send the head."""
        if not self.is_gone:
            await self._send({"type": "http.response.start", "status": status, "headers": list(headers)})
            self.status = status

    async def write(self, chunk: bytes) -> None:
        """Send a part of the body, at once.

        Raises:
            SlowClient
        """
        await self._write(chunk, more=True)

    async def finish(self, last: bytes = b"") -> None:
        """Send the last part of the body."""
        await self._write(last, more=False)

    def abort(self) -> None:
        """Close the connection, so that the client notices that its response is incomplete."""
        abort = self._scope.get("extensions", {}).get(ABORT)
        if abort is not None:
            abort()

    async def _write(self, chunk: bytes, *, more: bool) -> None:
        if self.is_gone:
            return
        await self._send_part(chunk, more=more)
        self.last_bytes = (self.last_bytes + chunk[-LAST_BYTES:])[-LAST_BYTES:]

    async def _send_part(self, chunk: bytes, *, more: bool) -> None:
        message = {"type": "http.response.body", "body": chunk, "more_body": more}
        if (
            not self._is_write_paused()
        ):  # nearly always: a timeout for each event would cost as much as reading it
            await self._send(message)
            return
        try:
            # Not `wait_for`, which may swallow a cancellation on Python 3.11.
            async with asyncio.timeout(self._unread_seconds):
                await self._send(message)
        except TimeoutError:
            raise SlowClient from None

    @asynccontextmanager
    async def watched(self, on_left: Callable[[], None]) -> AsyncIterator[None]:
        """Call `on_left` if the client leaves while the block runs. Read the body before."""
        watching = asyncio.create_task(self._watch(on_left))
        try:
            yield
        finally:
            watching.cancel()

    async def _watch(self, on_left: Callable[[], None]) -> None:
        """`send` does not report a disconnect, so this waits for it."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        on_left()


def _unknown() -> bool:
    """A server without the extension may let any write wait."""
    return True
