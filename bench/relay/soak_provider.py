"""The provider of the soak: it knows what every call used, and fails a call in a hundred on purpose.

python -m bench.relay.soak_provider --port N --certificate FILE

Responses are numbered: `request-id: req_7` names the entry 7 of `GET /journal`.
"""

import argparse
import asyncio
from typing import Any

import orjson
import uvicorn

from bench.relay.peers import KEEP_ALIVE_SECONDS, MODEL, asks_for_stream, body_of, event, respond

FAILS_EVERY = 100
DELTAS = 20
PACE_SECONDS = 0.01
TEXT = "Hello, stream"
_MODELS = orjson.dumps({"data": [{"type": "model", "id": MODEL}], "has_more": False})
_OVERLOADED = orjson.dumps(
    {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": None}
)


class CountingProvider:
    """Messages, streams and overload errors with known usage."""

    def __init__(self) -> None:
        self._journal: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = await body_of(receive)
        if scope["path"] == "/journal":
            await respond(send, orjson.dumps(self._journal))
        elif scope["method"] == "GET":
            await respond(send, _MODELS)
        else:
            await self._message(is_stream=asks_for_stream(body), receive=receive, send=send)

    async def _message(self, *, is_stream: bool, receive: Any, send: Any) -> None:
        number = len(self._journal)
        fails = number % FAILS_EVERY == FAILS_EVERY - 1
        used = {
            "input_tokens": 0 if fails else 10 + number % 997,
            "cache_read_input_tokens": 0 if fails else number % 89,
            "output_tokens": 0 if fails else 2 + number * 7 % 499,
        }
        self._journal.append({"number": number, "fails": fails, "is_stream": is_stream, **used})
        headers = [(b"request-id", f"req_{number}".encode())]
        if fails:
            await respond(send, _OVERLOADED, status=529, headers=headers)
        elif is_stream:
            await _stream(used, headers, receive, send)
        else:
            content = [{"type": "text", "text": TEXT}]
            message = {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": MODEL}
            await respond(send, orjson.dumps({**message, "content": content, "usage": used}), headers=headers)


async def _stream(used: dict[str, int], headers: list[tuple[bytes, bytes]], receive: Any, send: Any) -> None:
    left = asyncio.create_task(receive())
    started = {"id": "msg", "model": MODEL, "usage": {**used, "output_tokens": 1}}
    delta = event("content_block_delta", index=0, delta={"type": "text_delta", "text": TEXT})
    end = event("message_delta", delta={}, usage={"output_tokens": used["output_tokens"]})
    try:
        headers = [(b"content-type", b"text/event-stream"), *headers]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send(_part(event("message_start", message=started)))
        for _ in range(DELTAS):
            await asyncio.sleep(PACE_SECONDS)
            if left.done():
                return
            await send(_part(delta))
        await send({"type": "http.response.body", "body": end + event("message_stop")})
    finally:
        left.cancel()


def _part(data: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate", required=True)
    options = parser.parse_args()
    uvicorn.run(
        CountingProvider(),
        host="127.0.0.1",
        port=options.port,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        ssl_certfile=options.certificate,
    )


if __name__ == "__main__":
    main()
