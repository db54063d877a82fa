"""Probes over a real socket: the result for each behaviour of the provider, and the request that is sent."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from app.core.keys.api_key import ApiKey
from app.credentials.validation_results import Reason, ValidationStatus
from app.egress.anthropic import AnthropicClient
from app.egress.http_client import http_client
from app.provider_url.endpoint import AuthStyle
from app.validation.message_patterns import MessagePatterns
from tests.support.provider.fake_anthropic import Served, digest, make_key, serve
from tests.support.provider.probes import provider_endpoint, refusing_port, send_probe


@pytest.fixture(scope="module")
async def served() -> AsyncIterator[Served]:
    async with serve() as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[AnthropicClient]:
    async with http_client() as http:
        yield AnthropicClient(http)


# `nocredit` is valid: the model list is free, so it does not prove that the account has credit.
REASONS: dict[Reason, str] = {
    Reason.OK: "valid nocredit publicmodels",
    Reason.INVALID_KEY: "invalid legacyinvalid openaierr",
    Reason.UNEXPECTED_ANSWER: "cors badrequest teapot html200 html404 huge",
    Reason.WORKSPACE_REQUIRED: "orgscoped",
    Reason.BILLING_PROBLEM: "spendlimit tiercap tiercaptext billing402 openaierr402",
    Reason.RATE_LIMITED: "ratelimited ramp",
    Reason.REVOKED_OR_DISABLED: "onhold disabled",
    Reason.INSUFFICIENT_PERMISSION: "forbidden",
    Reason.EDGE_BLOCKED: "edge html403",
    Reason.OVERLOADED: "overloaded err500 err503 err504 html502",
    Reason.NOT_ANTHROPIC_COMPATIBLE: "ok200err envelope200 openaimodels",
    Reason.REDIRECT_REFUSED: "redirect redirect303",
}


class TestBehaviours:
    @pytest.mark.parametrize(
        ("behaviour", "reason"),
        [(behaviour, reason) for reason, behaviours in REASONS.items() for behaviour in behaviours.split()],
    )
    async def test_give_the_expected_reason(
        self, client: AnthropicClient, served: Served, behaviour: str, reason: Reason
    ) -> None:
        result = await send_probe(client, served.base_url, make_key(behaviour))

        assert result.reason is reason

    async def test_rejected_key_that_was_valid_counts_as_revoked(
        self, client: AnthropicClient, served: Served
    ) -> None:
        key = make_key("valid")
        served.fake.behave(key, "invalid")

        result = await send_probe(client, served.base_url, key, previously_valid=True)

        assert result.reason is Reason.REVOKED_OR_DISABLED

    async def test_workspace_id_makes_an_unscoped_key_valid(
        self, client: AnthropicClient, served: Served
    ) -> None:
        key = ApiKey.parse(make_key("orgscoped"))
        endpoint = provider_endpoint(served.base_url, workspace_id="wrkspc_01")

        result = await client.probe(key, endpoint, previously_valid=False)

        assert result.status is ValidationStatus.VALID

    async def test_custom_endpoint_is_probed_with_a_message(
        self, client: AnthropicClient, served: Served
    ) -> None:
        key = make_key("valid")
        endpoint = provider_endpoint(served.base_url, is_default=False)

        result = await client.probe(ApiKey.parse(key), endpoint, previously_valid=False)

        assert result.reason is Reason.OK
        assert [entry.path for entry in served.fake.requests_of(key)] == ["/v1/messages"]

    async def test_uses_custom_patterns(self, served: Served) -> None:
        patterns = MessagePatterns(organization_disabled=("not to our liking",))
        async with http_client() as http:
            result = await send_probe(
                AnthropicClient(http, patterns=patterns), served.base_url, make_key("badrequest")
            )

        assert result.reason is Reason.REVOKED_OR_DISABLED


class TestRequest:
    async def test_contains_the_key_once_and_only_required_headers(
        self, client: AnthropicClient, served: Served
    ) -> None:
        key = make_key("valid")
        await send_probe(client, served.base_url, make_key("valid"))  # sets a cookie

        await send_probe(client, served.base_url, key)

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

    async def test_uses_the_auth_style_of_the_endpoint(self, client: AnthropicClient, served: Served) -> None:
        key = make_key("valid")
        endpoint = provider_endpoint(served.base_url, auth_style=AuthStyle.BEARER)

        await client.probe(ApiKey.parse(key), endpoint, previously_valid=False)

        (request,) = served.fake.requests_of(key)
        assert request.credential_header == "authorization"
        assert request.credential_digest == digest(key)

    async def test_does_not_follow_redirects(self, client: AnthropicClient, served: Served) -> None:
        key = make_key("redirect")

        await send_probe(client, served.base_url, key)

        assert [request.path for request in served.fake.requests_of(key)] == ["/v1/models"]
        assert "/elsewhere" not in {request.path for request in served.fake.journal}

    async def test_ignores_proxies_of_the_environment(
        self, served: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with serve() as proxy:
            for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
                monkeypatch.setenv(name, proxy.base_url)
                monkeypatch.setenv(name.lower(), proxy.base_url)
            monkeypatch.delenv("NO_PROXY", raising=False)
            monkeypatch.delenv("no_proxy", raising=False)
            async with http_client() as http:
                result = await send_probe(AnthropicClient(http), served.base_url, make_key("valid"))

        assert result.reason is Reason.OK
        assert proxy.fake.journal == []


class TestRetry:
    async def test_transient_server_error_is_retried_once(
        self, client: AnthropicClient, served: Served
    ) -> None:
        key = make_key("flaky500")

        result = await send_probe(client, served.base_url, key)

        assert result.reason is Reason.OK

    @pytest.mark.parametrize(
        ("behaviour", "times"), [("err500", 2), ("overloaded", 2), ("invalid", 1), ("ratelimited", 1)]
    )
    async def test_only_server_errors_are_retried(
        self, client: AnthropicClient, served: Served, behaviour: str, times: int
    ) -> None:
        key = make_key(behaviour)

        await send_probe(client, served.base_url, key)

        assert len(served.fake.requests_of(key)) == times


class TestDeadline:
    async def test_slow_response_before_the_deadline_counts(self, client: AnthropicClient) -> None:
        async with serve() as slow:
            probing = asyncio.create_task(send_probe(client, slow.base_url, make_key("slow")))
            await slow.fake.arrived.wait()
            slow.fake.release.set()
            result = await probing

        assert result.reason is Reason.OK

    @pytest.mark.parametrize("behaviour", ["slow", "stall"])
    async def test_response_that_does_not_end_is_a_timeout(
        self, client: AnthropicClient, served: Served, behaviour: str
    ) -> None:
        result = await client.probe(
            ApiKey.parse(make_key(behaviour)),
            provider_endpoint(served.base_url),
            previously_valid=False,
            timeout_seconds=0.2,
        )

        assert result.reason is Reason.TIMEOUT


class TestSecrecy:
    async def test_echoed_key_is_neither_in_the_result_nor_in_the_log(
        self, client: AnthropicClient, served: Served, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        key = make_key("echo")

        result = await send_probe(client, served.base_url, key)

        logged = caplog.text + "".join(str(vars(record)) for record in caplog.records)
        secret = key.removeprefix("sk-ant-api03-").removesuffix("-echo")
        pieces = {secret[start : start + 8] for start in range(len(secret) - 7)}
        assert result.reason is Reason.INVALID_KEY
        assert result.provider_request_id is None
        assert not any(piece in repr(result) + logged for piece in pieces)

    async def test_key_that_is_not_a_valid_header_is_not_logged(
        self, client: AnthropicClient, served: Served, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        canary = "canary-Zk3v9Qx1"

        for text in (f"{canary}\n", f"{canary}\u2011"):
            result = await client.probe(
                ApiKey(text), provider_endpoint(served.base_url), previously_valid=False
            )
            assert result.status is ValidationStatus.INDETERMINATE

        assert canary not in caplog.text

    async def test_request_id_of_the_provider_is_kept(self, client: AnthropicClient, served: Served) -> None:
        result = await send_probe(client, served.base_url, make_key("forbidden"))

        assert (result.provider_request_id or "").startswith("req_")


class TestUnreachableReason:
    async def test_any_response_counts_as_reachable(self, client: AnthropicClient, served: Served) -> None:
        assert await client.unreachable_reason(served.base_url) is None
        assert served.fake.journal[-1].credential_header is None

    async def test_returns_the_reason(self, client: AnthropicClient) -> None:
        with refusing_port() as port:
            assert await client.unreachable_reason(f"http://127.0.0.1:{port}") is Reason.UNREACHABLE
