"""The interface through which credentials start validations, and the deadline for responses that wait for one."""

import asyncio
from typing import Protocol
from uuid import UUID

from app.auth.principal import Caller
from app.credentials.validation_results import Trigger, ValidationRecord
from app.database.unit_of_work import UnitOfWork
from app.jobs.queue import DueItem, JobKind

# A request that waits for a validation result gets its response after at most this time. Time spent before the
# probe (DNS, the secret store) shortens the provider's timeout, down to a minimum. The API promises 15 seconds;
# the remaining half second is for the work after the probe.
RESPONSE_SECONDS = 14.5


def response_deadline() -> float:
    """When a request that arrives now must have its response, on the event loop's clock."""
    return asyncio.get_running_loop().time() + RESPONSE_SECONDS


def periodic_validation_of(organization_id: str, credential_id: UUID) -> DueItem:
    """The queue item of a credential's periodic validation."""
    return DueItem(organization_id=organization_id, kind=JobKind.REVALIDATE, id=credential_id)


class Validator(Protocol):
    """Validates a key version. `start` records the validation in the unit of work; `launch` runs it after the commit.

    `start` returns None if a validation of the version is already pending.
    """

    async def start(
        self,
        uow: UnitOfWork,
        caller: Caller,
        credential_id: UUID,
        key_version: int,
        *,
        validation_id: UUID | None = None,
        trigger: Trigger,
    ) -> ValidationRecord | None: ...

    def launch(
        self, caller: Caller, record: ValidationRecord, *, respond_by: float | None = None
    ) -> asyncio.Task[None]: ...

    async def wait(self, task: asyncio.Task[None]) -> None: ...
