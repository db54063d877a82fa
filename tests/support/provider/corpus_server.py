"""Sends the responses of a corpus over a socket to the real client of the provider."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any

import httpx

from app.core.clock import now
from app.core.keys.api_key import ApiKey
from app.credentials.validation_results import ValidationResult
from app.egress.anthropic import AnthropicClient
from app.provider_url.endpoint import AuthStyle, ProviderEndpoint
from tests.support.provider.provider_answers import PROBES, content_of

HOSTS = {"anthropic", "custom"}
PROBE_MODEL = "claude-haiku-5-5"
WITHOUT_BODY = {204, 304}


def encoded(case: Mapping[str, Any]) -> bytes:
    """The response of a case as it is sent."""
    status = int(case["status"])
    content = b"" if status in WITHOUT_BODY else content_of(case["body"])
    lines = [f"HTTP/1.1 {status} Status"]
    lines += [f"{name}: {value}" for name, value in (case.get("headers") or {}).items()]
    lines += [f"content-length: {len(content)}", "connection: close", "", ""]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("A header contains a line break.")
    return "\r\n".join(lines).encode() + content


class _Server:
    def __init__(self, responses: Sequence[bytes]) -> None:
        self._responses = responses

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            await reader.readexactly(int(fields.get("content-length", "0")))
            writer.write(self._responses[int(head.split("/", 2)[1])])
            await writer.drain()
        with suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def serving(responses: Sequence[bytes]) -> AsyncIterator[str]:
    """Serve each response below `/{its index}/` on loopback. Yields the base URL."""
    server = await asyncio.start_server(_Server(responses).serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def probe_case(
    http: httpx.AsyncClient,
    base_url: str,
    index: int,
    case: Mapping[str, Any],
    key: ApiKey,
    *,
    previously_valid: bool,
    clock: Callable[[], datetime] = now,
) -> ValidationResult:
    """Send the probe of the case to its response, with the client of the service."""
    if case["host"] not in HOSTS:
        raise ValueError("The host is neither anthropic nor custom.")
    messages_url = f"{base_url}/{index}/v1/messages"
    endpoint = ProviderEndpoint(
        base_url=None if case["host"] == "anthropic" else f"{base_url}/{index}",
        messages_url=messages_url,
        auth_style=AuthStyle.X_API_KEY,
        workspace_id=None,
        probe_model=PROBE_MODEL,
    )
    client = AnthropicClient(http, default_messages_url=messages_url, clock=clock)
    return await client.send_probe(PROBES[case["probe"]], key, endpoint, previously_valid=previously_valid)


class CorpusProber:
    """A prober that gets the response of a case over a socket. `case_ids` has the case of each key.

    Other keys get the response of `models`, which is valid.
    """

    def __init__(self, http: httpx.AsyncClient, base_url: str, cases: Sequence[Mapping[str, Any]]) -> None:
        self._http = http
        self._base_url = base_url
        self._cases = {case["id"]: (index, case) for index, case in enumerate(cases)}
        self.case_ids: dict[str, str] = {}
        self.instant = now()

    async def probe(
        self,
        key: ApiKey,
        endpoint: ProviderEndpoint,  # noqa: ARG002  # the endpoint is that of the case
        *,
        previously_valid: bool,
        timeout_seconds: float | None = None,  # noqa: ARG002  # the port's signature
    ) -> ValidationResult:
        index, case = self._cases[self.case_ids.get(key.reveal(), "models")]
        return await probe_case(
            self._http,
            self._base_url,
            index,
            case,
            key,
            previously_valid=previously_valid,
            clock=lambda: self.instant,
        )


@asynccontextmanager
async def corpus_prober(
    http: httpx.AsyncClient, cases: Sequence[Mapping[str, Any]]
) -> AsyncIterator[CorpusProber]:
    async with serving([encoded(case) for case in cases]) as base_url:
        yield CorpusProber(http, base_url, cases)
