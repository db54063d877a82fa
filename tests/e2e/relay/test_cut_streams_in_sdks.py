"""What the real SDKs make of a stream that is cut at any byte and ended by the relay."""

import base64

import pytest

from app.relay.errors import STREAM_INTERRUPTED, RelayError
from app.relay.stream_end import stream_end
from app.relay.usage_meter import SseMeter
from tests.support.relay.sample_streams import crlf, event
from tests.support.relay.sdks.installed import Sdk

pytestmark = pytest.mark.slow

# Short, because every position of it is tried: a character of each length, and the least that the SDKs need around it.
STREAM = (
    event("message_start", message={"type": "message", "content": [], "usage": {"input_tokens": 1}})
    + event("content_block_delta", index=0, delta={"type": "text_delta", "text": "aé…🦜𐀀ࠀ龍"})
    + event("ping")
    + event("message_stop")
)
WITHOUT_STOP = STREAM.removesuffix(event("message_stop"))


def ended(cut: bytes) -> bytes:
    meter = SseMeter()
    meter.feed(cut)
    return cut + stream_end(meter.last_bytes, RelayError(STREAM_INTERRUPTED), "req_1")


async def ends_of(sdk: Sdk, *streams: bytes) -> list[tuple[str | None, int]]:
    """How each stream ends in the SDK, and after how many events."""
    ends = await sdk.run({"streams": [base64.b64encode(stream).decode() for stream in streams]})
    return [(end, count) for end, count in ends]


def events_in(stream: bytes) -> int:
    """The SDKs do not show pings."""
    return stream.count(b"event: ") - stream.count(b"event: ping")


@pytest.mark.parametrize("stream", [WITHOUT_STOP, crlf(WITHOUT_STOP)], ids=["lf", "crlf"])
async def test_every_cut_raises_an_error_of_the_sdk(sdk: Sdk, stream: bytes) -> None:
    ends = await ends_of(sdk, *(ended(stream[:position]) for position in range(len(stream) + 1)))

    assert {end for end, _ in ends} == {"APIStatusError"}
    counts = [count for _, count in ends]
    assert counts == sorted(counts)  # a torn event is never dispatched
    assert counts[-1] == events_in(stream)


async def test_without_the_end_the_sdk_reports_success(sdk: Sdk) -> None:
    """The reason why the relay appends an error."""
    assert await ends_of(sdk, WITHOUT_STOP) == [(None, events_in(WITHOUT_STOP))]


async def test_complete_stream_ends_without_an_error(sdk: Sdk) -> None:
    assert await ends_of(sdk, STREAM, crlf(STREAM)) == [(None, events_in(STREAM))] * 2
