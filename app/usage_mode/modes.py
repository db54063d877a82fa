"""The usage mode of an organization and its changes. The mode determines who pays the provider."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from uuid import UUID


class UsageMode(StrEnum):
    """Who pays the provider."""

    MANAGED = "managed"  # Pharaoh pays, and bills the organization
    BYO = "byo"  # the organization pays, with its own key


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeChange:
    """An entry of the usage mode history. It applies from `effective_from`, inclusive, until the next entry.

    `effective_from`, `changed_by` and `changed_at` are `None` for the initial mode of an organization. `changed_at` is also
    `None` if the service did not record yet when a change was requested.
    """

    mode: UsageMode
    credential_id: UUID | None
    effective_from: datetime | None
    changed_by: str | None
    changed_at: datetime | None = None

    @property
    def microseconds(self) -> int:
        """Microseconds from 1970 to `effective_from`; 0 for the initial mode."""
        if self.effective_from is None:
            return 0
        return (self.effective_from - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


# How far in the future a switch may be scheduled.
MAX_SCHEDULE_AHEAD = timedelta(days=366)

# The mode of an organization that never switched.
INITIAL_MODE = ModeChange(mode=UsageMode.MANAGED, credential_id=None, effective_from=None, changed_by=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageModeState:
    """The active mode and the scheduled change."""

    active: ModeChange
    scheduled: ModeChange | None

    @property
    def revision(self) -> int:
        """A number for the ETag, equal for equal states. 0 for the initial mode."""
        if self.scheduled is None:
            return self.active.microseconds
        scheduled = self.scheduled
        text = (
            f"{self.active.microseconds} {scheduled.microseconds} {scheduled.mode} {scheduled.credential_id}"
        )
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])

    def uses_credential(self, credential_id: UUID) -> bool:
        """Whether the active mode or the scheduled change names this credential."""
        return any(
            change is not None and change.credential_id == credential_id
            for change in (self.active, self.scheduled)
        )
