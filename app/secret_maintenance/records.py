"""Rewraps: the same secret under a newer transit key, at a new store version."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID


class RewrapState(StrEnum):
    """The state of a rewrap. Its row is deleted when it is complete."""

    INTENT = "intent"  # recorded; the store may have written it
    ABANDONED = "abandoned"  # interrupted: a tombstone takes the number, or the written secret is destroyed
    MOVED = "moved"  # the row has the new store version; the old one is to be destroyed


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrap:
    """The move of one secret from its store version to the next free one."""

    intent_id: UUID
    credential_id: UUID  # or the endpoint's id
    key_version: int | None  # None for the signing secret of an endpoint
    state: RewrapState
    from_store_version: int
    expected_store_version: int

    @property
    def is_signing_secret(self) -> bool:
        """Whether the secret signs an endpoint's deliveries."""
        return self.key_version is None
