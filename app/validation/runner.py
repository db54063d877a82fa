"""Runs one validation of a key: decrypt the key, send a probe to the provider, record the result.

No connection or transaction is held while the provider responds. A key version has at most one running
validation: a second request waits for the result of the first, also across instances.
"""

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

import structlog

from app.audit import service as audit
from app.audit.events import AuditAction
from app.auth.principal import Caller
from app.core.admission import AdmissionQueue
from app.core.clock import new_id, now
from app.core.errors import ByokError, ConcurrencyLimited, DatabaseUnavailable, SecretStoreUnavailable
from app.core.keys.api_key import ApiKey
from app.credentials.activation import Activation
from app.credentials.repository import CredentialRepository
from app.credentials.validation_results import (
    PENDING,
    Reason,
    Trigger,
    ValidationRecord,
    ValidationResult,
    ValidationStatus,
    status_of,
)
from app.credentials.validator import periodic_validation_of
from app.credentials.version_repository import SecretLocation, VersionRepository
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.observability.metrics import PROVIDER_SECONDS, VALIDATIONS
from app.observability.tracing import client_span
from app.provider_url.endpoint import ProviderEndpoint
from app.secret_store.port import SecretCorrupt, SecretMissing, SecretRef, SecretStore
from app.secret_store.read_retry import read_with_retry
from app.validation.repository import ValidationRepository
from app.validation.schedule import ValidationSchedule

# The provider timeout (15 s) bounds a validation. After this deadline no instance is working on it any more.
DEADLINE = timedelta(seconds=20)
POLL_SECONDS = 0.2
MIN_PROBE_SECONDS = 2.0
# Probes of one organization to custom hosts at a time. All organizations share 100 connections to custom hosts, and a
# host that hangs holds one for 15 seconds.
CUSTOM_PROBES_PER_ORGANIZATION = 16
# Together with the probe itself less than `DEADLINE`.
SLOT_SECONDS = 4.0

log = structlog.get_logger("byok.validation")


class Prober(Protocol):
    """Sends a probe to the provider. Implemented by `AnthropicClient` and by test doubles."""

    async def probe(
        self,
        key: ApiKey,
        endpoint: ProviderEndpoint,
        *,
        previously_valid: bool,
        timeout_seconds: float | None = None,
    ) -> ValidationResult: ...


class _NoProbeSlot(ConcurrencyLimited):
    """Other probes of the organization use all slots."""


