"""Use cases of validation: validate on request, list validations, and run periodic validations."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from app.auth.principal import Caller
from app.core.clock import now
from app.credentials.records import CredentialState
from app.credentials.repository import CredentialRepository
from app.credentials.validation_results import Trigger, ValidationRecord, ValidationStatus
from app.credentials.validator import periodic_validation_of, response_deadline
from app.credentials.version_repository import VersionRepository
from app.database.unit_of_work import UnitsOfWork
from app.jobs.queue import DueItem, QueueRepository
from app.rate_limits.service import RateLimiter, RateLimitKind
from app.validation.repository import ValidationRepository
from app.validation.runner import ValidationRunner

# How soon after an attempt the next one may be, however often live traffic is refused.
_REFUSAL_INTERVAL = timedelta(minutes=1)


class ValidationService:
    """One public method per use case."""

    def __init__(self, units: UnitsOfWork, runner: ValidationRunner, rate_limits: RateLimiter) -> None:
        self._units = units
        self._runner = runner
        self._rate_limits = rate_limits

    async def request(
        self,
        caller: Caller,
        credential_id: UUID,
        *,
        validation_id: UUID,
        wait: bool = True,
    ) -> ValidationRecord:
        """Validate the active key. Joins a validation that is already running.

        Args:
            caller: the client.
            credential_id: the credential.
            validation_id: the id of a new validation.
            wait: wait for the result; otherwise return the pending record.

        Raises:
            NotFound, CredentialDeleted, RateLimited, DatabaseUnavailable
        """
        respond_by = response_deadline()
        await self._rate_limits.admit(caller.organization_id, RateLimitKind.CREDENTIAL_WRITES)
        while True:
            running = await self._find_running(caller.organization_id, credential_id)
            if running is None:
                running = await self._start(
                    caller, credential_id, validation_id, respond_by=respond_by if wait else None
                )
            if running is not None:  # otherwise it ended between the two statements: try again
                return await self._runner.wait_for_result(running) if wait else running

    async def resume(
        self, organization_id: str, validation_id: UUID, *, wait: bool = True
    ) -> ValidationRecord | None:
        """Find the validation that an interrupted request with the same Idempotency-Key started, if it did."""
        found = await self._runner.find(organization_id, validation_id)
        if found is None:
            return None
        return await self._runner.wait_for_result(found) if wait else found

    async def _find_running(self, organization_id: str, credential_id: UUID) -> ValidationRecord | None:
        """Find the running validation without a lock, so that a request that joins it does not wait for one."""
        async with self._units.reading(organization_id) as uow:
            credential = await uow[CredentialRepository].get_live(credential_id)
            key_version = credential.active_version.key_version
            return await uow[ValidationRepository].find_pending(credential_id, key_version)

    async def _start(
        self, caller: Caller, credential_id: UUID, validation_id: UUID, *, respond_by: float | None
    ) -> ValidationRecord | None:
        """Start a validation. Returns it, or the one that a concurrent request started first."""
        async with self._units.writing(caller.organization_id) as uow:
            # Under this lock a rotation happens before or after. So the validation is recorded before its key can
            # count as unused.
            await uow[VersionRepository].lock(credential_id)
            credential = await uow[CredentialRepository].get_live(credential_id)
            key_version = credential.active_version.key_version
            started = await self._runner.start(
                uow, caller, credential_id, key_version, validation_id=validation_id, trigger=Trigger.REQUEST
            )
            running = started or await uow[ValidationRepository].find_pending(credential_id, key_version)
            await uow.commit()
        if started is not None:
            self._runner.launch(caller, started, respond_by=respond_by)
        return running

    async def page(
        self, organization_id: str, credential_id: UUID, *, at_most: int, before: UUID | None
    ) -> Sequence[ValidationRecord]:
        """Return one page of a credential's validations, newest first.

        Raises:
            NotFound: the credential does not exist.
        """
        async with self._units.reading_in_bulk(organization_id) as uow:
            await uow[CredentialRepository].get(credential_id)
            return await uow[ValidationRepository].page(credential_id, at_most=at_most, before=before)

    async def revalidate(self, item: DueItem) -> None:
        """Run a periodic validation and wait for it. Its result schedules the next one.

        Removes the item if the credential is not active any more.
        """
        caller = Caller.system(item.organization_id)
        async with self._units.writing(item.organization_id) as uow:
            await uow[VersionRepository].lock(item.id)
            credential = await uow[CredentialRepository].find(item.id)
            started = None
            if credential is None or credential.state is not CredentialState.ACTIVE:
                await uow[QueueRepository].remove(item)
            else:
                version = credential.active_version.key_version
                started = await self._runner.start(uow, caller, item.id, version, trigger=Trigger.SCHEDULE)
            await uow.commit()
        if started is not None:
            await self._runner.wait(self._runner.launch(caller, started))

    async def revalidate_soon(
        self, organization_id: str, credential_id: UUID, *, key_version: int | None = None
    ) -> None:
        """Make the periodic validation of this credential due now, because live traffic got a 401 with its key.

        With a version, only if that one is active and its last definite result is valid, and not earlier than a minute
        after the last attempt.

        Raises:
            NotFound: the credential does not exist.
            DatabaseUnavailable
        """
        due_at = now()
        async with self._units.writing(organization_id) as uow:
            credential = await uow[CredentialRepository].get(credential_id)
            version = credential.active_version
            if key_version is not None:
                if version.key_version != key_version or version.result.status is not ValidationStatus.VALID:
                    return
                if version.latest.checked_at is not None:
                    due_at = max(due_at, version.latest.checked_at + _REFUSAL_INTERVAL)
            await uow[QueueRepository].schedule(
                periodic_validation_of(organization_id, credential_id), due_at=due_at
            )
            await uow.commit()
