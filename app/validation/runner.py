"""Runs one check of a key: unseal, ask the provider, put the verdict on record.

No connection or transaction is held while the provider thinks. Checks of one key version
coalesce: whoever comes second waits for the first one's verdict, also across instances.
"""

import asyncio
import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

import structlog

from app.audit import service as audit
from app.audit.events import AuditAction
from app.auth.principal import Caller
from app.core.api_key import ApiKey
from app.core.clock import new_id, now
from app.core.errors import ByokError, DatabaseUnavailable, SecretStoreUnavailable
from app.credentials.activation import Activation
from app.credentials.repository import CredentialRepository
from app.credentials.validator import check_of
from app.credentials.verdicts import (
    PENDING,
    Reason,
    Trigger,
    ValidationRecord,
    ValidationStatus,
    Verdict,
    status_of,
)
from app.credentials.version_repository import SealedVersion, VersionRepository
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.observability.metrics import PROVIDER_SECONDS, VALIDATIONS
from app.observability.tracing import client_span
from app.provider_url.endpoint import ProviderEndpoint
from app.secret_store.port import SecretCorrupt, SecretMissing, SecretRef, SecretStore
from app.secret_store.read_retry import read_with_retry
from app.validation.repository import ValidationRepository

# A check is bounded by the provider time-out (15 s); past this nobody is working on it any more.
DEADLINE = timedelta(seconds=20)
POLL_SECONDS = 0.2
LEAST_PROBE_SECONDS = 2.0
FIRST_RETRY = timedelta(minutes=1)

log = structlog.get_logger(__name__)


class Prober(Protocol):
    """Asks the provider. Two implementations: the real client, and the tests' provider under it."""

    async def probe(
        self,
        key: ApiKey,
        destination: ProviderEndpoint,
        *,
        previously_valid: bool,
        timeout_seconds: float | None = None,
    ) -> Verdict: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationSchedule:
    """When to check again. `every` None: never by itself."""

    every: timedelta | None

    def next_check(self, checked_at: datetime, *, indeterminate: int) -> datetime | None:
        """Jittered by a tenth; after indeterminate attempts sooner: a minute, doubled each time."""
        if self.every is None:
            return None
        pause = self.every
        if indeterminate:
            pause = min(pause, FIRST_RETRY * 2 ** min(indeterminate - 1, 20))
        return checked_at + pause * random.uniform(0.9, 1.1)  # noqa: S311  # spreads load; no secret


