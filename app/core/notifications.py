"""What organizations are notified of: the types of events, and their messages."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any


class EventType(StrEnum):
    """The events that webhook endpoints receive. The names are stable codes of the API."""

    THRESHOLD_CROSSED = "spend_limit.threshold_crossed"
    CREDENTIAL_VALID = "credential.valid"
    CREDENTIAL_INVALID = "credential.invalid"
    ROTATION_ACTIVATED = "rotation.activated"
    ROTATION_REJECTED = "rotation.rejected"
    USAGE_MODE_CHANGED = "usage_mode.changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """An event. It contains ids, codes and amounts, but no names or other customer input: receivers may log it."""

    type: EventType
    occurred_at: datetime
    data: dict[str, Any]


def timestamp(instant: datetime) -> str:
    """An instant as a message writes it: RFC 3339 in UTC."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
