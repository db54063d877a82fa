"""What the real SDKs make of a stream that is cut at any byte and ended by the relay."""

import base64
from typing import TypeAlias

import pytest

from app.relay.errors import STREAM_INTERRUPTED, RelayError
from app.relay.stream_end import LAST_BYTES, stream_end
from tests.support.relay.sample_streams import crlf, event
from tests.support.relay.sdks.installed import Sdk

pytestmark = pytest.mark.slow

# By stream: the error that the SDK raises at its end, and the number of events before.
Ends: TypeAlias = dict[bytes, tuple[str | None, int]]

# Short, because every position of it is tried: a character of each length, and the least that the SDKs need around it.
STREAM = (
    event("message_start", message={"type": "message", "content": [], "usage": {"input_tokens": 1}})
    + event("content_block_delta", index=0, delta={"type": "text_delta", "text": "aé…🦜𐀀ࠀ龍"})
    + event("ping")
    + event("message_stop")
)
WITHOUT_STOP = STREAM.removesuffix(event("message_stop"))


def ended(cut: bytes) -> bytes:
    return cut + stream_end(cut[-LAST_BYTES:], RelayError(STREAM_INTERRUPTED), "req_1")


def events_in(stream: bytes) -> int:
    """The SDKs do not show pings."""
    return stream.count(b"event: ") - stream.count(b"event: ping")


def cuts_of(stream: bytes) -> list[bytes]:
    """The stream, cut at every position and ended by the relay."""
    return [ended(stream[:position]) for position in range(len(stream) + 1)]


@pytest.fixture(scope="module")
async def ends(sdk: Sdk) -> Ends:
    """One process reads all streams, because its start takes longer than to read them."""
    streams = list(
        dict.fromkeys(
            [*cuts_of(WITHOUT_STOP), *cuts_of(crlf(WITHOUT_STOP)), WITHOUT_STOP, STREAM, crlf(STREAM)]
        )
    )
    found = await sdk.run({"streams": [base64.b64encode(stream).decode() for stream in streams]})
    return {stream: (end, count) for stream, (end, count) in zip(streams, found, strict=True)}


@pytest.mark.parametrize("stream", [WITHOUT_STOP, crlf(WITHOUT_STOP)], ids=["lf", "crlf"])
async def test_every_cut_raises_an_error_of_the_sdk(ends: Ends, stream: bytes) -> None:
    found = [ends[cut] for cut in cuts_of(stream)]

    assert {end for end, _ in found} == {"APIStatusError"}
    counts = [count for _, count in found]
    assert counts == sorted(counts)  # a torn event is never dispatched
    assert counts[-1] == events_in(stream)


async def test_without_the_end_the_sdk_reports_success(ends: Ends) -> None:
    """The reason why the relay appends an error."""
    assert ends[WITHOUT_STOP] == (None, events_in(WITHOUT_STOP))


async def test_complete_stream_ends_without_an_error(ends: Ends) -> None:
    assert [ends[STREAM], ends[crlf(STREAM)]] == [(None, events_in(STREAM))] * 2
