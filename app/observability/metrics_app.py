"""Serves `/metrics` and `/livez` for a process without the API: a plain ASGI application."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from app.observability.metrics import metrics_text

METRICS_MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Message = MutableMapping[str, Any]


async def metrics_app(
    scope: Message, _receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Respond to GET and HEAD of the two paths, with 405 to other methods and 404 to other paths."""
    if scope["type"] != "http":
        return
    status, media_type, body = _response(scope["method"], scope["path"])
    headers = [(b"content-type", media_type.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _response(method: str, path: str) -> tuple[int, str, bytes]:
    if path not in {"/metrics", "/livez"}:
        return 404, "text/plain", b""
    if method not in {"GET", "HEAD"}:
        return 405, "text/plain", b""
    if path == "/livez":
        return 200, "application/json", b'{"status":"ok"}'
    return 200, METRICS_MEDIA_TYPE, metrics_text()
