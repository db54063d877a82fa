"""Rewraps: the same key under a newer key of the store, at a new number there."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID


class RewrapState(StrEnum):
    """How far one is. It is gone once nothing of it is left to do."""

    INTENT = "intent"  # announced; perhaps written
    ABANDONED = "abandoned"  # its writer vanished: the number is barred, then what it wrote is destroyed
    MOVED = "moved"  # the row points to the new number; the old one is to be destroyed


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrap:
    """One version's way from one store version to the next free one."""

    intent_id: UUID
    credential_id: UUID  # or the endpoint's
    key_version: int | None  # None: of an endpoint's signing secret
    state: RewrapState
    from_store_version: int
    expected_store_version: int

    @property
    def is_of_endpoint(self) -> bool:
        """Whether what moves is what an endpoint's deliveries are signed with."""
        return self.key_version is None
