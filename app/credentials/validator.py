"""What credentials need of validation: checks that are started, awaited, repeated."""

import asyncio
from typing import Protocol
from uuid import UUID

from app.auth.principal import Caller
from app.credentials.verdicts import Trigger, ValidationRecord
from app.database.unit_of_work import UnitOfWork
from app.jobs.queue import DueItem, JobKind

# Whoever waits for a verdict is answered by then, counted from the moment of asking: what came before
# the check (DNS, the secret store) is taken off the provider's time, down to this least. Promised are
# 15 seconds; what is left of them is for what comes after the check.
ANSWER_SECONDS = 14.5


def answer_time() -> float:
    """By when a request that arrives now has its answer, on the loop's clock."""
    return asyncio.get_running_loop().time() + ANSWER_SECONDS


def check_of(organization_id: str, credential_id: UUID) -> DueItem:
    """The queue item of a credential's periodic checks."""
    return DueItem(organization_id=organization_id, kind=JobKind.REVALIDATE, id=credential_id)


class Validator(Protocol):
    """Checks a key version: put on record within the unit of work, launched once that is committed."""

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
        self, caller: Caller, record: ValidationRecord, *, answer_by: float | None = None
    ) -> asyncio.Task[None]: ...

    async def wait(self, check: asyncio.Task[None]) -> None: ...
