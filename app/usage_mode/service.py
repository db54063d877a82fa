"""Read and switch the usage mode, and list its history."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from app.audit import service as audit
from app.audit.events import AuditAction
from app.auth.principal import Caller
from app.core.errors import CredentialDeleted, InvalidInput, RateLimited
from app.core.revisions import require_revision
from app.credentials.activation import Notify
from app.credentials.records import DELETED_STATES
from app.credentials.repository import CredentialRepository
from app.database.ledger_lock import LedgerLock
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.usage_mode.modes import MAX_SCHEDULE_AHEAD, ModeChange, UsageMode, UsageModeState
from app.usage_mode.notifications import cancel_notification, change_event, schedule_notification
from app.usage_mode.repository import UsageModeRepository

# Events of this time may still arrive. Recording one reads all changes since it started.
_COUNTED: Final = timedelta(days=35)
_RETRY_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeSwitch:
    """A requested switch of the usage mode. `effective_at` is `None` for an immediate switch."""

    mode: UsageMode
    credential_id: UUID | None
    effective_at: datetime | None

    def is_satisfied_by(self, state: UsageModeState) -> bool:
        """Whether the switch would change nothing in this state."""
        if self.effective_at is None:
            return state.scheduled is None and self.has_mode_of(state.active)
        scheduled = state.scheduled
        return (
            scheduled is not None
            and scheduled.effective_from == self.effective_at
            and self.has_mode_of(scheduled)
        )

    def has_mode_of(self, change: ModeChange) -> bool:
        """Whether the mode and the credential are the same."""
        return (self.mode, self.credential_id) == (change.mode, change.credential_id)


class UsageModeService:
    """Use cases of the usage mode. Events before a change keep the mode that was active then.

    Args:
        units: opens transactions.
        notify: reports changes to the webhooks.
        max_changes: how many changes an organization may make within 35 days.
    """

    def __init__(self, units: UnitsOfWork, notify: Notify, *, max_changes: int = 1000) -> None:
        self._units = units
        self._notify = notify
        self._max_changes = max_changes

    async def read(self, organization_id: str) -> UsageModeState:
        """The active mode and the scheduled change. The initial mode of an organization is managed."""
        return await self._units.autocommit_read(organization_id)[UsageModeRepository].state()

    async def switch(
        self, caller: Caller, requested: ModeSwitch, *, revisions: frozenset[int] | None = None
    ) -> UsageModeState:
        """Switch now, or schedule the switch. Either replaces the scheduled change, if there is one.

        Requesting the active mode changes nothing if no change is scheduled. An organization may switch to BYO
        before its key is saved or valid; readiness then reports what is missing.

        Raises:
            InvalidInput, CredentialDeleted, PreconditionFailed, DatabaseUnavailable
            RateLimited: the organization has made too many changes.
        """
        async with self._units.writing(caller.organization_id) as uow:
            await uow[LedgerLock].lock_exclusively()
            # Cancel first, so that only one reading of the clock decides whether the change was still
            # scheduled. Leaving without a commit restores it.
            replaced = await uow[UsageModeRepository].cancel_scheduled()
            remaining = await uow[UsageModeRepository].state()
            await require_valid_time(uow, requested)
            current = UsageModeState(active=remaining.active, scheduled=replaced)
            require_revision(current.revision, revisions)
            if requested.is_satisfied_by(current):
                return current
            await require_usable_credential(uow, requested)
            await self._require_room(uow)
            state = await self._apply(uow, caller, requested, current)
            await uow.commit()
        return state

    async def _require_room(self, uow: UnitOfWork) -> None:
        changes = uow[UsageModeRepository]
        since = await changes.clock() - _COUNTED
        if await changes.count_since(since, at_most=self._max_changes) >= self._max_changes:
            raise RateLimited(retry_after_seconds=_RETRY_SECONDS)

    async def cancel_scheduled(
        self, caller: Caller, *, revisions: frozenset[int] | None = None
    ) -> UsageModeState:
        """Cancel the scheduled change. Changes nothing if there is none.

        Raises:
            PreconditionFailed, DatabaseUnavailable
        """
        async with self._units.writing(caller.organization_id) as uow:
            await uow[LedgerLock].lock_exclusively()
            cancelled = await uow[UsageModeRepository].cancel_scheduled()
            remaining = await uow[UsageModeRepository].state()
            require_revision(UsageModeState(active=remaining.active, scheduled=cancelled).revision, revisions)
            if cancelled is not None:
                await _record_cancelled(uow, caller, cancelled, is_replaced=False)
                await uow.commit()
        return remaining

    async def history(self, organization_id: str, *, at_most: int, before: datetime) -> Sequence[ModeChange]:
        """Changes that have taken effect, newest first."""
        async with self._units.reading_in_bulk(organization_id) as uow:
            return await uow[UsageModeRepository].page(at_most=at_most, before=before)

    async def lock_usage_mode(self, uow: UnitOfWork) -> None:
        """Keep other transactions from switching the mode until this one ends."""
        await uow[LedgerLock].lock_exclusively()

    async def uses_credential(self, uow: UnitOfWork, credential_id: UUID) -> bool:
        """Whether the active mode or the scheduled change names this credential."""
        return (await uow[UsageModeRepository].state()).uses_credential(credential_id)

    async def _apply(
        self, uow: UnitOfWork, caller: Caller, requested: ModeSwitch, current: UsageModeState
    ) -> UsageModeState:
        """Write the change and its audit events. The scheduled change is cancelled already."""
        active, is_scheduled = current.active, requested.effective_at is not None
        if current.scheduled is not None:
            await _record_cancelled(uow, caller, current.scheduled, is_replaced=is_scheduled)
        if not is_scheduled and requested.has_mode_of(active):
            return UsageModeState(active=active, scheduled=None)
        change = await uow[UsageModeRepository].append(
            requested.mode, requested.credential_id, at=requested.effective_at, changed_by=caller.subject
        )
        if is_scheduled:
            await audit.record(
                uow, caller, AuditAction.USAGE_MODE_SCHEDULED, change.credential_id, **_details(change)
            )
            await schedule_notification(uow, change)
            return UsageModeState(active=active, scheduled=change)
        await audit.record(
            uow,
            caller,
            AuditAction.USAGE_MODE_CHANGED,
            change.credential_id,
            mode=change.mode,
            previous_mode=active.mode,
        )
        await self._notify(uow, change_event(caller.organization_id, change))
        return UsageModeState(active=change, scheduled=None)


async def _record_cancelled(
    uow: UnitOfWork, caller: Caller, cancelled: ModeChange, *, is_replaced: bool
) -> None:
    action = (
        AuditAction.USAGE_MODE_SCHEDULE_REPLACED if is_replaced else AuditAction.USAGE_MODE_SCHEDULE_CANCELLED
    )
    await audit.record(uow, caller, action, cancelled.credential_id, **_details(cancelled))
    await cancel_notification(uow, cancelled)


def _details(change: ModeChange) -> dict[str, str]:
    assert change.effective_from is not None
    return {"mode": change.mode, "effective_at": change.effective_from.astimezone(UTC).isoformat()}


async def require_valid_time(uow: UnitOfWork, requested: ModeSwitch) -> None:
    """Raise InvalidInput unless the switch is immediate or within the next year, by the database's clock."""
    if requested.effective_at is None:
        return
    now = await uow[UsageModeRepository].clock()
    if requested.effective_at <= now:
        raise InvalidInput.of(
            "effective_at",
            "effective_at_in_past",
            "Must be in the future. Omit it to switch now.",
        )
    if requested.effective_at > now + MAX_SCHEDULE_AHEAD:
        raise InvalidInput.of("effective_at", "effective_at_too_far", "Must be within the next 366 days.")


async def require_usable_credential(uow: UnitOfWork, requested: ModeSwitch) -> None:
    """Raise unless the switch names no credential, or one that exists and is not deleted.

    Raises:
        InvalidInput: the credential does not exist, or the mode is managed.
        CredentialDeleted
    """
    if requested.credential_id is None:
        return
    if requested.mode is UsageMode.MANAGED:
        raise InvalidInput.of(
            "credential_id",
            "credential_not_used",
            "Managed usage does not use a credential. Omit `credential_id`.",
        )
    credential = await uow[CredentialRepository].find(requested.credential_id)
    if credential is None:
        raise InvalidInput.of(
            "credential_id", "credential_not_found", "Must name a credential of this organization."
        )
    if credential.state in DELETED_STATES:
        raise CredentialDeleted
