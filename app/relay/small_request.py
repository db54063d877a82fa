"""Requests without costs: `count_tokens` and the lists of models. They have no reservation and no event."""

import asyncio
from typing import Final

from app.auth.principal import Caller
from app.core.errors import ConcurrentChange
from app.relay.call import CallServices
from app.relay.client import Client, Interruption, SlowClient
from app.relay.errors import DRAINED, PROVIDER_TIMEOUT, RelayError
from app.relay.forwarding import Incoming, failure_of
from app.relay.headers import to_client
from app.relay.passing_on import pass_on
from app.relay.records import Destination, EndedBy
from app.relay.transport import ProviderResponse, TransportError
from app.relay.usage_meter import JsonMeter
from app.secret_store.port import SecretMissing
from app.usage_mode.modes import UsageMode

_ATTEMPTS: Final = 4
_SHOWN: Final = {EndedBy.DRAIN: DRAINED, EndedBy.TOO_LONG: PROVIDER_TIMEOUT}


class SmallRequest:
    """One request. The organization must be ready, and the whole exchange has one bound of time.

    Args:
        services: the relay's.
        client: gets the response.
        caller: whose request it is.
        incoming: the request.
    """

    def __init__(self, services: CallServices, client: Client, caller: Caller, incoming: Incoming) -> None:
        self.interruption = Interruption()
        self.mode: UsageMode | None = None
        self.is_from_provider = False
        self._services = services
        self._client = client
        self._caller = caller
        self._incoming = incoming
        self._response: ProviderResponse | None = None

    async def run(self) -> None:
        """Relay the request.

        Raises:
            RelayError: it ended before the head of its response was sent.
            NotReady, ConcurrentChange, DatabaseUnavailable, SecretStoreUnavailable
        """
        too_long = asyncio.get_running_loop().call_later(
            self._services.limits.small_seconds, self.interruption.interrupt, EndedBy.TOO_LONG
        )
        try:
            async with self._client.watched(lambda: self.interruption.interrupt(EndedBy.CLIENT)):
                with self.interruption:
                    await self._relay()
        except TransportError as failure:
            _, error = failure_of(failure, has_head=self._response is not None)
            self._show(error)
        except SlowClient:
            self._client.abort()
        finally:
            too_long.cancel()
            self._incoming.budget.release()
            if self._response is not None:
                self._response.close()
        kind = None if self.interruption.by is None else _SHOWN.get(self.interruption.by)
        if kind is not None:
            self._show(RelayError(kind))

    async def _relay(self) -> None:
        for _ in range(_ATTEMPTS):
            self.mode, destination = await self._services.destinations.for_small_request(
                self._caller.organization_id
            )
            try:
                request = await self._services.forwarder.prepare(destination, self._incoming)
            except SecretMissing:
                continue
            await self._services.send_budget.wait()
            self._response = await self._services.forwarder.open(request, self._incoming)
            await self._pass_on(self._response, destination)
            return
        raise ConcurrentChange

    async def _pass_on(self, response: ProviderResponse, destination: Destination) -> None:
        meter = JsonMeter()
        self.is_from_provider = True
        await self._client.start(
            response.status,
            to_client(
                response.headers,
                status=response.status,
                is_stream=False,
                is_managed=self.mode is UsageMode.MANAGED,
            ),
        )
        await pass_on(response, self._client, meter, self._services.read_budget)
        self._services.key_reports.report(destination, response.status, meter.result())
        await self._client.finish()

    def _show(self, error: RelayError) -> None:
        """Raise the error if it can be the response; else close the connection, so that the client notices."""
        if not self._client.has_head:
            raise error
        self._client.abort()
