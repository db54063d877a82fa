"""The decision table over TLS on a real socket, with all three probes. Custom hosts get two of them."""

import json
import re
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus

import pytest

from app.core.keys.api_key import ApiKey
from app.credentials.validation_results import Reason
from app.egress.anthropic import ANTHROPIC_BASE_URL, AnthropicClient
from app.provider_url.endpoint import AuthStyle, ProviderEndpoint
from app.validation.probes import Probe
from tests.support.network.scripted_servers import (
    ADDRESS,
    HOST,
    FixedResolver,
    LoopbackBackend,
    Reader,
    Script,
    ScriptedServer,
    Writer,
    certificate,
    client,
    client_of,
    http_response,
    never_respond,
    respond_always,
    scripted_server,
)
from tests.support.provider.fake_anthropic import make_key
from tests.support.provider.provider_answers import PROBES, Case, case_named, cases, content_of

ANTHROPIC_HOST = "api.anthropic.com"
WITHOUT_BODY = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}

MODELS, MESSAGE, EMPTY = Probe.MODELS, Probe.MESSAGE, Probe.EMPTY_MESSAGE


def provider_endpoint(probe: Probe, *, is_anthropic: bool) -> ProviderEndpoint:
    base_url = ANTHROPIC_BASE_URL if is_anthropic else f"https://{HOST}"
    return ProviderEndpoint(
        base_url=base_url,
        messages_url=f"{base_url}/v1/messages",
        auth_style=AuthStyle.X_API_KEY,
        workspace_id=None,
        probe_model="claude-haiku-5-5" if probe is MESSAGE else None,
    )


def encoded(case: Case) -> bytes:
    headers = [f"{name}: {value}" for name, value in case["headers"].items()]
    if case["status"] in WITHOUT_BODY:
        return "\r\n".join([f"HTTP/1.1 {case['status']} ", *headers, "", ""]).encode()
    return http_response(content_of(case["body"]), *headers, status=f"{case['status']} ")


class ScriptedProvider:
    """Sends `response` to every request and records the requests."""

    def __init__(self) -> None:
        self.response = b""
        self.server: ScriptedServer | None = None
        self.requests: list[tuple[str, object]] = []

    async def respond(self, reader: Reader, writer: Writer) -> None:
        assert self.server is not None
        head = self.server.requests[-1]
        length = re.search(r"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
        content = await reader.readexactly(int(length[1])) if length else b""
        self.requests.append((head.split(" HTTP/")[0], json.loads(content) if content else None))
        writer.write(self.response)


@pytest.fixture(scope="module")
async def provider() -> AsyncIterator[ScriptedProvider]:
    provider = ScriptedProvider()
    async with scripted_server(provider.respond, certificate(HOST, ANTHROPIC_HOST)) as server:
        provider.server = server
        yield provider


@pytest.fixture(scope="module")
async def anthropic(provider: ScriptedProvider) -> AsyncIterator[AnthropicClient]:
    assert provider.server is not None
    resolver = FixedResolver(gw_example_com=[[ADDRESS]], api_anthropic_com=[[ADDRESS]])
    async with client(resolver, LoopbackBackend({ADDRESS: provider.server.port})) as http:
        yield AnthropicClient(http)


async def reason_of(
    anthropic: AnthropicClient, probe: Probe, *, timeout_seconds: float = 15.0
) -> Reason | None:
    """The reason of a key that is validated with the probe that the client chooses."""
    result = await anthropic.probe(
        ApiKey.parse(make_key()),
        provider_endpoint(probe, is_anthropic=probe is MODELS),
        previously_valid=False,
        timeout_seconds=timeout_seconds,
    )
    return result.reason


class TestProbes:
    @pytest.mark.parametrize(
        ("probe", "line", "body"),
        [
            (MODELS, "GET /v1/models?limit=1", None),
            (
                MESSAGE,
                "POST /v1/messages",
                {
                    "model": "claude-haiku-5-5",
                    "max_tokens": 1,
                    "messages": [{"role": "user", "content": "Hi"}],
                },
            ),
            (EMPTY, "POST /v1/messages", {}),
        ],
    )
    async def test_send_exactly_one_request(
        self, anthropic: AnthropicClient, provider: ScriptedProvider, probe: Probe, line: str, body: object
    ) -> None:
        provider.response = encoded(case_named("401-envelope"))
        provider.requests.clear()

        await reason_of(anthropic, probe)

        assert provider.requests == [(line, body)]


class TestResponses:
    @pytest.mark.parametrize("case", [pytest.param(case, id=case["id"]) for case in cases()])
    async def test_are_decided_by_their_row(
        self, anthropic: AnthropicClient, provider: ScriptedProvider, case: Case
    ) -> None:
        provider.response = encoded(case)
        probe = PROBES[case["probe"]]
        endpoint = provider_endpoint(probe, is_anthropic=case["host"] == "anthropic")

        result = await anthropic.send_probe(probe, ApiKey.parse(make_key()), endpoint, previously_valid=False)

        assert (result.row, result.status) == (case["row"], case["expect"]["status"])
        assert result.reason in case["expect"]["reasons"]


async def close_connections(_reader: Reader, writer: Writer) -> None:
    writer.transport.abort()


OK = respond_always(http_response())
PUBLIC = [ADDRESS]


class TestFailures:
    """No response, for a custom host."""

    @pytest.mark.parametrize(
        ("script", "reason"),
        [
            (close_connections, Reason.UNREACHABLE),
            (respond_always(b"220 mail.example.com ESMTP\r\n\r\n"), Reason.UNREACHABLE),
        ],
        ids=["closes the connection", "uses another protocol"],
    )
    async def test_broken_connection_is_unreachable(self, script: Script, reason: Reason) -> None:
        async with scripted_server(script) as server, client_of(server) as http:
            assert await reason_of(AnthropicClient(http), EMPTY) is reason

    async def test_missing_response_is_a_timeout(self) -> None:
        async with scripted_server(never_respond) as server, client_of(server) as http:
            assert await reason_of(AnthropicClient(http), EMPTY, timeout_seconds=0.5) is Reason.TIMEOUT

    async def test_wrong_certificate_is_a_tls_error(self) -> None:
        async with scripted_server(OK, certificate("other.example.com")) as server, client_of(server) as http:
            assert await reason_of(AnthropicClient(http), EMPTY) is Reason.TLS_ERROR
            assert server.requests == []

    @pytest.mark.parametrize(
        ("addresses", "reason"),
        [
            (PUBLIC, Reason.UNREACHABLE),
            ([], Reason.UNREACHABLE),
            (None, Reason.DNS_UNAVAILABLE),
            (["10.0.0.5"], Reason.ADDRESS_REFUSED),
        ],
        ids=["refuses", "no such name", "no resolver", "private"],
    )
    async def test_lookup_and_connect_failures_have_their_reason(
        self, addresses: Sequence[str] | None, reason: Reason
    ) -> None:
        async with client(FixedResolver(gw_example_com=[addresses]), LoopbackBackend({})) as http:
            assert await reason_of(AnthropicClient(http), EMPTY) is reason
