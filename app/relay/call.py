"""One call of `POST /v1/messages`: from its admission to its end."""

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Final

from app.auth.principal import Caller
from app.core.clock import new_id
from app.core.errors import ConcurrentChange, NotReady
from app.core.event_loop import IterationBudget
from app.observability.metrics import RELAY_SECONDS, RELAY_TOKENS
from app.observability.tracing import client_span
from app.relay.admission import Admission
from app.relay.client import Client, Interruption, SlowClient
from app.relay.destinations import Destinations
from app.relay.ending.ends import Progress, end_of, usage_so_far
from app.relay.ending.open_calls import OpenCalls
from app.relay.ending.settling import Settler
from app.relay.errors import DRAINED, MANAGED_UNAVAILABLE, STREAM_INTERRUPTED, STREAM_TIMEOUT, RelayError
from app.relay.forwarding import Forwarder, Incoming, failure_of
from app.relay.headers import is_event_stream, request_id_of, to_client
from app.relay.intake.capacity import Capacity
from app.relay.key_reports import KeyReports
from app.relay.passing_on import pass_on
from app.relay.records import AdmittedCall, CallRequest, Destination, EndedBy, RelayLimits
from app.relay.stream_end import stream_end
from app.relay.transport import ProviderRequest, ProviderResponse, TransportError
from app.relay.usage_meter import JsonMeter, SseMeter, UsageMeter
from app.secret_store.port import SecretMissing
from app.usage_mode.modes import UsageMode

_ATTEMPTS: Final = 4
_FIRST_ERROR_STATUS: Final = 400
_TOKEN_CLASSES: Final = ("input", "cache_creation_input", "cache_read_input", "output")
# The error that an interrupted call shows to its client, if it is still there.
_SHOWN: Final = {EndedBy.DRAIN: DRAINED, EndedBy.TOO_LONG: STREAM_TIMEOUT}


@dataclass(frozen=True, slots=True, kw_only=True)
class CallServices:
    """What every call needs.

    `begin_budget` is for requests that arrive, most of which may be refused; `send_budget` for sending those on that were
    admitted; `read_budget` for what their responses bring. A flood of requests must hold up neither of the others.
    """

    admission: Admission
    destinations: Destinations
    forwarder: Forwarder
    settler: Settler
    open_calls: OpenCalls
    capacity: Capacity
    key_reports: KeyReports
    limits: RelayLimits
    begin_budget: IterationBudget
    send_budget: IterationBudget
    read_budget: IterationBudget


