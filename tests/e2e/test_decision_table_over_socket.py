"""The decision table over TLS on a real socket, with each of the three probes: custom hosts get two of them."""

import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from http import HTTPStatus

import pytest
from _pytest.mark import ParameterSet

from app.core.api_key import ApiKey
from app.credentials.verdicts import Reason
from app.egress.anthropic import ANTHROPIC_BASE_URL, AnthropicClient
from app.provider_url.endpoint import AuthStyle, ProviderEndpoint
from app.validation.decision_table import ROWS, Probe
from tests.fake_anthropic import make_key
from tests.integration.egress.far_side import (
    ADDRESS,
    HOST,
    Detour,
    FarServer,
    FixedResolver,
    Reader,
    Script,
    Writer,
    always,
    answer,
    certificate,
    client,
    client_of,
    far_server,
    silence,
)
from tests.unit.domain.decision_table_cases import ANSWERS, CODES, EMPTY, MESSAGE, MODELS, envelope

ANTHROPIC_HOST = "api.anthropic.com"
WITHOUT_BODY = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}

# Rows about what was asked rather than about the answer: their cases hold for the probe they name only.
OF_ONE_PROBE = {"1", "2", "3", "13", "14", "15", "18"}
EVERY_PROBE = (MODELS, MESSAGE, EMPTY)
FURTHER: list[tuple[str, Probe, int, object, Reason]] = [
    ("3", EMPTY, 200, None, Reason.NOT_ANTHROPIC_COMPATIBLE),
    ("3", EMPTY, 200, {"data": []}, Reason.NOT_ANTHROPIC_COMPATIBLE),
    ("13", EMPTY, 404, envelope("not_found_error", "model: none"), Reason.UNEXPECTED_ANSWER),
    ("14", EMPTY, 404, None, Reason.NOT_ANTHROPIC_COMPATIBLE),
    ("14", EMPTY, 405, None, Reason.NOT_ANTHROPIC_COMPATIBLE),
    ("15", MODELS, 400, envelope("invalid_request_error", "limit: too small"), Reason.UNEXPECTED_ANSWER),
    ("15", MESSAGE, 422, envelope("invalid_request_error", "messages"), Reason.OK),
    ("18", EMPTY, 418, envelope("teapot_error"), Reason.UNEXPECTED_ANSWER),
    ("18", MESSAGE, 400, None, Reason.NOT_ANTHROPIC_COMPATIBLE),
]


def cases() -> Iterator[ParameterSet]:
    given = [
        *((row, probe, status, body, reason) for row, probe, status, body, reason in (*ANSWERS, *FURTHER)),
        *(("4", MODELS, status, envelope("error", code=code), reason) for status, code, reason in CODES),
    ]
    for row, probe, status, body, reason in given:
        for asked in (probe,) if row in OF_ONE_PROBE else EVERY_PROBE:
            yield pytest.param(asked, status, body, reason, id=f"{row}-{asked}-{status}-{reason}")


def destination(probe: Probe) -> ProviderEndpoint:
    base_url = ANTHROPIC_BASE_URL if probe is MODELS else f"https://{HOST}"
    return ProviderEndpoint(
        base_url=base_url,
        messages_url=f"{base_url}/v1/messages",
        auth_style=AuthStyle.X_API_KEY,
        workspace_id=None,
        probe_model="claude-haiku-5-5" if probe is MESSAGE else None,
    )


def http_answer(status: int, body: object) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    if status in WITHOUT_BODY:
        return f"HTTP/1.1 {status} \r\n\r\n".encode()
    return answer(content, "Content-Type: application/json", status=f"{status} ")


class Provider:
    """Says what it was last told to say, and keeps what it was asked."""

    def __init__(self) -> None:
        self.says = b""
        self.server: FarServer | None = None
        self.asked: list[tuple[str, object]] = []

    async def play(self, reader: Reader, writer: Writer) -> None:
        assert self.server is not None
        head = self.server.requests[-1]
        length = re.search(r"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
        content = await reader.readexactly(int(length[1])) if length else b""
        self.asked.append((head.split(" HTTP/")[0], json.loads(content) if content else None))
        writer.write(self.says)


@pytest.fixture(scope="module")
async def provider() -> AsyncIterator[Provider]:
    provider = Provider()
    async with far_server(provider.play, certificate(HOST, ANTHROPIC_HOST)) as server:
        provider.server = server
        yield provider


@pytest.fixture(scope="module")
async def anthropic(provider: Provider) -> AsyncIterator[AnthropicClient]:
    assert provider.server is not None
    resolver = FixedResolver(gw_example_com=[[ADDRESS]], api_anthropic_com=[[ADDRESS]])
    async with client(resolver, Detour({ADDRESS: provider.server.port})) as http:
        yield AnthropicClient(http)


async def reason_of(
    anthropic: AnthropicClient, probe: Probe, *, timeout_seconds: float = 15.0
) -> Reason | None:
    verdict = await anthropic.probe(
        ApiKey.parse(make_key()), destination(probe), previously_valid=False, timeout_seconds=timeout_seconds
    )
    return verdict.reason


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
    async def test_ask_one_thing_once(
        self, anthropic: AnthropicClient, provider: Provider, probe: Probe, line: str, body: object
    ) -> None:
        provider.says = http_answer(401, None)
        provider.asked.clear()

        await reason_of(anthropic, probe)

        assert provider.asked == [(line, body)]


class TestAnswers:
    def test_cover_every_row_for_custom_hosts(self) -> None:
        covered = {str(case.id).split("-")[0] for case in cases() if case.values[0] is not MODELS}

        assert covered == {row.number for row in ROWS} - {"1"}  # a list of models is never asked of them

    @pytest.mark.parametrize(("probe", "status", "body", "reason"), [*cases()])
    async def test_have_the_reason_of_their_row(
        self,
        anthropic: AnthropicClient,
        provider: Provider,
        *,
        probe: Probe,
        status: int,
        body: object,
        reason: Reason,
    ) -> None:
        provider.says = http_answer(status, body)

        assert await reason_of(anthropic, probe) is reason


async def hang_up(_reader: Reader, writer: Writer) -> None:
    writer.transport.abort()


OK = always(answer())
PUBLIC = [ADDRESS]


class TestFailures:
    """Rows T1 to T3, for a host that a customer entered."""

    @pytest.mark.parametrize(
        ("play", "reason"),
        [
            (hang_up, Reason.UNREACHABLE),
            (always(b"220 mail.example.com ESMTP\r\n\r\n"), Reason.UNREACHABLE),
        ],
        ids=["hangs up", "speaks another protocol"],
    )
    async def test_of_the_peer(self, play: Script, reason: Reason) -> None:
        async with far_server(play) as server, client_of(server) as http:
            assert await reason_of(AnthropicClient(http), EMPTY) is reason

    async def test_of_a_peer_that_says_nothing(self) -> None:
        async with far_server(silence) as server, client_of(server) as http:
            assert await reason_of(AnthropicClient(http), EMPTY, timeout_seconds=0.5) is Reason.TIMEOUT

    async def test_of_its_certificate(self) -> None:
        async with far_server(OK, certificate("other.example.com")) as server, client_of(server) as http:
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
    async def test_of_the_way_there(self, addresses: Sequence[str] | None, reason: Reason) -> None:
        async with client(FixedResolver(gw_example_com=[addresses]), Detour({})) as http:
            assert await reason_of(AnthropicClient(http), EMPTY) is reason
