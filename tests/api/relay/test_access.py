"""Who may use the relay, and what is refused before anything is reserved. Every refusal has Anthropic's shape."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.auth.signing_keys import EmbeddedIssuer
from tests.support.polling import until
from tests.support.provider.fake_anthropic import make_key
from tests.support.relay.relay_service import RelayUser, WithSettings, error_of, request
from tests.support.relay.scripted_provider import MODEL, Exchange, event, message
from tests.support.tenant import MakeToken


@pytest.fixture
async def unsent(user: RelayUser) -> AsyncIterator[RelayUser]:
    """A user whose test sends nothing to the provider, and records nothing."""
    before = len(user.provider.messages())
    yield user
    assert len(user.provider.messages()) == before
    assert await user.events() == []


async def post(user: RelayUser, headers: Any, path: str = "/v1/messages", **options: Any) -> httpx.Response:
    return await user.admin.http.post(
        f"/relay/anthropic{path}", headers=headers, **{"json": request()} | options
    )


class TestToken:
    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"x-api-key": "nonsense"},
            {"authorization": "Basic abc"},
            {"x-api-key": "{token}", "authorization": "Bearer other"},
        ],
    )
    async def test_is_required(self, unsent: RelayUser, headers: dict[str, str]) -> None:
        sent = {name: value.replace("{token}", unsent.token) for name, value in headers.items()}

        response = await post(unsent, sent)

        assert error_of(response) == (401, "authentication_error", "unauthenticated")
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert response.headers["x-should-retry"] == "false"
        assert response.json()["request_id"] == response.headers["request-id"]

    async def test_may_not_be_sent_twice(self, unsent: RelayUser) -> None:
        response = await post(unsent, [("x-api-key", unsent.token), ("x-api-key", unsent.token)])

        assert error_of(response)[0] == 401

    async def test_is_accepted_in_both_headers(self, user: RelayUser) -> None:
        both = {"x-api-key": user.token, "authorization": f"Bearer {user.token}"}

        assert (await post(user, both)).status_code == 200
        assert (await post(user, {"authorization": f"Bearer {user.token}"})).status_code == 200
        assert {it.headers.get("authorization") for it in user.provider.messages()} == {None}
        assert all(user.token not in it.headers.values() for it in user.provider.messages())

    async def test_needs_the_scope(self, unsent: RelayUser, make_token: MakeToken) -> None:
        for role in ("billing-admin", "service"):
            token = make_token(role, unsent.organization)
            response = await post(unsent, {"x-api-key": token})
            assert error_of(response) == (403, "permission_error", "insufficient_scope")

    async def test_is_bound_to_one_organization(self, unsent: RelayUser, make_token: MakeToken) -> None:
        token = make_token("relay", scopes=["relay:messages"])

        response = await post(unsent, {"x-api-key": token})

        assert error_of(response) == (403, "permission_error", "organization_bound_token_required")


class TestRestrictions:
    def restricted(self, user: RelayUser, issuer: EmbeddedIssuer, claim: Any) -> RelayUser:
        token = issuer.issue(
            subject="agent",
            organization_id=user.organization,
            scopes=["relay:messages"],
            ttl=timedelta(hours=1),
            relay=claim,
        )
        return replace(user, token=token)

    async def test_models_allow_their_snapshots_and_no_others(
        self, user: RelayUser, issuer: EmbeddedIssuer
    ) -> None:
        agent = self.restricted(user, issuer, {"models": [MODEL]})

        assert (await agent.send(request(model=f"{MODEL}-20260101"))).status_code == 200
        refused = [
            await agent.send(request(model="claude-opus-5-5")),
            await agent.send(request(model="claude-opus-5-5"), path="/v1/messages/count_tokens"),
        ]
        assert {error_of(it) for it in refused} == {(403, "permission_error", "model_not_allowed")}

    async def test_the_endpoint_is_fixed(self, user: RelayUser, issuer: EmbeddedIssuer) -> None:
        agent = self.restricted(user, issuer, {"endpoint_id": "laptop-7"})

        assert (await agent.send()).status_code == 200
        refused = await agent.send(headers={"x-byok-endpoint": "laptop-8"})

        assert error_of(refused) == (403, "permission_error", "endpoint_not_allowed")
        assert (await agent.only_event())["endpoint_id"] == "laptop-7"

    @pytest.mark.parametrize("claim", [{"models": "all"}, {"model": [MODEL]}, {"endpoint_id": 7}])
    async def test_what_is_not_understood_allows_nothing(
        self, unsent: RelayUser, issuer: EmbeddedIssuer, claim: Any
    ) -> None:
        agent = self.restricted(unsent, issuer, claim)

        assert error_of(await agent.send()) == (403, "permission_error", "model_not_allowed")


class TestPaths:
    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("POST", "/v1/complete", 404),
            ("POST", "/v1/messages/batches", 404),
            ("GET", "/v1/organizations/me", 404),
            ("GET", "/v1/models/a%2Fb", 404),
            ("GET", "/v1/models/%2E%2E", 404),
            ("GET", "/v1/models/", 404),
            ("POST", "/v1/messages/", 404),
            ("GET", "/v1/messages", 405),
            ("POST", "/v1/models", 405),
            ("OPTIONS", "/v1/messages", 405),
        ],
    )
    async def test_only_those_of_messages_and_models_are_served(
        self, unsent: RelayUser, method: str, path: str, status: int
    ) -> None:
        response = await unsent.admin.http.request(
            method, f"/relay/anthropic{path}", headers={"x-api-key": unsent.token}
        )

        assert error_of(response)[0] == status

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("GET", "/v1/messages", "POST"),
            ("PUT", "/v1/messages/count_tokens", "POST"),
            ("POST", "/v1/models", "GET"),
            ("DELETE", "/v1/models/claude-haiku-5-5", "GET"),
        ],
    )
    async def test_another_method_gets_the_one_that_is_served(
        self, unsent: RelayUser, method: str, path: str, allowed: str
    ) -> None:
        response = await unsent.admin.http.request(
            method, f"/relay/anthropic{path}", headers={"x-api-key": unsent.token}
        )

        assert error_of(response)[0] == 405
        assert response.headers.get("Allow") == allowed

    async def test_no_browser_may_call(self, unsent: RelayUser) -> None:
        response = await post(unsent, {"origin": "https://app.example", "x-api-key": "x"})

        assert not [name for name in response.headers if name.startswith("access-control")]


class TestBody:
    @pytest.mark.parametrize(
        ("body", "text"),
        [
            (b"{", "not valid JSON"),
            (b"[]", "object"),
            (b'{"max_tokens":1}', "model: Field required"),
            (b'{"model":"m"}', "max_tokens: Field required"),
            (b'{"model":"m","max_tokens":-1}', "max_tokens"),
            (b'{"model":"sk-ant-api03-abcdefgh","max_tokens":1}', "model"),
            (b'{"model":"a\\u0000b","max_tokens":1}', "model"),
        ],
    )
    async def test_needs_what_is_reserved_for(self, unsent: RelayUser, body: bytes, text: str) -> None:
        response = await unsent.send(body)

        assert error_of(response)[:2] == (400, "invalid_request_error")
        assert text in response.json()["error"]["message"]

    async def test_may_have_32_mib_and_no_more(self, user: RelayUser) -> None:
        largest = 32 * 1024 * 1024
        start = b'{"model":"%b","max_tokens":1,"messages":[],"x":"' % MODEL.encode()
        body = start + b"x" * (largest - len(start) - 2) + b'"}'

        assert (await user.send(body)).status_code == 200
        assert user.provider.messages()[-1].body == body
        before = len(user.provider.messages())
        response = await user.send(body + b" ")
        assert error_of(response)[:2] == (413, "request_too_large")
        assert len(user.provider.messages()) == before

    @pytest.mark.parametrize("headers", [{"content-type": "text/plain"}, {"content-encoding": "gzip"}])
    async def test_is_json_without_an_encoding(self, unsent: RelayUser, headers: dict[str, str]) -> None:
        assert error_of(await unsent.send(headers=headers))[0] == 415

    async def test_that_stalls_is_408(self, unsent: RelayUser, with_settings: WithSettings) -> None:
        async with with_settings(unsent, body_timeout=timedelta(seconds=0.2)) as impatient:
            url = impatient.admin.http.base_url
            reader, writer = await asyncio.open_connection(url.host, url.port)
            head = {**impatient.headers(), "host": url.host, "content-length": "100"}
            fields = "".join(f"{name}: {value}\r\n" for name, value in head.items())
            writer.write(f"POST /relay/anthropic/v1/messages HTTP/1.1\r\n{fields}\r\n{{".encode())
            async with asyncio.timeout(5):
                received = await reader.readuntil(b"\r\n\r\n")
            writer.close()

            assert received.startswith(b"HTTP/1.1 408 ")

    async def test_that_finds_no_memory_is_429(self, user: RelayUser, with_settings: WithSettings) -> None:
        release = asyncio.Event()

        async def hold(exchange: Exchange) -> None:
            await release.wait()
            await exchange.respond(200, message())

        body = b'{"model":"%b","max_tokens":1,"x":"%b"}' % (MODEL.encode(), b"x" * 30 * 1024 * 1024)
        async with with_settings(user, body_memory=32) as small:
            holding = asyncio.create_task(small.send(body, headers=user.provider.script("memory", hold)))
            await user.provider.nth("memory")
            refused = await small.send(body)
            release.set()

            assert error_of(refused)[:2] == (429, "rate_limit_error")
            assert (await holding).status_code == 200
            assert (await small.send(body)).status_code == 200

    async def test_of_one_organization_leaves_memory_for_others(
        self, user: RelayUser, with_settings: WithSettings, make_relay_user: Callable[[], RelayUser]
    ) -> None:
        release = asyncio.Event()

        async def hold(exchange: Exchange) -> None:
            await release.wait()
            await exchange.respond(200, message())

        body = b'{"model":"%b","max_tokens":1,"x":"%b"}' % (MODEL.encode(), b"x" * 30 * 1024 * 1024)
        other = make_relay_user()
        await other.save_key()
        async with with_settings(user, body_memory=64) as greedy:
            other = replace(
                other, services=greedy.services, admin=replace(other.admin, http=greedy.admin.http)
            )
            holding = asyncio.create_task(greedy.send(body, headers=user.provider.script("share", hold)))
            await user.provider.nth("share")
            refused, accepted = await greedy.send(body), await other.send(body)
            release.set()

            assert error_of(refused)[:2] == (429, "rate_limit_error")
            assert accepted.status_code == 200
            assert (await holding).status_code == 200


class TestDimensions:
    async def test_are_in_the_event_and_not_sent_on(self, user: RelayUser) -> None:
        headers = {
            "x-byok-endpoint": "laptop-1",
            "x-byok-feature": "assistant",
            "x-byok-session": "s1",
            "x-byok-prompt": "p1",
        }

        await user.send(headers=headers)

        found = await user.only_event()
        assert [found[it] for it in ("endpoint_id", "feature", "session_id", "prompt_id")] == [
            *headers.values()
        ]
        assert not [name for name in user.provider.messages()[-1].headers if name.startswith("x-byok")]

    @pytest.mark.parametrize(("headers", "session"), [({}, "c1"), ({"x-byok-session": "s1"}, "s1")])
    async def test_the_session_of_claude_code_is_the_fallback(
        self, user: RelayUser, headers: dict[str, str], session: str
    ) -> None:
        await user.send(headers={"x-claude-code-session-id": "c1", **headers})

        assert (await user.only_event())["session_id"] == session
        assert "x-claude-code-session-id" not in user.provider.messages()[-1].headers

    @pytest.mark.parametrize("name", [b"x-byok-feature", b"x-claude-code-session-id"])
    @pytest.mark.parametrize("value", ["", "x" * 129, "sk-ant-api03-abcdefgh", "a\u200bb"])
    async def test_have_the_rules_of_the_ledger(self, unsent: RelayUser, name: bytes, value: str) -> None:
        response = await unsent.admin.http.post(
            "/relay/anthropic/v1/messages",
            json=request(),
            headers=[(b"x-api-key", unsent.token.encode()), (name, value.encode())],
        )

        assert error_of(response) == (400, "invalid_request_error", "dimension_invalid")


class TestSlots:
    async def test_an_organization_has_so_many_and_others_have_theirs(
        self,
        user: RelayUser,
        make_relay_user: Callable[[], RelayUser],
        with_settings: WithSettings,
    ) -> None:
        release = asyncio.Event()

        async def hold(exchange: Exchange) -> None:
            await release.wait()
            await exchange.respond(200, message())

        other = make_relay_user()
        await other.save_key()
        async with with_settings(user, slots_per_organization=2) as small:
            script = user.provider.script("slots", hold)
            holding = [asyncio.create_task(small.send(headers=script)) for _ in range(2)]
            await user.provider.nth("slots", 2)
            refused = await small.send()
            unaffected = await replace(other, admin=replace(other.admin, http=small.admin.http)).send()
            release.set()

            assert error_of(refused) == (429, "rate_limit_error", "relay_concurrency_exceeded")
            assert refused.headers["retry-after"] == "1"
            assert unaffected.status_code == 200
            assert [it.status_code for it in await asyncio.gather(*holding)] == [200, 200]
            assert (await small.send()).status_code == 200

    async def test_unread_endless_streams_hold_only_those_of_their_organization(
        self,
        user: RelayUser,
        make_relay_user: Callable[[], RelayUser],
        with_settings: WithSettings,
    ) -> None:
        async def never_end(exchange: Exchange) -> None:
            await exchange.head(200, {"content-type": "text/event-stream"})
            with suppress(ConnectionError):
                while True:
                    await exchange.chunk(event("ping") * 1000)

        other = make_relay_user()
        await other.save_key()
        async with with_settings(user, slots_per_organization=2) as small, AsyncExitStack() as unread:
            script = user.provider.script("endless", never_end)
            for _ in range(2):
                opened = await unread.enter_async_context(small.stream(headers=script))
                assert opened.status_code == 200
            refused = await small.send()
            unaffected = await replace(other, admin=replace(other.admin, http=small.admin.http)).send()

            assert error_of(refused) == (429, "rate_limit_error", "relay_concurrency_exceeded")
            assert unaffected.status_code == 200
            await unread.aclose()
            await until(small.send, lambda response: response.status_code == 200)


class TestHeaders:
    async def test_only_listed_ones_reach_the_provider(
        self, make_relay_user: Callable[[], RelayUser]
    ) -> None:
        user, key = make_relay_user(), make_key()
        await user.save_key(api_key=key, auth_style="bearer", workspace_id="wrkspc_ours")

        await user.send(
            headers={
                "anthropic-beta": "a,b",
                "anthropic-version": "2026-10-21",
                "anthropic-workspace-id": "wrkspc_theirs",
                "anthropic-dangerous-direct-browser-access": "true",
                "x-forwarded-for": "10.0.0.1",
                "cookie": "a=b",
                "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            }
        )

        sent = user.provider.messages()[-1].headers
        assert sent["authorization"] == f"Bearer {key}"
        assert sent["anthropic-workspace-id"] == "wrkspc_ours"
        assert (sent["anthropic-beta"], sent["anthropic-version"]) == ("a,b", "2026-10-21")
        assert sent["accept-encoding"] == "identity"
        assert sent.keys() <= {
            *("host", "content-length", "content-type", "accept", "user-agent", "accept-encoding"),
            *("anthropic-beta", "anthropic-version", "anthropic-workspace-id", "authorization"),
        }
