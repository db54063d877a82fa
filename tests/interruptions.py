"""Lets something happen at the n-th step of a run: a crash, an outage, or somebody else's work.

A step is a call that leaves the process, and so a place where it can die: before it, with nothing
done, and after it, with the answer lost. Wrap the ports, run, and count up n until the run gets
through untouched.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, cast
from uuid import UUID

from app.core.api_key import ApiKey
from app.core.clock import now
from app.core.errors import DatabaseUnavailable, SecretStoreUnavailable
from app.core.signing_secret import SigningSecret
from app.credentials.verdicts import Reason, ValidationStatus, Verdict
from app.database.engine import Database, Session
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.provider_url.endpoint import ProviderEndpoint
from app.secret_store.port import SecretRef, SecretStore

# BYOK_TEST_CRASHES=all: no step is left out, and a real Vault is crashed at in each deed.
ALL_CRASHES = os.environ.get("BYOK_TEST_CRASHES") == "all"


def steps(end: int, *, stride: int, start: int = 1) -> range:
    """Which steps something happens at: every so many, unless none is to be left out."""
    return range(start, end, 1 if ALL_CRASHES else stride)


class Crash(BaseException):
    """The process died. Nothing after it runs, which is why no `except Exception` sees it."""


class Dependency(StrEnum):
    DATABASE = "database"
    STORE = "store"
    PROVIDER = "provider"


@dataclass(frozen=True, slots=True)
class Step:
    dependency: Dependency
    holds_locks: bool = False


Happening = Callable[[Step], Awaitable[None]]


class Course:
    """Counts the steps of a run. `happening` comes at step `at`; if it lasts, at all later ones too."""

    def __init__(self, at: int, happening: Happening, *, lasts: bool = False) -> None:
        self.steps = 0
        self._at = at
        self._happening = happening
        self._lasts = lasts

    @property
    def got_through(self) -> bool:
        """Whether the run ended before anything happened."""
        return self.steps < self._at

    async def reach(self, step: Step) -> None:
        self.steps += 1
        if self.steps == self._at or (self._lasts and self.steps > self._at):
            await self._happening(step)


def crash(at: int) -> Course:
    async def die(_step: Step) -> None:
        raise Crash

    return Course(at, die, lasts=True)


def outage(at: int, *, lasts: bool) -> Course:
    """The dependency of that step is down: for this one call, or until the run ends."""
    down: set[Dependency] = set()

    async def refuse(step: Step) -> None:
        if not down:
            down.add(step.dependency)
        if step.dependency in down and step.dependency is Dependency.DATABASE:
            raise DatabaseUnavailable
        if step.dependency in down and step.dependency is Dependency.STORE:
            raise SecretStoreUnavailable

    return Course(at, refuse, lasts=lasts)


class _Unit(UnitOfWork):
    def __init__(self, session: Session, organization_id: str, course: Course) -> None:
        super().__init__(session, organization_id)
        self._course = course

    async def commit(self) -> None:
        await self._course.reach(Step(Dependency.DATABASE, holds_locks=True))
        await super().commit()
        await self._course.reach(Step(Dependency.DATABASE))


class InterruptedUnits(UnitsOfWork):
    """Units of work with a step before each transaction, and before and after each commit."""

    def __init__(self, database: Database, course: Course) -> None:
        super().__init__(database)
        self._course = course

    @asynccontextmanager
    async def writing(self, organization_id: str) -> AsyncIterator[UnitOfWork]:
        await self._course.reach(Step(Dependency.DATABASE))
        async with self._database.session(organization_id) as session:
            yield _Unit(session, organization_id, self._course)

    @asynccontextmanager
    async def reading(self, organization_id: str) -> AsyncIterator[UnitOfWork]:
        await self._course.reach(Step(Dependency.DATABASE))
        async with self._database.session(organization_id, read_only=True) as session:
            yield UnitOfWork(session, organization_id)


class _InterruptedStore:
    def __init__(self, store: SecretStore, course: Course) -> None:
        self._store = store
        self._course = course

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._store, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            await self._course.reach(Step(Dependency.STORE))
            answer = await method(*arguments, **named)
            await self._course.reach(Step(Dependency.STORE))
            return answer

        return call


def interrupted_store(store: SecretStore, course: Course) -> SecretStore:
    """The store with a step before and after each call."""
    return cast("SecretStore", _InterruptedStore(store, course))


class HoldingStore:
    """Takes writes and holds them back until told to deliver them. Their senders get `error`."""

    def __init__(self, store: SecretStore, error: type[BaseException]) -> None:
        self._store = store
        self._error = error
        self._held: list[Callable[[], Awaitable[int]]] = []
        self.fingerprint = store.fingerprint
        self.current_version = store.current_version
        self.tombstone = store.tombstone
        self.intent_at = store.intent_at
        self.read = store.read
        self.read_signing_secret = store.read_signing_secret
        self.destroy = store.destroy
        self.purge = store.purge
        self.ping = store.ping

    async def write(
        self, ref: SecretRef, secret: ApiKey | SigningSecret, *, intent_id: UUID, expected_version: int
    ) -> int:
        self._held.append(
            partial(self._store.write, ref, secret, intent_id=intent_id, expected_version=expected_version)
        )
        raise self._error

    async def deliver(self) -> None:
        for write in self._held:
            await write()


class ApprovingProber:
    """A provider that accepts every key, with a step while it thinks."""

    def __init__(self, course: Course | None = None) -> None:
        self._course = course

    async def probe(
        self,
        key: ApiKey,  # noqa: ARG002  # the port's signature; it accepts whatever comes
        destination: ProviderEndpoint,  # noqa: ARG002  # likewise
        *,
        previously_valid: bool,  # noqa: ARG002  # likewise
        timeout_seconds: float | None = None,  # noqa: ARG002  # likewise
    ) -> Verdict:
        if self._course is not None:
            await self._course.reach(Step(Dependency.PROVIDER))
        return Verdict(status=ValidationStatus.VALID, reason=Reason.OK, checked_at=now())


class OverloadedProber(ApprovingProber):
    """A provider that says nothing of any key."""

    async def probe(self, *_args: object, **_options: object) -> Verdict:
        return Verdict(status=ValidationStatus.INDETERMINATE, reason=Reason.OVERLOADED, checked_at=now())
