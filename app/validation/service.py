"""Ask for checks of a key, read their verdicts, and have keys checked again in time."""

from collections.abc import Sequence
from uuid import UUID

from app.audit import service as audit
from app.auth.principal import Caller
from app.core.clock import now
from app.core.errors import CredentialDeleted, NotFound
from app.credentials.records import CredentialRecord, CredentialState
from app.credentials.repository import CredentialRepository
from app.credentials.validator import answer_time, check_of
from app.credentials.verdicts import Trigger, ValidationRecord
from app.credentials.version_repository import VersionRepository
from app.database.unit_of_work import UnitsOfWork
from app.jobs.queue import DueItem, QueueRepository
from app.rate_limits.service import RateLimiter, RateLimitKind
from app.validation.repository import ValidationRepository
from app.validation.runner import ValidationRunner


class ValidationService:
    """One public method per use case."""

    def __init__(self, units: UnitsOfWork, checks: ValidationRunner, rate_limits: RateLimiter) -> None:
        self._units = units
        self._checks = checks
        self._rate_limits = rate_limits

    async def request(
        self,
        caller: Caller,
        credential_id: UUID,
        *,
        validation_id: UUID,
        is_resumed: bool = False,
        wait: bool = True,
    ) -> ValidationRecord:
        """Check the key in use now. With `wait`, returns the verdict, else the pending record.

        Raises:
            NotFound, CredentialDeleted, RateLimited, DatabaseUnavailable
        """
        if (
            is_resumed
            and (found := await self._checks.find(caller.organization_id, validation_id)) is not None
        ):
            return await self._checks.verdict_of(found) if wait else found
        answer_by = answer_time()
        await self._rate_limits.admit(caller.organization_id, RateLimitKind.CREDENTIAL_WRITES)
        while True:
            running = await self._find_running(caller.organization_id, credential_id)
            if running is None:
                running = await self._start(
                    caller, credential_id, validation_id, answer_by=answer_by if wait else None
                )
            if running is not None:  # else it ended between the two statements: begin again
                return await self._checks.verdict_of(running) if wait else running

    async def _find_running(self, organization_id: str, credential_id: UUID) -> ValidationRecord | None:
        """Whoever comes while a check runs waits for its verdict, and for no lock."""
        async with self._units.reading(organization_id) as uow:
            current = _current_of(await uow[CredentialRepository].find(credential_id))
            return await uow[ValidationRepository].find_running(credential_id, current)

    async def _start(
        self, caller: Caller, credential_id: UUID, validation_id: UUID, *, answer_by: float | None
    ) -> ValidationRecord | None:
        """The check that runs now: this one, or somebody else's that came first."""
        async with self._units.writing(caller.organization_id) as uow:
            # A switch comes before or after: the check is on record before its key can count as unused.
            await uow[VersionRepository].lock(credential_id)
            current = _current_of(await uow[CredentialRepository].find(credential_id))
            started = await self._checks.start(
                uow, caller, credential_id, current, validation_id=validation_id, trigger=Trigger.REQUEST
            )
            running = started or await uow[ValidationRepository].find_running(credential_id, current)
            await uow.commit()
        if started is not None:
            self._checks.launch(caller, started, answer_by=answer_by)
        return running

    async def page(
        self, organization_id: str, credential_id: UUID, *, at_most: int, before: UUID | None
    ) -> Sequence[ValidationRecord]:
        """Newest first.

        Raises:
            NotFound: no such credential.
        """
        async with self._units.reading(organization_id) as uow:
            if await uow[CredentialRepository].find(credential_id) is None:
                raise NotFound
            return await uow[ValidationRepository].page(credential_id, at_most=at_most, before=before)

    async def recheck(self, item: DueItem) -> None:
        """A periodic check. Its verdict puts off the next one; where none is due any more, the item goes."""
        caller = Caller(subject=audit.SYSTEM_ACTOR, organization_id=item.organization_id, request_id="")
        async with self._units.writing(item.organization_id) as uow:
            await uow[VersionRepository].lock(item.id)
            credential = await uow[CredentialRepository].find(item.id)
            started = None
            if credential is None or credential.state is not CredentialState.ACTIVE:
                await uow[QueueRepository].remove(item)
            else:
                version = credential.current.key_version
                started = await self._checks.start(uow, caller, item.id, version, trigger=Trigger.SCHEDULE)
            await uow.commit()
        if started is not None:
            await self._checks.wait(self._checks.launch(caller, started))

    async def recheck_soon(self, organization_id: str, credential_id: UUID) -> None:
        """Live traffic met a 401 with this key: check it now, not when its turn comes."""
        async with self._units.writing(organization_id) as uow:
            if await uow[CredentialRepository].find(credential_id) is None:
                raise NotFound
            await uow[QueueRepository].schedule(check_of(organization_id, credential_id), due_at=now())
            await uow.commit()


def _current_of(credential: CredentialRecord | None) -> int:
    if credential is None:
        raise NotFound
    if credential.state not in (CredentialState.ACTIVE, CredentialState.DISABLED):
        raise CredentialDeleted
    return credential.current.key_version