class Call:
    """Owns the reservation, the memory of the body and the connection to the provider. Ends exactly once.

    Every end leads through `_end`, which hands an immutable record of the end to the settler. From outside, a call
    ends by its `interruption`: the client left, the instance shuts down, or the call takes too long.

    Args:
        services: the relay's.
        client: gets the response.
        caller: whose call it is.
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
        self._call: AdmittedCall | None = None
        self._destination: Destination | None = None
        self._request: ProviderRequest | None = None
        self._response: ProviderResponse | None = None
        self._meter: UsageMeter | None = None
        self._by = EndedBy.FAULT
        self._is_detached = False

    async def run(self, request: CallRequest) -> None:
        """Relay the call. A key that was destroyed since the admission is looked up again.

        Raises:
            RelayError: the call ended before the head of its response was sent.
            NotReady, SpendLimitExceeded, ConcurrentChange, DatabaseUnavailable, SecretStoreUnavailable
        """
        too_long = asyncio.get_running_loop().call_later(
            self._services.limits.total_seconds, self.interruption.interrupt, EndedBy.TOO_LONG
        )
        try:
            async with self._client.watched(self._on_client_left):
                for _ in range(_ATTEMPTS):
                    await self._admit(replace(request, id=new_id()))
                    if await self._relay():
                        return
                raise ConcurrentChange
        finally:
            too_long.cancel()

    async def _admit(self, request: CallRequest) -> None:
        """Not interruptible: a reservation that is made has an owner."""
        started = time.perf_counter()
        with client_span("relay.admit"):
            call, self._destination = await self._services.admission.admit(
                self._caller.organization_id, request
            )
        RELAY_SECONDS.labels("admit").observe(time.perf_counter() - started)
        self._call, self.mode, self._by = call, call.mode, EndedBy.FAULT
        self._services.open_calls.add(request.id, call.organization_id, self._usage_so_far)

    async def _relay(self) -> bool:
        """Relay the admitted call. Returns False if it must be admitted again, because its key is gone."""
        error: RelayError | None = None
        try:
            with self.interruption:
                error = await self._exchange()
            if self.interruption.by is not None:
                self._by = self.interruption.by
                kind = _SHOWN.get(self._by)
                error = None if kind is None else RelayError(kind)
        except SecretMissing:
            self._by = EndedBy.REFUSED
            return False
        except SlowClient:
            self._by = EndedBy.SLOW_CLIENT
            self._client.abort()
        finally:
            self._end()
        if error is not None:
            await self._show(error)
        return True

    async def _exchange(self) -> RelayError | None:
        """Send the request, and pass the response on. Returns the error to show, if it failed."""
        try:
            destination = self._destination or await self._operators()
            self._destination = destination
            # Twice: calls that share an admission go on together, and those that share a read of the key do so again.
            await self._services.send_budget.wait()
            self._request = await self._services.forwarder.prepare(destination, self._incoming)
            await self._services.send_budget.wait()
            self._response = await self._services.forwarder.open(self._request, self._incoming)
            return await self._pass_on(self._response)
        except TransportError as failure:
            self._by, error = failure_of(failure, has_head=self._response is not None)
            return error

    async def _operators(self) -> Destination:
        try:
            return await self._services.destinations.operators()
        except NotReady:
            # The operator's blockers are not shown to the organization.
            self._by = EndedBy.REFUSED
            raise RelayError(MANAGED_UNAVAILABLE) from None

    async def _pass_on(self, response: ProviderResponse) -> RelayError | None:
        """Pass on head and body, byte for byte, one write for each read."""
        is_stream = response.status < _FIRST_ERROR_STATUS and is_event_stream(response.headers)
        meter = self._meter = SseMeter() if is_stream else JsonMeter()
        self.is_from_provider = True
        await self._client.start(
            response.status,
            to_client(
                response.headers,
                status=response.status,
                is_stream=is_stream,
                is_managed=self.mode is UsageMode.MANAGED,
            ),
        )
        await pass_on(response, self._client, meter, self._services.read_budget)
        metered = meter.result()
        if is_stream and not metered.is_complete and not metered.has_error:
            self._by = EndedBy.PROVIDER_CUT
            return RelayError(STREAM_INTERRUPTED)
        has_failed = response.status >= _FIRST_ERROR_STATUS or metered.has_error
        self._by = EndedBy.PROVIDER_ERROR if has_failed else EndedBy.COMPLETE
        await self._client.finish()
        return None

    def _on_client_left(self) -> None:
        """Close the upstream connection at once. What the operator pays for anyway is read to its end, to be metered."""
        if self._may_detach() and self._services.capacity.detach():
            self._is_detached = True
        else:
            self.interruption.interrupt(EndedBy.CLIENT)

    def _may_detach(self) -> bool:
        """Whether the call is open and the operator pays for its JSON response. Only `_end` gives the place back."""
        was_sent = self._request is not None and self._request.was_sent
        is_managed = self.mode is UsageMode.MANAGED
        return self._call is not None and was_sent and is_managed and not self._call.request.is_stream

    def _end(self) -> None:
        """End the call, once: give everything back, and hand its end to the settler."""
        call, self._call = self._call, None
        if call is None:
            return
        if self._response is not None:
            self._response.close()
        self._incoming.budget.release()
        if self._is_detached:
            self._by = EndedBy.CLIENT
            self._services.capacity.end_detached()
        progress = self._progress()
        end = end_of(call, progress, self._by)
        if end is None:
            self._services.settler.release(self._caller, call.request.id)
        else:
            self._services.settler.settle(end)
            _count_tokens(call, progress)
        if self._destination is not None and progress.metered is not None:
            self._services.key_reports.report(self._destination, progress.status, progress.metered)

    def _progress(self) -> Progress:
        response = self._response
        is_anthropic = self._destination is not None and self._destination.endpoint.base_url is None
        return Progress(
            was_sent=self._request is not None and self._request.was_sent,
            status=None if response is None else response.status,
            metered=None if self._meter is None else self._meter.result(),
            # A gateway could leak the key piece by piece in its ids.
            provider_request_id=request_id_of(response.headers) if response and is_anthropic else None,
        )

    def _usage_so_far(self) -> bytes | None:
        if self._call is None or self._meter is None:
            return None
        return usage_so_far(self._call, self._meter.result())

    async def _show(self, error: RelayError) -> None:
        """Show an error to the client: as a response, as the last event of its stream, or by closing the connection.

        Raises:
            RelayError: the response has not begun, so the error can be the response.
        """
        if not self._client.has_head:
            raise error
        if not isinstance(self._meter, SseMeter):
            self._client.abort()
            return
        try:
            await self._client.finish(stream_end(self._client.last_bytes, error, self._caller.request_id))
        except SlowClient:
            self._client.abort()


def _count_tokens(call: AdmittedCall, progress: Progress) -> None:
    usage = (None if progress.metered is None else progress.metered.usage) or {}
    for kind in _TOKEN_CLASSES:
        number = usage.get(f"{kind}_tokens")
        if isinstance(number, int) and number > 0:
            RELAY_TOKENS.labels(call.mode, kind).inc(number)