class ValidationRunner:
    """Starts validations, runs them in the background, and waits for their results."""

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
        self._tasks: dict[UUID, asyncio.Task[None]] = {}
        self._custom_probes = AdmissionQueue(
            None,
            per_organization=CUSTOM_PROBES_PER_ORGANIZATION,
            queue_timeout_seconds=SLOT_SECONDS,
            max_waiting=1000,
            error=_NoProbeSlot,
        )

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
        """Insert a pending validation in `uow`. Returns None if this key version already has one.

        Call `launch` after `uow` is committed. If this process dies before that, the reconciler finishes the
        validation as `interrupted`.
        """
        instant = now()
        record = ValidationRecord(
            id=validation_id or new_id(),
            organization_id=caller.organization_id,
            credential_id=credential_id,
            key_version=key_version,
            result=PENDING,
            trigger=trigger,
            requested_by=caller.subject,
            created_at=instant,
            deadline_at=instant + DEADLINE,
        )
        if not await uow[ValidationRepository].insert_pending(record):
            return None
        await uow[QueueRepository].add(_reconciliation_of(record), due_at=record.deadline_at)
        return record

    def launch(
        self, caller: Caller, record: ValidationRecord, *, respond_by: float | None = None
    ) -> asyncio.Task[None]:
        """Run the validation in the background. It continues if the client disconnects.

        Args:
            caller: the subject that the audit event names.
            record: the validation that `start` inserted.
            respond_by: when the waiting client needs the response, from `response_deadline()`; None if no client
                waits.
        """
        task = asyncio.create_task(self._run(caller, record, respond_by), name=f"validation {record.id}")
        self._tasks[record.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(record.id, None))
        return task

    @staticmethod
    async def wait(task: "asyncio.Task[None]") -> None:
        """Wait for a task that `launch` returned. Cancelling the waiter does not cancel the validation."""
        await asyncio.shield(task)

    async def wait_for_result(self, record: ValidationRecord) -> ValidationRecord:
        """Wait until the validation has a result, in this instance or in another one, and return its record."""
        task = self._tasks.get(record.id)
        if task is not None:
            await asyncio.shield(task)
        while True:
            found = await self.find(record.organization_id, record.id)
            if found is None or found.result.status is not ValidationStatus.PENDING:
                return found or record
            if now() > record.deadline_at:
                await self.reconcile(record.organization_id, record.id)
            elif record.id not in self._tasks:
                await asyncio.sleep(POLL_SECONDS)

    async def reconcile(self, organization_id: str, validation_id: UUID) -> None:
        """Finish a pending validation as `interrupted`. Call it only when no instance can be working on it any more."""
        record = await self.find(organization_id, validation_id)
        caller = Caller.system(organization_id)
        if record is not None and record.result.status is ValidationStatus.PENDING:
            await self._finish(caller, record, _result(Reason.INTERRUPTED))
            return
        async with self._units.writing(organization_id) as uow:
            await uow[QueueRepository].remove(
                DueItem(organization_id=organization_id, kind=JobKind.SETTLE_VALIDATION, id=validation_id)
            )
            await uow.commit()

    async def close(self) -> None:
        """Wait for the running validations, at most `DEADLINE`."""
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=DEADLINE.total_seconds())

    async def _run(self, caller: Caller, record: ValidationRecord, respond_by: float | None) -> None:
        result = await self._probe(record, respond_by)
        try:
            await self._finish(caller, record, result)
        except DatabaseUnavailable:
            log.warning("validation_result_not_recorded", validation_id=str(record.id), reason=result.reason)

    async def _probe(self, record: ValidationRecord, respond_by: float | None) -> ValidationResult:
        """Read the key from the secret store, send the probe, and drop the key. Every failure is a result too."""
        try:
            location = await self._find_location(record)
            if location is None:
                return _result(Reason.INTERRUPTED)
            async with self._slot_for(location, record.organization_id):
                return await self._probe_at(location, record, respond_by)
        except _NoProbeSlot:
            return _result(Reason.INTERRUPTED)  # and not `timeout`: the host was not asked
        except (SecretStoreUnavailable, SecretCorrupt):
            return _result(Reason.SECRET_STORE_UNAVAILABLE)
        except (SecretMissing, ByokError):
            return _result(Reason.INTERRUPTED)
        except Exception as error:  # noqa: BLE001  # a bug must not leave the validation pending
            # Log only the exception's type: its text may quote the key.
            log.error("validation_failed", validation_id=str(record.id), error=type(error).__name__)  # noqa: TRY400
            return _result(Reason.INTERRUPTED)

    def _slot_for(self, location: SecretLocation, organization_id: str) -> AbstractAsyncContextManager[None]:
        """The right to probe a custom host. The default endpoint, which is the operator's, needs none."""
        is_custom = location.endpoint.base_url is not None
        return self._custom_probes.slot(organization_id) if is_custom else nullcontext()

    async def _probe_at(
        self, location: SecretLocation, record: ValidationRecord, respond_by: float | None
    ) -> ValidationResult:
        ref = SecretRef(organization_id=record.organization_id, credential_id=record.credential_id)
        key = await read_with_retry(
            location,
            lambda store_version: self._store.read(ref, store_version),
            lambda: self._find_location(record),
        )
        with client_span("provider.probe"), PROVIDER_SECONDS.time():
            return await self._provider.probe(
                key,
                location.endpoint,
                previously_valid=location.was_valid,
                timeout_seconds=_seconds_left(respond_by),
            )

    async def _find_location(self, record: ValidationRecord) -> SecretLocation | None:
        async with self._units.reading(record.organization_id) as uow:
            return await uow[VersionRepository].find_location(record.credential_id, record.key_version)

    async def _finish(self, caller: Caller, record: ValidationRecord, result: ValidationResult) -> None:
        async with self._units.writing(record.organization_id) as uow:
            await uow[VersionRepository].lock(record.credential_id)
            if await uow[ValidationRepository].finish(record.id, result):
                await self._apply(uow, caller, record, result)
            await uow[QueueRepository].remove(_reconciliation_of(record))
            await uow.commit()
        VALIDATIONS.labels(result.status, result.reason or "").inc()
        log.info(
            "credential_validated",
            organization_id=record.organization_id,
            credential_id=str(record.credential_id),
            key_version=record.key_version,
            validation_id=str(record.id),
            trigger=record.trigger,
            status=result.status,
            reason=result.reason,
            row=result.row,
        )

    async def _apply(
        self, uow: UnitOfWork, caller: Caller, record: ValidationRecord, result: ValidationResult
    ) -> None:
        """Write what the result changes: the key version, a pending activation, the next validation, the audit log."""
        assert result.checked_at is not None
        effect = await uow[VersionRepository].record_result(record.credential_id, record.key_version, result)
        await self._activation.after_validation(uow, caller, record, result, effect=effect)
        await uow[CredentialRepository].increment_revision(record.credential_id, now=result.checked_at)
        due_at = self._schedule.next_validation_at(result.checked_at, result, effect)
        await self._schedule_next(uow, record, due_at)
        await audit.record(
            uow,
            caller,
            AuditAction.CREDENTIAL_VALIDATED,
            record.credential_id,
            key_version=record.key_version,
            status=result.status,
            reason=result.reason,
            trigger=record.trigger,
        )

    async def _schedule_next(
        self, uow: UnitOfWork, record: ValidationRecord, due_at: datetime | None
    ) -> None:
        """Schedule the next validation of the credential. Results of versions that are not active do not change it."""
        if not await uow[VersionRepository].is_active(record.credential_id, record.key_version):
            return
        item = periodic_validation_of(record.organization_id, record.credential_id)
        if due_at is None:
            await uow[QueueRepository].remove(item)
        else:
            await uow[QueueRepository].schedule(item, due_at=due_at)

    async def find(self, organization_id: str, validation_id: UUID) -> ValidationRecord | None:
        async with self._units.reading(organization_id) as uow:
            return await uow[ValidationRepository].find(validation_id)


def _seconds_left(respond_by: float | None) -> float | None:
    if respond_by is None:
        return None
    return max(MIN_PROBE_SECONDS, respond_by - asyncio.get_running_loop().time())


def _reconciliation_of(record: ValidationRecord) -> DueItem:
    return DueItem(organization_id=record.organization_id, kind=JobKind.SETTLE_VALIDATION, id=record.id)


def _result(reason: Reason) -> ValidationResult:
    return ValidationResult(status=status_of(reason), reason=reason, checked_at=now())
