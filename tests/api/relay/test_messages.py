"""A message through the relay: the response byte for byte, one usage event, and nothing reserved."""

from tests.support.relay.relay_service import RelayUser
from tests.support.relay.scripted_provider import MODEL, USAGE, events, message


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
