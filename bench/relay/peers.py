"""The peers of the relay's benchmark: a provider that responds at once, and a pass-through with httpx.

Both report the lag of their event loop at `/metrics`, as the service does.

python -m bench.relay.peers provider --port N [--certificate FILE]
python -m bench.relay.peers pass-through --port N --upstream URL --ca-file FILE
"""

import argparse
import asyncio
import json
import re
import ssl
from collections.abc import Iterable
from typing import Any

import httpx
import uvicorn
from prometheus_client import generate_latest

from app.observability.event_loop_lag import measure_event_loop_lag
from app.observability.metrics import REGISTRY

MODEL = "claude-haiku-5-5"
EVENTS = 100
PACE_SECONDS = 0.02
# Longer than any client here keeps an idle connection. A request fails if it meets the end of its connection.
KEEP_ALIVE_SECONDS = 75
_MESSAGE = json.dumps(
    {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [{"type": "text", "text": "x" * 700}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 12, "output_tokens": 34},
    }
).encode()
_STREAM = re.compile(rb'"stream"\s*:\s*true')
_MODELS = json.dumps({"data": [{"type": "model", "id": MODEL}], "has_more": False}).encode()


def asks_for_stream(body: bytes) -> bool:
    """Some peers write `"stream": false` into the body."""
    return _STREAM.search(body) is not None


def event(name: str, **data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode()


_START = event("message_start", message={"id": "msg_1", "model": MODEL, "usage": {"input_tokens": 12}})
_DELTA = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello, stream"})
_END = event("message_delta", delta={}, usage={"output_tokens": EVENTS}) + event("message_stop")


class Provider:
    """A message, or a stream with a fixed pace and at most `max_tokens` events. `/open` reports how many streams are open."""

    def __init__(self) -> None:
        self._open = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = await body_of(receive)
        if scope["path"] == "/metrics":
            await respond(send, generate_latest(REGISTRY))
        elif scope["path"] == "/open":
            await respond(send, str(self._open).encode())
        elif scope["path"].endswith("/count_tokens"):
            await respond(send, b'{"input_tokens": 12}')
        elif scope["method"] == "GET":
            await respond(send, _MODELS)
        elif asks_for_stream(body):
            await self._stream(receive, send, events=min(EVENTS, json.loads(body)["max_tokens"]))
        else:
            await respond(send, _MESSAGE)

    async def _stream(self, receive: Any, send: Any, *, events: int) -> None:
        self._open += 1
        left = asyncio.create_task(receive())
        loop = asyncio.get_running_loop()
        try:
            headers = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": _START, "more_body": True})
            started = loop.time()
            for number in range(1, events + 1):
                await asyncio.sleep(max(0.0, started + number * PACE_SECONDS - loop.time()))
                if left.done():
                    return
                await send({"type": "http.response.body", "body": _DELTA, "more_body": True})
            await send({"type": "http.response.body", "body": _END})
        finally:
            self._open -= 1
            left.cancel()


class PassThrough:
    """What is usually written: httpx, a stream of raw bytes, no checks."""

    def __init__(self, upstream: str, ca_file: str) -> None:
        self._http = httpx.AsyncClient(
            base_url=upstream, verify=ssl.create_default_context(cafile=ca_file), trust_env=False, timeout=60
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = await body_of(receive)
        if scope["path"] == "/metrics":
            await respond(send, generate_latest(REGISTRY))
            return
        headers = {"x-api-key": "key", "content-type": "application/json"}
        request = self._http.build_request(scope["method"], scope["path"], content=body, headers=headers)
        response = await self._http.send(request, stream=True)
        try:
            passed = [
                (name, value)
                for name, value in response.headers.raw
                if name.lower() in {b"content-type", b"content-length"}
            ]
            await send({"type": "http.response.start", "status": response.status_code, "headers": passed})
            async for chunk in response.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await response.aclose()


async def body_of(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def respond(
    send: Any, body: bytes, *, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    json_headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*json_headers, *headers]})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("provider", "pass-through"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate")
    parser.add_argument("--upstream", default="")
    parser.add_argument("--ca-file", default="")
    options = parser.parse_args()
    app = Provider() if options.role == "provider" else PassThrough(options.upstream, options.ca_file)
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=options.port,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        ssl_certfile=options.certificate,
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve(config))


async def _serve(config: uvicorn.Config) -> None:
    async with measure_event_loop_lag():
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    main()
