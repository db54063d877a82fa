"""Fault injection for the Vault store: a step before and after each HTTP request, and writes that arrive late.

All intercepted stores share the original store's sessions, so that they do not log in again.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from io import BytesIO
from typing import Any, Protocol, cast

import hvac
import urllib3

from app.core.errors import SecretStoreUnavailable
from app.secret_store.port import SecretStore
from app.secret_store.vault.client import VaultRequest, VaultServer
from app.secret_store.vault.responses import VaultReason, VaultResponse
from tests.support.fault_injection import Dependency, FaultSchedule, Step
from tests.support.vault.in_process import InProcessVaultServer

LOST_RESPONSE = VaultResponse(0, failure=VaultReason.TIMEOUT)


class Interceptor(Protocol):
    """Sends requests to Vault in place of the client."""

    async def send(
        self, server: VaultServer, client: hvac.Client, request: VaultRequest
    ) -> VaultResponse: ...


_INTERCEPTOR: ContextVar[Interceptor | None] = ContextVar("interference", default=None)


class InterceptableVaultServer(VaultServer):
    """A Vault server whose requests can be intercepted for one store without affecting others."""

    def __init__(self, server: VaultServer) -> None:
        self._server = server

    def client(self, *, token: str, namespace: str | None) -> hvac.Client:
        return self._server.client(token=token, namespace=namespace)

    async def send(self, client: hvac.Client, request: VaultRequest) -> VaultResponse:
        interceptor = _INTERCEPTOR.get()
        if interceptor is None:
            return await self._server.send(client, request)
        # Requests that the interceptor itself causes are not intercepted.
        previous = _INTERCEPTOR.set(None)
        try:
            return await interceptor.send(self._server, client, request)
        finally:
            _INTERCEPTOR.reset(previous)

    def close(self) -> None:
        self._server.close()


class StepInterceptor:
    """A step before and after each HTTP request. An outage loses the request at the first, the response at the second."""

    def __init__(self, faults: FaultSchedule) -> None:
        self._faults = faults

    async def send(self, server: VaultServer, client: hvac.Client, request: VaultRequest) -> VaultResponse:
        try:
            await self._faults.reach(Step(Dependency.STORE))
            response = await server.send(client, request)
            await self._faults.reach(Step(Dependency.STORE))
        except SecretStoreUnavailable:
            return LOST_RESPONSE
        return response


class LateWrites:
    """Delays writes of keys until `deliver` is called. Their senders get no response, or an error."""

    def __init__(self, error: type[BaseException] | None = None) -> None:
        self._error = error
        self._delayed: list[Callable[[], Awaitable[VaultResponse]]] = []

    async def send(self, server: VaultServer, client: hvac.Client, request: VaultRequest) -> VaultResponse:
        if not _is_key_write(request):
            return await server.send(client, request)
        self._delayed.append(lambda: server.send(client, request))
        if self._error is not None:
            raise self._error
        return LOST_RESPONSE

    async def at_step(self, step: Step) -> None:
        """Deliver the delayed writes at a step of another run. Later calls have no effect."""
        if not step.holds_locks:
            await self.deliver()

    async def deliver(self) -> list[VaultResponse]:
        """Send the delayed writes and return Vault's responses."""
        delayed, self._delayed = self._delayed, []
        return [await send() for send in delayed]


class _InterceptedStore:
    def __init__(self, store: SecretStore, interceptor: Interceptor) -> None:
        self._store = store
        self._interference = interceptor

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._store, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            previous = _INTERCEPTOR.set(self._interference)
            try:
                return await method(*arguments, **named)
            finally:
                _INTERCEPTOR.reset(previous)

        return call


def intercepted(store: SecretStore, interceptor: Interceptor) -> SecretStore:
    """The same store with intercepted requests. It must be connected by an `InterceptableVaultServer`."""
    return cast("SecretStore", _InterceptedStore(store, interceptor))


def interrupted_vault(store: SecretStore, faults: FaultSchedule) -> SecretStore:
    """The store with a step before and after each HTTP request."""
    return intercepted(store, StepInterceptor(faults))


def _is_key_write(request: VaultRequest) -> bool:
    recorder = _RequestRecorder()
    request(InProcessVaultServer(recorder).client(token="", namespace=None))
    return recorder.writes_a_key


class _RequestRecorder:
    """A connection pool that sends nothing and records whether the request writes a key."""

    writes_a_key = False

    def request(
        self,
        _method: str,
        target: str,
        /,
        *,
        body: bytes | None,
        headers: Mapping[str, str],  # noqa: ARG002  # the wire's signature
        **_options: Any,
    ) -> urllib3.HTTPResponse:
        self.writes_a_key = "/data/orgs/" in target and body is not None and "ct" in json.loads(body)["data"]
        return urllib3.HTTPResponse(BytesIO(b"{}"), status=200, preload_content=False)
