"""Every way in which a call can end: what happens upstream, and what the ledger says. Afterwards nothing is held."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from tests.support.polling import resolved, until
from tests.support.relay.relay_service import RelayUser, WithSettings, error_of, request
from tests.support.relay.scripted_provider import (
    USAGE,
    Exchange,
    error,
    event,
    events,
    message,
    reply,
    stream,
)
from tests.support.relay.stuck_client import StuckClient


@pytest.fixture
async def limited(user: RelayUser) -> AsyncIterator[RelayUser]:
    """A user with a limit. After the test, the user and the instance hold no slot, no memory and no reservation."""
    limit = await user.create_limit("100")
    yield user
    relay = user.relay
    await until(lambda: resolved(relay.services.capacity.open_requests), lambda open_: open_ == 0)
    await relay.services.settler.settled()
    assert relay.services.capacity.bodies.held_bytes == 0
    assert len(relay.services.open_calls) == 0
    assert (await user.limit(limit["id"]))["reserved"]["amount"] in {"0.00", "0.000000", "0"}


def kind_of(found: dict[str, Any]) -> tuple[str, str, int, int]:
    return (
        found["outcome"],
        found["usage_source"],
        found["uncached_input_tokens"],
        found["output_tokens"],
    )


class TestProviderEnds:
    @pytest.mark.parametrize(
        ("status", "body"),
        [
            (400, error("invalid_request_error", "bad")),
            (402, error("billing_error", "pay")),
            (404, error("not_found_error", "model: x")),
            (429, error("rate_limit_error", "slow down")),
            (500, error("api_error", "oops")),
            (529, error("overloaded_error", "Overloaded")),
        ],
    )
    async def test_an_error_passes_unchanged_and_costs_nothing(
        self, limited: RelayUser, status: int, body: dict[str, Any]
    ) -> None:
        async def refuse(exchange: Exchange) -> None:
            await exchange.respond(
                status, body, {"retry-after": "7", "anthropic-ratelimit-requests-limit": "5", "x-secret": "1"}
            )

        response = await limited.send(headers=limited.provider.script(f"error-{status}", refuse))

        assert (response.status_code, response.json()) == (status, body)
        assert response.headers["retry-after"] == "7"
        assert response.headers["anthropic-ratelimit-requests-limit"] == "5"
        assert response.headers["byok-error-source"] == "provider"
        assert "x-secret" not in response.headers
        assert kind_of(await limited.only_event()) == ("failed", "reported", 0, 0)

    async def test_a_reset_before_the_head_is_502_and_estimated_as_nothing(self, limited: RelayUser) -> None:
        async def reset(exchange: Exchange) -> None:
            exchange.cut()

        response = await limited.send(headers=limited.provider.script("reset", reset))

        assert error_of(response) == (502, "api_error", "provider_unreachable")
        assert response.headers["byok-error-source"] == "relay"
        assert kind_of(await limited.only_event()) == ("failed", "estimated", 0, 0)

    async def test_a_stream_that_is_cut_ends_with_an_error_event(self, limited: RelayUser) -> None:
        async def cut(exchange: Exchange) -> None:
            await stream(exchange, events("a" * 40, is_complete=False), is_ended=False)
            exchange.cut()

        async with limited.stream(headers=limited.provider.script("cut", cut)) as response:
            body = b"".join([chunk async for chunk in response.aiter_raw()])

        assert body.startswith(b"".join(events("a" * 40, is_complete=False)))
        last = body.removeprefix(b"".join(events("a" * 40, is_complete=False)))
        assert last.startswith(b"event: error\ndata: ")
        assert json.loads(last.partition(b"data: ")[2])["error"]["type"] == "api_error"
        assert kind_of(await limited.only_event()) == ("failed", "estimated", USAGE["input_tokens"], 10)

    async def test_a_cut_after_the_message_delta_is_reported(self, limited: RelayUser) -> None:
        async def cut(exchange: Exchange) -> None:
            await stream(exchange, events("a" * 40)[:-1])

        async with limited.stream(headers=limited.provider.script("cut-late", cut)) as response:
            body = b"".join([chunk async for chunk in response.aiter_raw()])

        assert body.count(b"event: error") == 1
        assert kind_of(await limited.only_event()) == ("failed", "reported", 12, USAGE["output_tokens"])

    async def test_an_error_event_passes_and_fails_the_call(self, limited: RelayUser) -> None:
        sent = [
            *events("a" * 40, is_complete=False),
            event("error", error={"type": "overloaded_error", "message": "Overloaded"}),
        ]

        async def fail(exchange: Exchange) -> None:
            await stream(exchange, sent)

        async with limited.stream(headers=limited.provider.script("error-event", fail)) as response:
            body = b"".join([chunk async for chunk in response.aiter_raw()])

        assert body == b"".join(sent)
        assert kind_of(await limited.only_event()) == ("failed", "estimated", 12, 10)

    async def test_a_redirect_is_502(self, limited: RelayUser) -> None:
        async def redirect(exchange: Exchange) -> None:
            await exchange.respond(307, b"", {"location": "https://elsewhere.example/"})

        response = await limited.send(headers=limited.provider.script("redirect", redirect))

        assert error_of(response)[:2] == (502, "api_error")
        assert (await limited.only_event())["outcome"] == "failed"

    async def test_a_body_that_is_encoded_in_spite_of_identity_is_502(self, limited: RelayUser) -> None:
        async def encode(exchange: Exchange) -> None:
            await exchange.respond(200, message(), {"content-encoding": "gzip"})

        response = await limited.send(headers=limited.provider.script("gzip", encode))

        assert error_of(response)[:2] == (502, "api_error")
        assert (await limited.only_event())["usage_source"] == "estimated"

    async def test_a_page_instead_of_a_message_passes_and_costs_nothing(self, limited: RelayUser) -> None:
        async def page(exchange: Exchange) -> None:
            await exchange.respond(200, b"<html>hello</html>", {"content-type": "text/html"})

        response = await limited.send(headers=limited.provider.script("html", page))

        assert response.text == "<html>hello</html>"
        assert kind_of(await limited.only_event()) == ("failed", "estimated", 0, 0)

    async def test_a_json_body_that_is_cut_closes_the_connection(self, limited: RelayUser) -> None:
        async def cut(exchange: Exchange) -> None:
            await exchange.head(200, {"content-type": "application/json"}, length=1000)
            await exchange.raw(b'{"type":"message"')
            exchange.cut()

        with pytest.raises(httpx.RemoteProtocolError):
            await limited.send(headers=limited.provider.script("cut-json", cut))

        found = await limited.only_event()
        assert (found["outcome"], found["usage_source"]) == ("failed", "estimated")
        assert found["uncached_input_tokens"] > 0


class TestClientLeaves:
    async def test_while_it_waits_for_the_head(self, limited: RelayUser) -> None:
        async def wait(exchange: Exchange) -> None:
            await exchange.until_hung_up()

        sending = asyncio.create_task(limited.send(headers=limited.provider.script("no-head", wait)))
        exchange = await limited.provider.nth("no-head")
        sending.cancel()

        async with asyncio.timeout(5):
            await exchange.hung_up.wait()
        await until(lambda: resolved(limited.relay.services.capacity.open_requests), lambda it: it == 0)
        found = await limited.only_event()
        assert (found["outcome"], found["usage_source"]) == ("aborted", "estimated")
        assert found["uncached_input_tokens"] == len(json.dumps(request())) // 3
        assert found["output_tokens"] == 0

    async def test_in_the_middle_of_a_stream(self, limited: RelayUser) -> None:
        async def hold(exchange: Exchange) -> None:
            await stream(exchange, events("a" * 40, is_complete=False), is_ended=False)
            await exchange.until_hung_up()

        async with limited.stream(headers=limited.provider.script("hold", hold)) as response:
            received = b""
            async for chunk in response.aiter_raw():
                received += chunk
                if b"aaaa" in received:
                    break
        exchange = await limited.provider.nth("hold")

        async with asyncio.timeout(5):
            await exchange.hung_up.wait()
        await until(lambda: resolved(limited.relay.services.capacity.open_requests), lambda it: it == 0)
        assert kind_of(await limited.only_event()) == ("aborted", "estimated", 12, 10)

    async def test_after_the_message_delta_it_is_reported(self, limited: RelayUser) -> None:
        async def hold(exchange: Exchange) -> None:
            await stream(exchange, events("a" * 40)[:-1], is_ended=False)
            await exchange.until_hung_up()

        async with limited.stream(headers=limited.provider.script("hold-late", hold)) as response:
            received = b""
            async for chunk in response.aiter_raw():
                received += chunk
                if b"message_delta" in received:
                    break
        await until(lambda: resolved(limited.relay.services.capacity.open_requests), lambda it: it == 0)
        assert kind_of(await limited.only_event()) == ("aborted", "reported", 12, USAGE["output_tokens"])


class TestNothingWasSent:
    async def test_a_provider_that_cannot_be_reached_costs_nothing(
        self, limited: RelayUser, with_settings: WithSettings
    ) -> None:
        async with with_settings(limited, base_url="http://127.0.0.1:9") as unreachable:
            response = await unreachable.send()

            assert error_of(response) == (502, "api_error", "provider_unreachable")
            assert await unreachable.events() == []


class TestTimeBounds:
    async def test_a_silent_provider_is_504(self, limited: RelayUser, with_settings: WithSettings) -> None:
        async def wait(exchange: Exchange) -> None:
            await exchange.until_hung_up()

        async with with_settings(limited, idle_timeout=timedelta(seconds=0.3)) as impatient:
            response = await impatient.send(headers=limited.provider.script("silent", wait))

            assert error_of(response) == (504, "timeout_error", "provider_timeout")
            await (await limited.provider.nth("silent")).hung_up.wait()
            found = await impatient.only_event()
            assert (found["outcome"], found["usage_source"]) == ("failed", "estimated")

    async def test_a_provider_that_falls_silent_in_a_stream(
        self, limited: RelayUser, with_settings: WithSettings
    ) -> None:
        async def stall(exchange: Exchange) -> None:
            await stream(exchange, events("a" * 40, is_complete=False), is_ended=False)
            await exchange.until_hung_up()

        async with with_settings(limited, idle_timeout=timedelta(seconds=0.3)) as impatient:
            async with impatient.stream(headers=limited.provider.script("stall", stall)) as response:
                body = b"".join([chunk async for chunk in response.aiter_raw()])

            assert b"stream_timeout" in body.rpartition(b"event: error")[2]
            assert kind_of(await impatient.only_event()) == ("failed", "estimated", 12, 10)

    async def test_a_call_that_takes_too_long_is_ended(
        self, limited: RelayUser, with_settings: WithSettings
    ) -> None:
        async def go_on(exchange: Exchange) -> None:
            await stream(exchange, events("a" * 40, is_complete=False), is_ended=False)
            await exchange.until_hung_up()

        async with with_settings(limited, total_timeout=timedelta(seconds=0.5)) as impatient:
            async with impatient.stream(headers=limited.provider.script("endless", go_on)) as response:
                body = b"".join([chunk async for chunk in response.aiter_raw()])

            assert b"event: error" in body
            assert kind_of(await impatient.only_event()) == ("aborted", "estimated", 12, 10)

    async def test_a_client_that_takes_nothing_is_cut_off(
        self, limited: RelayUser, with_settings: WithSettings
    ) -> None:
        async def flood(exchange: Exchange) -> None:
            texts = ["x" * 60_000] * 400
            await stream(exchange, events(*texts, is_complete=False), is_ended=False)
            await exchange.until_hung_up()

        async with with_settings(limited, unread_timeout=timedelta(seconds=0.5)) as impatient:
            async with impatient.stream(headers=limited.provider.script("flood", flood)) as response:
                assert response.status_code == 200  # and then it reads nothing
                relay = impatient.relay.services
                await until(lambda: resolved(relay.capacity.open_requests), lambda it: it == 0)
            found = await impatient.only_event()
            assert (found["outcome"], found["usage_source"]) == ("aborted", "estimated")


class TestDrain:
    async def test_ends_streams_with_an_error_and_stores_them(
        self, limited: RelayUser, with_settings: WithSettings
    ) -> None:
        async def hold(exchange: Exchange) -> None:
            await stream(exchange, events("a" * 40, is_complete=False), is_ended=False)
            await exchange.until_hung_up()

        async def read(stopping: RelayUser) -> bytes:
            async with stopping.stream(headers=limited.provider.script("drain", hold)) as response:
                return b"".join([chunk async for chunk in response.aiter_raw()])

        async with with_settings(limited, drain=timedelta(seconds=0.2)) as stopping:
            reading = [asyncio.create_task(read(stopping)) for _ in range(20)]
            await limited.provider.nth("drain", 20)
            draining = asyncio.create_task(stopping.relay.drain())
            await until(lambda: resolved(stopping.relay.services.capacity.is_draining), bool)
            refused = await stopping.send()
            ready = await stopping.admin.http.get("/readyz")
            bodies = await asyncio.gather(*reading)
            await draining

            assert error_of(refused) == (503, "api_error", "shutting_down")
            assert (ready.status_code, ready.json()["problems"]) == (503, {"process": "shutting_down"})
            assert all(b"overloaded_error" in body.rpartition(b"event: error")[2] for body in bodies)
            assert {kind_of(it) for it in await stopping.events()} == {("aborted", "estimated", 12, 10)}
            assert len(await stopping.events()) == 20

    async def test_completes_what_the_client_got_and_not_what_it_has_not_read(
        self, limited: RelayUser, with_settings: WithSettings
    ) -> None:
        torn, rest = events("a", is_complete=False)[-1][:-20], events("a", is_complete=False)[-1][-20:]

        async def tear(exchange: Exchange) -> None:
            await exchange.head(200, {"content-type": "text/event-stream"})
            await exchange.chunk(torn)
            await until(lambda: resolved(bytes(client.got)), lambda got: got == torn)
            await exchange.chunk(rest)
            await exchange.until_hung_up()

        async with with_settings(limited, drain=timedelta(seconds=0)) as stopping:
            client = StuckClient(stopping, limited.provider.script("unread", tear), unread=rest)
            serving = asyncio.create_task(client.request())
            async with asyncio.timeout(10):
                await client.is_stuck.wait()
                await stopping.relay.drain()
                await serving

            assert client.got.startswith(torn + b"\nevent: error\ndata: {")
            assert kind_of(await stopping.only_event())[0] == "aborted"

    async def test_closes_the_connection_of_a_client_that_does_not_read_the_end(
        self, limited: RelayUser, with_settings: WithSettings
    ) -> None:
        async def hold(exchange: Exchange) -> None:
            await stream(exchange, events("a", is_complete=False), is_ended=False)
            await exchange.until_hung_up()

        async with with_settings(
            limited, drain=timedelta(seconds=0), unread_timeout=timedelta(seconds=0.2)
        ) as stopping:
            client = StuckClient(stopping, limited.provider.script("unread-end", hold))
            serving = asyncio.create_task(client.request())
            await until(lambda: resolved(bytes(client.got)), lambda got: b"content_block_delta" in got)
            async with asyncio.timeout(10):
                await stopping.relay.drain()
                await serving

            assert client.is_stuck.is_set()
            assert b"event: error" not in client.got

    @pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
    async def test_refuses_a_request_whose_body_is_still_uploaded(
        self, limited: RelayUser, with_settings: WithSettings, path: str
    ) -> None:
        drained = asyncio.Event()
        body = json.dumps(request()).encode()

        async def upload() -> AsyncIterator[bytes]:
            yield body[:10]
            await drained.wait()
            yield body[10:]

        async with with_settings(limited) as stopping:
            headers = stopping.headers(limited.provider.script("uploading", reply))
            url = f"/relay/anthropic{path}"
            sending = asyncio.create_task(
                stopping.admin.http.post(url, content=upload(), headers=headers, timeout=30)
            )
            relay = stopping.relay.services
            await until(lambda: resolved(relay.capacity.bodies.held_bytes), lambda held: held == 10)
            await stopping.relay.drain()
            drained.set()

            assert error_of(await sending) == (503, "api_error", "shutting_down")
            assert await stopping.events() == []
            assert relay.capacity.bodies.held_bytes == 0
            assert not [
                it for it in limited.provider.exchanges if it.headers.get("x-stainless-script") == "uploading"
            ]

    async def test_lets_calls_end_in_time(self, limited: RelayUser, with_settings: WithSettings) -> None:
        release = asyncio.Event()

        async def wait(exchange: Exchange) -> None:
            await release.wait()
            await exchange.respond(200, message())

        async with with_settings(limited) as stopping:
            sending = asyncio.create_task(stopping.send(headers=limited.provider.script("last", wait)))
            await limited.provider.nth("last")
            draining = asyncio.create_task(stopping.relay.drain())
            release.set()
            await draining

            assert (await sending).status_code == 200
            assert (await stopping.only_event())["outcome"] == "succeeded"
