"""A message through the relay: the response byte for byte, one usage event, and nothing reserved."""

from typing import Any

import pytest

from tests.support.relay.relay_service import RelayUser
from tests.support.relay.scripted_provider import MODEL, USAGE, Exchange, event, events, message


class TestMessage:
    async def test_passes_the_response_on_and_records_one_event(self, user: RelayUser) -> None:
        response = await user.send()

        assert response.status_code == 200, response.text
        assert response.json() == message()
        found = await user.only_event()
        assert found["outcome"] == "succeeded"
        assert found["usage_source"] == "reported"
        assert found["usage_mode"] == "byo"
        assert found["model"] == MODEL
        assert found["uncached_input_tokens"] == USAGE["input_tokens"]
        assert found["output_tokens"] == USAGE["output_tokens"]
        assert found["event_id"] == found["reservation_id"]
        assert found["provider_request_id"] == "req_provider"

    async def test_streams_byte_for_byte(self, user: RelayUser) -> None:
        async with user.stream() as response:
            body = b"".join([chunk async for chunk in response.aiter_raw()])

        assert body == b"".join(events("Hel", "lo"))
        found = await user.only_event()
        assert (found["outcome"], found["usage_source"]) == ("succeeded", "reported")
        assert found["output_tokens"] == USAGE["output_tokens"]


class TestRefusal:
    """Free before any output, unless the provider bills its category."""

    @pytest.mark.parametrize(("category", "is_free"), [("cyber", True), ("bio", False), (None, True)])
    @pytest.mark.parametrize("is_stream", [False, True])
    async def test_costs_what_the_provider_bills(
        self, user: RelayUser, category: str | None, is_free: bool, is_stream: bool
    ) -> None:
        declined: dict[str, Any] = {
            "stop_reason": "refusal",
            "stop_details": {"type": "refusal", "category": category},
        }
        usage = USAGE | {"output_tokens": 0}

        async def respond(exchange: Exchange) -> None:
            if not is_stream:
                await exchange.respond(200, message(usage=usage) | declined | {"content": []})
                return
            await exchange.head(200, {"content-type": "text/event-stream"})
            for it in events(usage=usage)[:1]:
                await exchange.chunk(it)
            await exchange.chunk(event("message_delta", delta=declined, usage={"output_tokens": 0}))
            await exchange.chunk(event("message_stop"))
            await exchange.end()

        headers = user.provider.script(f"refusal-{category}-{is_stream}", respond)
        if is_stream:
            async with user.stream(headers=headers) as response:
                await response.aread()
        else:
            response = await user.send(headers=headers)

        assert response.status_code == 200
        found = await user.only_event()
        assert found["flags"] == ["refusal"]
        assert (float(found["estimated_cost"]["amount"]) == 0) is is_free
