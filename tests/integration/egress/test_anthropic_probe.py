"""The probe of a key over a real socket: the verdict on every behaviour, and what is sent for it."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from app.core.api_key import ApiKey
from app.credentials.verdicts import Reason, ValidationStatus
from app.egress.anthropic import AnthropicClient
from app.egress.http_client import http_client
from app.provider_url.endpoint import AuthStyle
from app.validation.decision_table import MessagePatterns
from tests.fake_anthropic import Served, digest, make_key, serve
from tests.integration.egress.probing import destination, probed, refusing_port


@pytest.fixture(scope="module")
async def served() -> AsyncIterator[Served]:
    async with serve() as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[AnthropicClient]:
    async with http_client() as http:
        yield AnthropicClient(http)


# nocredit is valid: a list of models costs nothing, so it proves no credit.
REASONS: dict[Reason, str] = {
    Reason.OK: "valid nocredit publicmodels",
    Reason.INVALID_KEY: "invalid legacyinvalid openaierr",
    Reason.UNEXPECTED_ANSWER: "cors badrequest teapot",
    Reason.WORKSPACE_REQUIRED: "orgscoped",
    Reason.BILLING_PROBLEM: "spendlimit tiercap tiercaptext billing402 openaierr402",
    Reason.RATE_LIMITED: "ratelimited ramp",
    Reason.REVOKED_OR_DISABLED: "onhold disabled",
    Reason.INSUFFICIENT_PERMISSION: "forbidden",
    Reason.EDGE_BLOCKED: "edge html403",
    Reason.OVERLOADED: "overloaded err500 err503 err504 html502",
    Reason.NOT_ANTHROPIC_COMPATIBLE: "html200 html404 ok200err envelope200 openaimodels huge",
    Reason.REDIRECT_REFUSED: "redirect redirect303",
}


class TestBehaviours:
    @pytest.mark.parametrize(
        ("behaviour", "reason"),
        [(behaviour, reason) for reason, behaviours in REASONS.items() for behaviour in behaviours.split()],
    )
    async def test_have_their_reason(
        self, client: AnthropicClient, served: Served, behaviour: str, reason: Reason
    ) -> None:
        verdict = await probed(client, served.base_url, make_key(behaviour))

        assert verdict.reason is reason

    async def test_a_key_that_worked_and_is_refused_was_revoked(
        self, client: AnthropicClient, served: Served
    ) -> None:
        key = make_key("valid")
        served.fake.behave(key, "invalid")

        verdict = await probed(client, served.base_url, key, previously_valid=True)

        assert verdict.reason is Reason.REVOKED_OR_DISABLED

    async def test_a_workspace_id_helps_a_key_without_workspace(
        self, client: AnthropicClient, served: Served
    ) -> None:
        key = ApiKey.parse(make_key("orgscoped"))
        where = destination(served.base_url, workspace_id="wrkspc_01")

        verdict = await client.probe(key, where, previously_valid=False)

        assert verdict.status is ValidationStatus.VALID

    async def test_elsewhere_a_message_is_asked_for_as_lists_of_models_prove_nothing(
        self, client: AnthropicClient, served: Served
    ) -> None:
        key = make_key("valid")
        where = destination(served.base_url, is_default=False)

        verdict = await client.probe(ApiKey.parse(key), where, previously_valid=False)

        assert verdict.reason is Reason.OK
        assert [entry.path for entry in served.fake.requests_of(key)] == ["/v1/messages"]

    async def test_patterns_come_from_outside(self, served: Served) -> None:
        patterns = MessagePatterns(organization_disabled=("not to our liking",))
        async with http_client() as http:
            verdict = await probed(
                AnthropicClient(http, patterns=patterns), served.base_url, make_key("badrequest")
            )

        assert verdict.reason is Reason.REVOKED_OR_DISABLED


class TestRequest:
    async def test_carries_the_key_once_and_nothing_needless(
        self, client: AnthropicClient, served: Served
    ) -> None:
        key = make_key("valid")
        await probed(client, served.base_url, make_key("valid"))  # sets a cookie

        await probed(client, served.base_url, key)

        (request,) = served.fake.requests_of(key)
        assert (request.method, request.path) == ("GET", "/v1/models")
        assert request.header_names == (
            "accept",
            "accept-encoding",
            "anthropic-version",
            "host",
            "user-agent",
            "x-api-key",
        )
        assert request.shown_headers["anthropic-version"] == "2023-06-01"
        assert request.shown_headers["accept-encoding"] == "identity"
        assert request.complaints == ()
        assert key in served.fake.received_keys()

    async def test_uses_the_auth_style_of_the_destination(
        self, client: AnthropicClient, served: Served
    ) -> None:
        key = make_key("valid")
        where = destination(served.base_url, auth_style=AuthStyle.BEARER)

        await client.probe(ApiKey.parse(key), where, previously_valid=False)

        (request,) = served.fake.requests_of(key)
        assert request.credential_header == "authorization"
        assert request.credential_digest == digest(key)

    async def test_is_not_sent_on_to_where_a_redirect_points(
        self, client: AnthropicClient, served: Served
    ) -> None:
        key = make_key("redirect")

        await probed(client, served.base_url, key)

        assert [request.path for request in served.fake.requests_of(key)] == ["/v1/models"]
        assert "/elsewhere" not in {request.path for request in served.fake.journal}

    async def test_does_not_go_through_a_proxy_of_the_environment(
        self, served: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with serve() as proxy:
            for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
                monkeypatch.setenv(name, proxy.base_url)
                monkeypatch.setenv(name.lower(), proxy.base_url)
            monkeypatch.delenv("NO_PROXY", raising=False)
            monkeypatch.delenv("no_proxy", raising=False)
            async with http_client() as http:
                verdict = await probed(AnthropicClient(http), served.base_url, make_key("valid"))

        assert verdict.reason is Reason.OK
        assert proxy.fake.journal == []


class TestRepetition:
    async def test_a_passing_server_error_is_forgiven_once(
        self, client: AnthropicClient, served: Served
    ) -> None:
        key = make_key("flaky500")

        verdict = await probed(client, served.base_url, key)

        assert verdict.reason is Reason.OK

    @pytest.mark.parametrize(
        ("behaviour", "times"), [("err500", 2), ("overloaded", 2), ("invalid", 1), ("ratelimited", 1)]
    )
    async def test_only_server_errors_are_repeated(
        self, client: AnthropicClient, served: Served, behaviour: str, times: int
    ) -> None:
        key = make_key(behaviour)

        await probed(client, served.base_url, key)

        assert len(served.fake.requests_of(key)) == times


class TestDeadline:
    async def test_a_slow_answer_in_time_counts(self, client: AnthropicClient) -> None:
        async with serve() as slow:
            probing = asyncio.create_task(probed(client, slow.base_url, make_key("slow")))
            await slow.fake.arrived.wait()
            slow.fake.release.set()
            verdict = await probing

        assert verdict.reason is Reason.OK

    @pytest.mark.parametrize("behaviour", ["slow", "stall"])
    async def test_an_answer_that_does_not_end_is_a_timeout(
        self, client: AnthropicClient, served: Served, behaviour: str
    ) -> None:
        verdict = await client.probe(
            ApiKey.parse(make_key(behaviour)),
            destination(served.base_url),
            previously_valid=False,
            timeout_seconds=0.2,
        )

        assert verdict.reason is Reason.TIMEOUT


class TestSecrecy:
    async def test_an_echoed_key_reaches_neither_verdict_nor_log(
        self, client: AnthropicClient, served: Served, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        key = make_key("echo")

        verdict = await probed(client, served.base_url, key)

        logged = caplog.text + "".join(str(vars(record)) for record in caplog.records)
        secret = key.removeprefix("sk-ant-api03-").removesuffix("-echo")
        pieces = {secret[start : start + 8] for start in range(len(secret) - 7)}
        assert verdict.reason is Reason.INVALID_KEY
        assert verdict.provider_request_id is None
        assert not any(piece in repr(verdict) + logged for piece in pieces)

    async def test_a_key_that_no_header_can_hold_stays_inside(
        self, client: AnthropicClient, served: Served, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        canary = "canary-Zk3v9Qx1"

        for text in (f"{canary}\n", f"{canary}\u2011"):
            verdict = await client.probe(ApiKey(text), destination(served.base_url), previously_valid=False)
            assert verdict.status is ValidationStatus.INDETERMINATE

        assert canary not in caplog.text

    async def test_the_providers_request_id_is_kept(self, client: AnthropicClient, served: Served) -> None:
        verdict = await probed(client, served.base_url, make_key("forbidden"))

        assert (verdict.provider_request_id or "").startswith("req_")


class TestReachable:
    async def test_any_answer_will_do(self, client: AnthropicClient, served: Served) -> None:
        assert await client.reachable(served.base_url) is None
        assert served.fake.journal[-1].credential_header is None

    async def test_says_why_not(self, client: AnthropicClient) -> None:
        with refusing_port() as port:
            assert await client.reachable(f"http://127.0.0.1:{port}") is Reason.UNREACHABLE
