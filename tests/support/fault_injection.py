"""Injects a fault at the n-th step of a run: a crash, an outage, or work by another process.

A step is a call that leaves the process. The process can die before it, so that nothing was done, and after it, so that
the response is lost. A test wraps the ports, runs the use case and increases n until the run ends before the fault.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import islice
from typing import Any, TypeVar, cast
from uuid import UUID
from zlib import crc32

from app.core.clock import now
from app.core.errors import DatabaseUnavailable, SecretStoreUnavailable
from app.core.keys.api_key import ApiKey
from app.core.keys.signing_secret import SigningSecret
from app.credentials.validation_results import Reason, ValidationResult, ValidationStatus
from app.database.engine import Database
from app.database.sessions import Session
from app.database.statements import FixedStatement
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.provider_url.endpoint import ProviderEndpoint
from app.secret_store.port import SecretRef, SecretStore

Case = TypeVar("Case")

# BYOK_TEST_CRASHES=all tests every step, and every operation with a real Vault.
ALL_CRASHES = os.environ.get("BYOK_TEST_CRASHES") == "all"

# Which steps a sampled run tests: another part of them every day, so that a month of runs tests them all.
# The run prints it; set BYOK_TEST_SEED to repeat a run.
SEED = int(os.environ.get("BYOK_TEST_SEED") or now().toordinal())


def sampled_steps(end: int, *, stride: int, start: int = 1) -> range:
    """The steps to inject a fault at: every `stride`-th from one that the seed chooses, or all with BYOK_TEST_CRASHES=all."""
    if ALL_CRASHES:
        return range(start, end)
    return range(start + SEED % stride, end, stride)


def sampled(names: Iterable[str]) -> list[str]:
    """One of several equal cases, which the seed chooses; all of them with BYOK_TEST_CRASHES=all."""
    found = list(names)
    return found if ALL_CRASHES else [found[SEED % len(found)]]


def sampled_cases(cases: Iterable[Case], *, stride: int, of: str) -> Iterator[Case]:
    """Every `stride`-th case from one that the seed and the name `of` choose, or all with BYOK_TEST_CRASHES=all.

    At least one, and `stride` consecutive days test all of them. There must be a case.
    """
    if ALL_CRASHES:
        return iter(cases)
    found = list(cases)
    return islice(found, (SEED + crc32(of.encode())) % min(stride, len(found)), None, stride)


def crash_rounds(of: str) -> list[int]:
    """The rounds of a test that kills the service: one of three, which the seed and the name `of` choose.

    All three with BYOK_TEST_CRASHES=all, and as many as BYOK_TEST_CRASH_ROUNDS says. Every second one kills PostgreSQL too.
    """
    given = os.environ.get("BYOK_TEST_CRASH_ROUNDS")
    if given is not None:
        return list(range(1, int(given) + 1))
    return list(sampled_cases(range(1, 4), stride=3, of=of))


class Crash(BaseException):
    """Simulates the death of the process. Not an Exception, so that no handler catches it."""


class Dependency(StrEnum):
    DATABASE = "database"
    STORE = "store"
    PROVIDER = "provider"


@dataclass(frozen=True, slots=True)
class Step:
    dependency: Dependency
    holds_locks: bool = False


Fault = Callable[[Step], Awaitable[None]]


class FaultSchedule:
    """Counts the steps of a run and injects `fault` at step `at`; with `lasts`, at all later steps too."""

    def __init__(self, at: int, fault: Fault, *, lasts: bool = False) -> None:
        self.steps = 0
        self._at = at
        self._fault = fault
        self._lasts = lasts

    @property
    def never_fired(self) -> bool:
        """Whether the run ended before the fault."""
        return self.steps < self._at

    async def reach(self, step: Step) -> None:
        self.steps += 1
        if self.steps == self._at or (self._lasts and self.steps > self._at):
            await self._fault(step)


def crash(at: int) -> FaultSchedule:
    async def raise_crash(_step: Step) -> None:
        raise Crash

    return FaultSchedule(at, raise_crash, lasts=True)


def outage(at: int, *, lasts: bool) -> FaultSchedule:
    """Makes the dependency of that step unavailable, for one call or until the run ends."""
    down: set[Dependency] = set()

    async def refuse(step: Step) -> None:
        if not down:
            down.add(step.dependency)
        if step.dependency in down and step.dependency is Dependency.DATABASE:
            raise DatabaseUnavailable
        if step.dependency in down and step.dependency is Dependency.STORE:
            raise SecretStoreUnavailable

    return FaultSchedule(at, refuse, lasts=lasts)


class _FaultInjectingUnit(UnitOfWork):
    def __init__(self, session: Session, organization_id: str, faults: FaultSchedule) -> None:
        super().__init__(session, organization_id)
        self._faults = faults

    async def commit(self, *, last_statement: FixedStatement | None = None) -> None:
        await self._faults.reach(Step(Dependency.DATABASE, holds_locks=True))
        await super().commit(last_statement=last_statement)
        await self._faults.reach(Step(Dependency.DATABASE))


class FaultInjectingUnitsOfWork(UnitsOfWork):
    """Units of work with a step before each transaction, and one before and after each commit."""

    def __init__(self, database: Database, faults: FaultSchedule) -> None:
        super().__init__(database)
        self._faults = faults

    @asynccontextmanager
    async def writing(self, organization_id: str) -> AsyncIterator[UnitOfWork]:
        await self._faults.reach(Step(Dependency.DATABASE))
        async with self._database.session(organization_id) as session:
            yield _FaultInjectingUnit(session, organization_id, self._faults)

    @asynccontextmanager
    async def reading(self, organization_id: str) -> AsyncIterator[UnitOfWork]:
        await self._faults.reach(Step(Dependency.DATABASE))
        async with self._database.session(organization_id, read_only=True) as session:
            yield UnitOfWork(session, organization_id)


class _FaultInjectingStore:
    def __init__(self, store: SecretStore, faults: FaultSchedule) -> None:
        self._store = store
        self._faults = faults

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._store, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            await self._faults.reach(Step(Dependency.STORE))
            result = await method(*arguments, **named)
            await self._faults.reach(Step(Dependency.STORE))
            return result

        return call


def fault_injecting_store(store: SecretStore, faults: FaultSchedule) -> SecretStore:
    """Wrap a store so that there is a step before and after each call."""
    return cast("SecretStore", _FaultInjectingStore(store, faults))


class DelayedWriteStore:
    """Delays writes until `deliver` is called. The callers of `write` get `error`."""

    def __init__(self, store: SecretStore, error: type[BaseException]) -> None:
        self._store = store
        self._error = error
        self._delayed: list[Callable[[], Awaitable[int]]] = []
        self.fingerprint = store.fingerprint
        self.current_version = store.current_version
        self.tombstone = store.tombstone
        self.intent_at = store.intent_at
        self.read = store.read
        self.read_signing_secret = store.read_signing_secret
        self.destroy = store.destroy
        self.destroy_all = store.destroy_all
        self.ping = store.ping

    async def write(
        self, ref: SecretRef, secret: ApiKey | SigningSecret, *, intent_id: UUID, expected_version: int
    ) -> int:
        self._delayed.append(
            partial(self._store.write, ref, secret, intent_id=intent_id, expected_version=expected_version)
        )
        raise self._error

    async def deliver(self) -> None:
        for write in self._delayed:
            await write()


class ApprovingProber:
    """A provider that accepts every key. Each probe is a step."""

    def __init__(self, faults: FaultSchedule | None = None) -> None:
        self._faults = faults

    async def probe(
        self,
        key: ApiKey,  # noqa: ARG002  # the port's signature; every key is accepted
        endpoint: ProviderEndpoint,  # noqa: ARG002  # the same
        *,
        previously_valid: bool,  # noqa: ARG002  # the same
        timeout_seconds: float | None = None,  # noqa: ARG002  # the same
    ) -> ValidationResult:
        if self._faults is not None:
            await self._faults.reach(Step(Dependency.PROVIDER))
        return ValidationResult(status=ValidationStatus.VALID, reason=Reason.OK, checked_at=now())


class OverloadedProber(ApprovingProber):
    """A provider that is overloaded, so that every result is indeterminate."""

    async def probe(self, *_args: object, **_options: object) -> ValidationResult:
        return ValidationResult(
            status=ValidationStatus.INDETERMINATE, reason=Reason.OVERLOADED, checked_at=now()
        )
