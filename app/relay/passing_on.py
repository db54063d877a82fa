"""Passes the body of a provider's response on, without letting one fast provider use the event loop for itself."""

from typing import Final

from app.core.time_slice import TimeSlice
from app.relay.client import Client
from app.relay.transport import ProviderResponse
from app.relay.usage_meter import UsageMeter

# A read may bring thousands of events, if the provider makes them tiny.
_METERED_AT_ONCE: Final = 8192


async def pass_on(response: ProviderResponse, client: Client, meter: UsageMeter) -> None:
    """Pass on and meter the whole body, one write for each read.

    Waiting for the provider or the client does not count as use of the event loop.

    Raises:
        TransportError, SlowClient
    """
    time_slice = TimeSlice()
    time_slice.suspend()
    while chunk := await response.read():
        time_slice.resume()
        if len(chunk) <= _METERED_AT_ONCE:  # nearly every read
            meter.feed(chunk)
        else:
            await _meter_in_pieces(chunk, meter, time_slice)
        time_slice.suspend()
        await client.write(chunk)
        time_slice.resume()
        await time_slice.pause_if_used()
        time_slice.suspend()


async def _meter_in_pieces(chunk: bytes, meter: UsageMeter, time_slice: TimeSlice) -> None:
    for start in range(0, len(chunk), _METERED_AT_ONCE):
        meter.feed(chunk[start : start + _METERED_AT_ONCE])
        await time_slice.pause_if_used()
