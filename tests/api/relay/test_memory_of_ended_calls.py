"""The objects of a call are freed at its end, without a garbage collection, which would block the event loop."""

import gc
from collections.abc import Iterator
from typing import Any

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
    RequestResponseCycle,
)

# The server keeps the last request of an open connection.
CLOSE = {"connection": "close"}


@pytest.fixture
def _without_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def _alive() -> list[Any]:
    return [one for one in gc.get_objects() if isinstance(one, OF_A_CALL)]


async def _until_gone(before: list[Any]) -> None:
    """The server's task ends shortly after its client has the response.

    The objects of earlier tests are held meanwhile, so that no new one has the id of one of them.
    """
    known = {id(one) for one in before}
    await until(lambda: resolved(sum(id(one) not in known for one in _alive())), lambda new: new == 0)


@pytest.mark.usefixtures("_without_collection")
class TestEndedCall:
    async def test_message_leaves_nothing(self, user: RelayUser) -> None:
        before = _alive()

        assert (await user.send(headers=CLOSE)).status_code == 200
        assert (await user.send(b"{}", headers=CLOSE)).status_code == 400
        await user.only_event()

        await _until_gone(before)

    async def test_stream_leaves_nothing(self, user: RelayUser) -> None:
        before = _alive()

        async with user.stream(headers=CLOSE) as response:
            await response.aread()
        await user.only_event()

        await _until_gone(before)

    async def test_request_without_costs_leaves_nothing(self, user: RelayUser) -> None:
        before = _alive()

        body = {name: value for name, value in request().items() if name != "max_tokens"}
        assert (await user.send(body, path="/v1/messages/count_tokens", headers=CLOSE)).status_code == 200

        await _until_gone(before)
