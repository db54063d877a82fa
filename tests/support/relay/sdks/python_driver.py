"""Runs in the virtual environment of one version of the `anthropic` package, never in that of the tests.

Reads a job as JSON from stdin and writes what the SDK made of every scenario as JSON to stdout.
"""

import asyncio
import base64
import importlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anthropic

QUESTION = [{"role": "user", "content": "Wie heißt du? 🦜"}]
TOOL = {"name": "weather", "description": "Weather", "input_schema": {"type": "object", "properties": {}}}
COMMON: dict[str, Any] = {"model": "claude-haiku-5-5", "max_tokens": 100, "messages": QUESTION}


def dumped(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


async def create(client: Any) -> Any:
    return dumped(await client.messages.create(**COMMON))


async def tools(client: Any) -> Any:
    return dumped(await client.messages.create(**COMMON, tools=[TOOL]))


async def beta(client: Any) -> Any:
    return dumped(await client.beta.messages.create(**COMMON, betas=["context-1m-2025-08-07", "other"]))


async def stream_helper(client: Any) -> Any:
    async with client.messages.stream(**COMMON) as stream:
        events = [dumped(event) async for event in stream]
        return {"events": events, "final": dumped(await stream.get_final_message())}


async def raw_stream(client: Any) -> Any:
    return [dumped(event) async for event in await client.messages.create(**COMMON, stream=True)]


async def raw_response(client: Any) -> Any:
    response = await client.messages.with_raw_response.create(**COMMON)
    names = ("request-id", "content-type", "anthropic-ratelimit-requests-remaining")
    return {name: response.headers.get(name) for name in names}


async def count_tokens(client: Any) -> Any:
    return dumped(
        await client.messages.count_tokens(model=COMMON["model"], messages=QUESTION, system="Be brief.")
    )


async def models(client: Any) -> Any:
    return [dumped(model) async for model in client.models.list(limit=2)]


async def model(client: Any) -> Any:
    return dumped(await client.models.retrieve("claude-haiku-5-5"))


CALLS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    call.__name__: call
    for call in (create, tools, beta, stream_helper, raw_stream, raw_response, count_tokens, models, model)
}


def error_of(error: BaseException) -> dict[str, Any]:
    return {
        "class": type(error).__name__,
        "is_api_error": isinstance(error, anthropic.APIStatusError),
        "status": getattr(error, "status_code", None),
        "type": getattr(error, "type", None),
        "body": getattr(error, "body", None),
        "message": str(error),
        "request_id": getattr(error, "request_id", None),
    }


async def run(job: dict[str, Any]) -> list[Any]:
    results: list[Any] = []
    for scenario in job["scenarios"]:
        client = anthropic.AsyncAnthropic(
            base_url=job["base_url"],
            api_key=job["api_key"],
            default_headers={"x-stainless-script": scenario["script"], **job.get("headers", {})},
        )
        try:
            results.append({"result": await CALLS[scenario["call"]](client)})
        except Exception as error:  # noqa: BLE001  # every error is a result
            results.append({"error": error_of(error)})
        await client.close()
    return results


async def run_all(jobs: list[dict[str, Any]]) -> list[list[Any]]:
    return [await run(job) for job in jobs]


async def parse(streams: list[str]) -> list[Any]:
    """How a stream of these bytes ends: the name of the exception or null, and the number of events before."""
    http: Any = importlib.import_module("httpx2" if int(anthropic.__version__.partition(".")[0]) else "httpx")
    bodies = iter(base64.b64decode(encoded) for encoded in streams)

    class Body(http.AsyncByteStream):  # type: ignore[misc]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield next(bodies)

    def respond(_request: Any) -> Any:
        return http.Response(200, headers={"content-type": "text/event-stream"}, stream=Body())

    client = anthropic.AsyncAnthropic(
        base_url="http://fake",
        api_key="k",
        http_client=http.AsyncClient(transport=http.MockTransport(respond)),
    )
    return [await end_of(client) for _ in streams]


async def end_of(client: Any) -> list[Any]:
    events = 0
    try:
        async for _ in await client.messages.create(**COMMON, stream=True):
            events += 1
    except anthropic.APIStatusError:
        return ["APIStatusError", events]
    except Exception as error:  # noqa: BLE001  # every error is a result
        return [type(error).__name__, events]
    return [None, events]


def main() -> None:
    job = json.load(sys.stdin)
    done = asyncio.run(parse(job["streams"]) if "streams" in job else run_all(job["runs"]))
    json.dump({"version": anthropic.__version__, "results": done}, sys.stdout)


main()