class ValidationRunner:
    """Starts checks, runs them in the background, and waits for verdicts."""

    def __init__(
        self,
        units: UnitsOfWork,
        store: SecretStore,
        provider: Prober,
        schedule: ValidationSchedule,
        activation: Activation,
    ) -> None:
        self._units = units
        self._store = store
        self._provider = provider
        self._schedule = schedule
        self._activation = activation
        self._running: dict[UUID, asyncio.Task[None]] = {}

    async def start(
        self,
        uow: UnitOfWork,
        caller: Caller,
        credential_id: UUID,
        key_version: int,
        *,
        validation_id: UUID | None = None,
        trigger: Trigger,
    ) -> ValidationRecord | None:
        """Put a pending check on record within `uow`; None where one is running already.

        Call `launch` once `uow` is committed. Should this process die before, a sweep ends it as interrupted.
        """
        instant = now()
        record = ValidationRecord(
            id=validation_id or new_id(),
            organization_id=caller.organization_id,
            credential_id=credential_id,
            key_version=key_version,
            verdict=PENDING,
            trigger=trigger,
            requested_by=caller.subject,
            created_at=instant,
            deadline_at=instant + DEADLINE,
        )
        if not await uow[ValidationRepository].start(record):
            return None
        await uow[QueueRepository].add(_due(record), due_at=record.deadline_at)
        return record

    def launch(
        self, caller: Caller, record: ValidationRecord, *, answer_by: float | None = None
    ) -> asyncio.Task[None]:
        """Run the check in the background: a client that goes away does not end it.

        `answer_by` is of `answer_time`; None where nobody waits.
        """
        task = asyncio.create_task(self._run(caller, record, answer_by), name=f"validation {record.id}")
        self._running[record.id] = task
        task.add_done_callback(lambda _: self._running.pop(record.id, None))
        return task

    @staticmethod
    async def wait(check: "asyncio.Task[None]") -> None:
        """Wait for a launched check without ending it when the waiter is cancelled."""
        await asyncio.shield(check)

    async def verdict_of(self, record: ValidationRecord) -> ValidationRecord:
        """The record once its check has ended: here, or in another instance until its deadline."""
        task = self._running.get(record.id)
        if task is not None:
            await asyncio.shield(task)
        while True:
            found = await self.find(record.organization_id, record.id)
            if found is None or found.verdict.status is not ValidationStatus.PENDING:
                return found or record
            if now() > record.deadline_at:
                await self.settle(record.organization_id, record.id)
            elif record.id not in self._running:
                await asyncio.sleep(POLL_SECONDS)

    async def settle(self, organization_id: str, validation_id: UUID) -> None:
        """End a check that nobody works on any more as `interrupted`."""
        record = await self.find(organization_id, validation_id)
        caller = Caller(subject=audit.SYSTEM_ACTOR, organization_id=organization_id, request_id="")
        if record is not None and record.verdict.status is ValidationStatus.PENDING:
            await self._finish(caller, record, _verdict(Reason.INTERRUPTED))
            return
        async with self._units.writing(organization_id) as uow:
            await uow[QueueRepository].remove(
                DueItem(organization_id=organization_id, kind=JobKind.SETTLE_VALIDATION, id=validation_id)
            )
            await uow.commit()

    async def close(self) -> None:
        """Wait for the checks that run; each is bounded."""
        if self._running:
            await asyncio.wait(self._running.values(), timeout=DEADLINE.total_seconds())

    async def _run(self, caller: Caller, record: ValidationRecord, answer_by: float | None) -> None:
        verdict = await self._check(record, answer_by)
        try:
            await self._finish(caller, record, verdict)
        except DatabaseUnavailable:
            log.warning("verdict_not_recorded", validation_id=str(record.id), reason=verdict.reason)

    async def _check(self, record: ValidationRecord, answer_by: float | None) -> Verdict:
        """Unseal, ask, forget. Whatever happens on the way is a verdict too."""
        try:
            sealed = await self._find_sealed(record)
            if sealed is None:
                return _verdict(Reason.INTERRUPTED)
            ref = SecretRef(organization_id=record.organization_id, credential_id=record.credential_id)
            key = await read_with_retry(
                sealed, lambda number: self._store.read(ref, number), lambda: self._find_sealed(record)
            )
            with client_span("provider.probe"), PROVIDER_SECONDS.time():
                return await self._provider.probe(
                    key,
                    sealed.destination,
                    previously_valid=sealed.was_valid,
                    timeout_seconds=_seconds_left(answer_by),
                )
        except (SecretStoreUnavailable, SecretCorrupt):
            return _verdict(Reason.SECRET_STORE_UNAVAILABLE)
        except (SecretMissing, ByokError):
            return _verdict(Reason.INTERRUPTED)
        except Exception as error:  # noqa: BLE001  # a fault of ours must not leave the check pending
            # Its name only: the text of an exception may quote what it was given.
            log.error("check_failed", validation_id=str(record.id), error=type(error).__name__)  # noqa: TRY400
            return _verdict(Reason.INTERRUPTED)

    async def _find_sealed(self, record: ValidationRecord) -> SealedVersion | None:
        async with self._units.reading(record.organization_id) as uow:
            return await uow[VersionRepository].find_sealed(record.credential_id, record.key_version)

    async def _finish(self, caller: Caller, record: ValidationRecord, verdict: Verdict) -> None:
        async with self._units.writing(record.organization_id) as uow:
            await uow[VersionRepository].lock(record.credential_id)
            if await uow[ValidationRepository].finish(record.id, verdict):
                assert verdict.checked_at is not None
                streak = await uow[VersionRepository].record_verdict(
                    record.credential_id, record.key_version, verdict
                )
                await self._activation.after_verdict(uow, caller, record, verdict, streak=streak)
                await uow[CredentialRepository].touch(record.credential_id, now=verdict.checked_at)
                await self._put_off(
                    uow, record, self._schedule.next_check(verdict.checked_at, indeterminate=streak)
                )
                await audit.record(
                    uow,
                    caller,
                    AuditAction.CREDENTIAL_VALIDATED,
                    record.credential_id,
                    key_version=record.key_version,
                    status=verdict.status,
                    reason=verdict.reason,
                    trigger=record.trigger,
                )
            await uow[QueueRepository].remove(_due(record))
            await uow.commit()
        VALIDATIONS.labels(verdict.status, verdict.reason or "").inc()
        log.info(
            "credential_validated",
            organization_id=record.organization_id,
            credential_id=str(record.credential_id),
            status=verdict.status,
            reason=verdict.reason,
        )

    async def _put_off(self, uow: UnitOfWork, record: ValidationRecord, due_at: datetime | None) -> None:
        item = check_of(record.organization_id, record.credential_id)
        if due_at is None:
            await uow[QueueRepository].remove(item)
        else:
            await uow[QueueRepository].schedule(item, due_at=due_at)

    async def find(self, organization_id: str, validation_id: UUID) -> ValidationRecord | None:
        async with self._units.reading(organization_id) as uow:
            return await uow[ValidationRepository].find(validation_id)


def _seconds_left(answer_by: float | None) -> float | None:
    if answer_by is None:
        return None
    return max(LEAST_PROBE_SECONDS, answer_by - asyncio.get_running_loop().time())


def _due(record: ValidationRecord) -> DueItem:
    return DueItem(organization_id=record.organization_id, kind=JobKind.SETTLE_VALIDATION, id=record.id)


def _verdict(reason: Reason) -> Verdict:
    return Verdict(status=status_of(reason), reason=reason, checked_at=now())
