"""Which key pays: read and switch the usage mode, its history, and whether work may start."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from app.audit import service as audit
from app.audit.events import AuditAction
from app.auth.principal import Caller
from app.core.errors import CredentialDeleted, InvalidInput, PreconditionFailed
from app.credentials.records import CredentialState
from app.credentials.repository import CredentialRepository
from app.database.ledger_lock import LedgerLock
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.usage_mode.modes import FURTHEST_SCHEDULED, UsageMode, UsageModePoint, UsageModeState
from app.usage_mode.repository import UsageModeRepository


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeSwitch:
    """Which mode somebody wants. `effective_at` is None for now."""

    mode: UsageMode
    credential_id: UUID | None
    effective_at: datetime | None

    def is_met_by(self, state: UsageModeState) -> bool:
        """Whether following it would change nothing."""
        if self.effective_at is None:
            return state.scheduled is None and _names(state.in_force) == (self.mode, self.credential_id)
        coming = state.scheduled
        return (
            coming is not None
            and coming.effective_from == self.effective_at
            and _names(coming) == (self.mode, self.credential_id)
        )


def _names(point: UsageModePoint) -> tuple[UsageMode, UUID | None]:
    return point.mode, point.credential_id


class UsageModeService:
    """Switches count from their instant on; what came before keeps its mode for good."""

    def __init__(self, units: UnitsOfWork) -> None:
        self._units = units

    async def read(self, organization_id: str) -> UsageModeState:
        """The mode in force, and the switch to come. An organization that never chose is managed."""
        async with self._units.reading(organization_id) as uow:
            return await uow[UsageModeRepository].state()

    async def switch(
        self, caller: Caller, wish: ModeSwitch, *, revisions: frozenset[int] | None = None
    ) -> UsageModeState:
        """Switch now, or schedule it. Either replaces a switch that is still to come.

        Naming what is in force already, with nothing to come, changes nothing. BYO may be chosen
        before its key is saved or valid: readiness then says what is missing.

        Raises:
            InvalidInput, CredentialDeleted, PreconditionFailed, DatabaseUnavailable
        """
        async with self._units.writing(caller.organization_id) as uow:
            await uow[LedgerLock].exclusive()
            # Taken away before anything is decided: so the clock is asked once whether it was still
            # to come. Leaving without a commit puts it back.
            replaced = await uow[UsageModeRepository].cancel_scheduled()
            before = await uow[UsageModeRepository].state()
            await check_time(uow, wish)
            held = UsageModeState(in_force=before.in_force, scheduled=replaced)
            if revisions is not None and held.revision not in revisions:
                raise PreconditionFailed
            if wish.is_met_by(held):
                return held
            await check_names(uow, wish)
            state = await _follow(uow, caller, wish, held)
            await uow.commit()
        return state

    async def history(
        self, organization_id: str, *, at_most: int, before: datetime
    ) -> Sequence[UsageModePoint]:
        """Those that have begun, newest first."""
        async with self._units.reading(organization_id) as uow:
            return await uow[UsageModeRepository].page(at_most=at_most, before=before)

    async def hold(self, uow: UnitOfWork) -> None:
        """Nobody switches until the transaction ends."""
        await uow[LedgerLock].exclusive()

    async def names(self, uow: UnitOfWork, credential_id: UUID) -> bool:
        """Whether that credential pays now, or will."""
        return (await uow[UsageModeRepository].state()).names(credential_id)


async def _follow(uow: UnitOfWork, caller: Caller, wish: ModeSwitch, held: UsageModeState) -> UsageModeState:
    is_later, last, replaced = wish.effective_at is not None, held.in_force, held.scheduled
    if replaced is not None:
        action = (
            AuditAction.USAGE_MODE_SCHEDULE_REPLACED
            if is_later
            else AuditAction.USAGE_MODE_SCHEDULE_CANCELLED
        )
        await audit.record(uow, caller, action, replaced.credential_id, **_facts(replaced))
    if not is_later and _names(last) == (wish.mode, wish.credential_id):
        return UsageModeState(in_force=last, scheduled=None)
    point = await uow[UsageModeRepository].append(
        wish.mode, wish.credential_id, at=wish.effective_at, changed_by=caller.subject
    )
    if is_later:
        await audit.record(
            uow, caller, AuditAction.USAGE_MODE_SCHEDULED, point.credential_id, **_facts(point)
        )
        return UsageModeState(in_force=last, scheduled=point)
    await audit.record(
        uow,
        caller,
        AuditAction.USAGE_MODE_CHANGED,
        point.credential_id,
        mode=point.mode,
        previous_mode=last.mode,
    )
    return UsageModeState(in_force=point, scheduled=None)


def _facts(point: UsageModePoint) -> dict[str, str]:
    assert point.effective_from is not None
    return {"mode": point.mode, "effective_at": point.effective_from.astimezone(UTC).isoformat()}


async def check_time(uow: UnitOfWork, wish: ModeSwitch) -> None:
    """Raise unless the wish is for now or for a time to come, by the database's clock."""
    if wish.effective_at is None:
        return
    now = await uow[UsageModeRepository].clock()
    if wish.effective_at <= now:
        raise InvalidInput.of(
            "effective_at",
            "effective_at_in_past",
            "A switch counts from now on or later, never from the past.",
        )
    if wish.effective_at > now + FURTHEST_SCHEDULED:
        raise InvalidInput.of(
            "effective_at", "effective_at_too_far", "A switch can be scheduled a year ahead at most."
        )


async def check_names(uow: UnitOfWork, wish: ModeSwitch) -> None:
    """Raise unless the wish names a credential that could pay, or none."""
    if wish.credential_id is None:
        return
    if wish.mode is UsageMode.MANAGED:
        raise InvalidInput.of(
            "credential_id", "credential_not_used", "Managed usage names no credential: leave it out."
        )
    credential = await uow[CredentialRepository].find(wish.credential_id)
    if credential is None:
        raise InvalidInput.of(
            "credential_id", "credential_not_found", "This organization has no such credential."
        )
    if credential.state in (CredentialState.DELETING, CredentialState.DELETED):
        raise CredentialDeleted
