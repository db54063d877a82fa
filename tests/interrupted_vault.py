"""Vault with a step before and after each of its HTTP calls, and writes that arrive late.

The store's own log-ins and sessions serve them all, so that a run costs no more calls than it makes.
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
from app.secret_store.vault.client import Question, VaultServer
from app.secret_store.vault.responses import Answer, VaultReason
from tests.direct_vault import WiredVault
from tests.interruptions import Course, Dependency, Step

LOST = Answer(0, failure=VaultReason.TIMEOUT)


class Interference(Protocol):
    """What comes between the client and Vault."""

    async def ask(self, server: VaultServer, client: hvac.Client, question: Question) -> Answer: ...


_INTERFERENCE: ContextVar[Interference | None] = ContextVar("interference", default=None)


class Interruptible(VaultServer):
    """A way to Vault on which a store's calls can be interfered with, and nobody else's are."""

    def __init__(self, server: VaultServer) -> None:
        self._server = server

    def client(self, *, token: str, namespace: str | None) -> hvac.Client:
        return self._server.client(token=token, namespace=namespace)

    async def ask(self, client: hvac.Client, question: Question) -> Answer:
        interference = _INTERFERENCE.get()
        if interference is None:
            return await self._server.ask(client, question)
        # Whatever is done in between is not itself interfered with.
        before = _INTERFERENCE.set(None)
        try:
            return await interference.ask(self._server, client, question)
        finally:
            _INTERFERENCE.reset(before)

    def close(self) -> None:
        self._server.close()


class Steps:
    """A step before and after each HTTP call. In an outage a request gets lost at the one, an answer at the other."""

    def __init__(self, course: Course) -> None:
        self._course = course

    async def ask(self, server: VaultServer, client: hvac.Client, question: Question) -> Answer:
        try:
            await self._course.reach(Step(Dependency.STORE))
            answer = await server.ask(client, question)
            await self._course.reach(Step(Dependency.STORE))
        except SecretStoreUnavailable:
            return LOST
        return answer


class LateWrites:
    """Holds back writes of keys, and nothing else, until told to deliver them. Their senders hear nothing."""

    def __init__(self, error: type[BaseException] | None = None) -> None:
        self._error = error
        self._held: list[Callable[[], Awaitable[Answer]]] = []

    async def ask(self, server: VaultServer, client: hvac.Client, question: Question) -> Answer:
        if not _writes_a_key(question):
            return await server.ask(client, question)
        self._held.append(lambda: server.ask(client, question))
        if self._error is not None:
            raise self._error
        return LOST

    async def at_step(self, step: Step) -> None:
        """Deliver at a step of somebody else's run; a second time there is nothing left to deliver."""
        if not step.holds_locks:
            await self.deliver()

    async def deliver(self) -> list[Answer]:
        """What Vault said to each."""
        held, self._held = self._held, []
        return [await send() for send in held]


class _InterferedStore:
    def __init__(self, store: SecretStore, interference: Interference) -> None:
        self._store = store
        self._interference = interference

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._store, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            before = _INTERFERENCE.set(self._interference)
            try:
                return await method(*arguments, **named)
            finally:
                _INTERFERENCE.reset(before)

        return call


def interfered(store: SecretStore, interference: Interference) -> SecretStore:
    """The same store, whose calls are interfered with. It must reach Vault by an `Interruptible`."""
    return cast("SecretStore", _InterferedStore(store, interference))


def interrupted_vault(store: SecretStore, course: Course) -> SecretStore:
    """The store with a step before and after each HTTP call."""
    return interfered(store, Steps(course))


def _writes_a_key(question: Question) -> bool:
    ear = _Ear()
    question(WiredVault(ear).client(token="", namespace=None))
    return ear.heard_a_key


class _Ear:
    """Hears what would be sent."""

    heard_a_key = False

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
        self.heard_a_key = "/data/orgs/" in target and body is not None and "ct" in json.loads(body)["data"]
        return urllib3.HTTPResponse(BytesIO(b"{}"), status=200, preload_content=False)
