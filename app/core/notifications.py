"""What organizations are notified of: the types of events, and what each one consists of.

An event contains ids, codes and amounts, but no names or other customer input: receivers may log it.
`app.webhooks.messages` writes it as the body of a message.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID


class EventType(StrEnum):
    """The events that webhook endpoints receive. The names are stable codes of the API."""

    THRESHOLD_CROSSED = "spend_limit.threshold_crossed"
    CREDENTIAL_VALID = "credential.valid"
    CREDENTIAL_INVALID = "credential.invalid"
    ROTATION_ACTIVATED = "rotation.activated"
    ROTATION_REJECTED = "rotation.rejected"
    USAGE_MODE_CHANGED = "usage_mode.changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    organization_id: str
    occurred_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdCrossed(_Event):
    """Spend crossed a threshold of a limit. Amounts are in pico-USD; `period` is a value of the API.

    A limit without a period has no `period_starts_at`.
    """

    spend_limit_id: UUID
    threshold: int
    amount: int
    spent: int
    period: str
    period_starts_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialResult(_Event):
    """The definite result of an active key has another status than the one before. `reason` is a value of the API."""

    is_valid: bool
    credential_id: UUID
    key_version: int
    reason: str
    checked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationActivated(_Event):
    """The new key of a rotation is active."""

    credential_id: UUID
    rotation_id: UUID
    key_version: int
    replaced_key_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationRejected(_Event):
    """The new key of a rotation will not be used. `reason` is a value of the API."""

    credential_id: UUID
    rotation_id: UUID
    key_version: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageModeChanged(_Event):
    """Another mode or credential pays. `mode` is a value of the API."""

    mode: str
    credential_id: UUID | None
    effective_from: datetime


Event = ThresholdCrossed | CredentialResult | RotationActivated | RotationRejected | UsageModeChanged
