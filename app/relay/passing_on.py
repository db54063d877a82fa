"""Passes the body of a provider's response on. Neither one fast provider nor many streams together hold up other requests."""

from typing import Final

from app.core.event_loop import IterationBudget
from app.relay.client import Client
from app.relay.transport import ProviderResponse
from app.relay.usage_meter import UsageMeter

# A read may bring thousands of events, if the provider makes them tiny. Metering 8 KiB takes half a millisecond.
_METERED_AT_ONCE: Final = 8192


async def pass_on(
    response: ProviderResponse, client: Client, meter: UsageMeter, budget: IterationBudget
) -> None:
    """Pass on and meter the whole body, one write for each read.

    Args:
        response: its body is read.
        client: gets it.
        meter: follows it.
        budget: all responses of this instance share it, because they may be ready at the same time.

    Raises:
        TransportError, SlowClient
    """
    while chunk := await response.read():
        await _meter(chunk, meter, budget)
        await client.write(chunk)


async def _meter(chunk: bytes, meter: UsageMeter, budget: IterationBudget) -> None:
    for start in range(0, len(chunk), _METERED_AT_ONCE):
        try:
            await budget.wait()
        finally:
            # Also if the call is interrupted, because it received this. The rest of a long read is not metered then: all
            # calls may be interrupted together.
            meter.feed(chunk[start : start + _METERED_AT_ONCE])
