"""The objects of a call are freed at its end, without a garbage collection, which would block the event loop."""

import gc
from collections.abc import Iterator

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.relay.call import Call
from app.relay.client import Client
from app.relay.small_request import SmallRequest
from app.relay.transport import ProviderRequest, ProviderResponse
from app.relay.usage_meter import JsonMeter, SseMeter
from tests.support.polling import resolved, until
from tests.support.relay.relay_service import RelayUser, request

OF_A_CALL = (
    Call,
    SmallRequest,
    Client,
    ProviderRequest,
    ProviderResponse,
    JsonMeter,
    SseMeter,
)

# The server keeps the last request of an open connection.
CLOSE = {"connection": "close"}


@pytest.fixture
def _without_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    gc.freeze()  # `get_objects` leaves out what is there already: a million objects
    yield
    gc.enable()


async def _until_gone() -> None:
    """The server's task ends shortly after its client has the response."""
    await until(lambda: resolved(sum(map(_is_of_a_call, gc.get_objects()))), lambda left: left == 0)


def _is_of_a_call(one: object) -> bool:
    if isinstance(one, RequestResponseCycle):
        return str(one.scope["path"]).startswith("/relay/")  # the ledger is read through the same server
    return isinstance(one, OF_A_CALL)


@pytest.mark.usefixtures("_without_collection")
class TestEndedCall:
    async def test_message_leaves_nothing(self, user: RelayUser) -> None:
        assert (await user.send(headers=CLOSE)).status_code == 200
        assert (await user.send(b"{}", headers=CLOSE)).status_code == 400
        await user.only_event()

        await _until_gone()

    async def test_stream_leaves_nothing(self, user: RelayUser) -> None:
        async with user.stream(headers=CLOSE) as response:
            await response.aread()
        await user.only_event()

        await _until_gone()

    async def test_request_without_costs_leaves_nothing(self, user: RelayUser) -> None:
        body = {name: value for name, value in request().items() if name != "max_tokens"}
        assert (await user.send(body, path="/v1/messages/count_tokens", headers=CLOSE)).status_code == 200

        await _until_gone()
