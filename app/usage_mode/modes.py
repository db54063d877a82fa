"""Who pays the provider: the usage mode of an organization, its timeline, and whether work may start."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from uuid import UUID


class UsageMode(StrEnum):
    """Who pays the provider."""

    MANAGED = "managed"  # Pharaoh does, and bills it
    BYO = "byo"  # the organization does, with its own key


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageModePoint:
    """A point of the timeline: from this instant on, inclusive, until the next point."""

    mode: UsageMode
    credential_id: UUID | None
    effective_from: datetime | None
    changed_by: str | None

    @property
    def microseconds(self) -> int:
        """Since 1970; 0 before anybody chose."""
        if self.effective_from is None:
            return 0
        return (self.effective_from - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


# How far ahead a switch may be scheduled.
FURTHEST_SCHEDULED = timedelta(days=366)


# What an organization is before anybody chose.
INITIAL_MODE = UsageModePoint(
    mode=UsageMode.MANAGED, credential_id=None, effective_from=None, changed_by=None
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageModeState:
    """The point in force, and the one that is still to come, if any."""

    in_force: UsageModePoint
    scheduled: UsageModePoint | None

    @property
    def revision(self) -> int:
        """For the ETag: says the same for the same state. 0 before anybody chose."""
        if self.scheduled is None:
            return self.in_force.microseconds
        coming = self.scheduled
        named = f"{self.in_force.microseconds} {coming.microseconds} {coming.mode} {coming.credential_id}"
        return int.from_bytes(hashlib.sha256(named.encode()).digest()[:8])

    def names(self, credential_id: UUID) -> bool:
        """Whether that credential pays now, or will."""
        named = {self.in_force.credential_id} | ({self.scheduled.credential_id} if self.scheduled else set())
        return credential_id in named
