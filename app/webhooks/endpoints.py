"""Webhooks: who is told, and what is under way to them."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

MOST_ENDPOINTS = 10

# After the n-th attempt that failed, the next follows so much later; after the last, none.
PAUSES = (
    timedelta(seconds=5),
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)


class EndpointState(StrEnum):
    """Only active ones are shown and delivered to."""

    INTENT = "intent"  # its secret is on the way into the store
    ACTIVE = "active"
    ABANDONED = "abandoned"  # its writer vanished
    DELETING = "deleting"  # its secret is on the way out


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookEndpoint:
    """Where deliveries go. The signing secret rests in the secret store."""

    id: UUID
    url: str
    state: EndpointState
    intent_id: UUID
    created_at: datetime
    created_by: str
    store_version: int


class EventType(StrEnum):
    """What endpoints are told about."""

    THRESHOLD_CROSSED = "spend_limit.threshold_crossed"


class DeliveryState(StrEnum):
    """How far a delivery got."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"  # every attempt failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message to one endpoint. `body` is what is signed and sent, byte for byte, at every attempt."""

    id: UUID
    url: str
    endpoint_id: UUID
    body: str
    attempts: int
    store_version: int  # of the endpoint's secret

    @property
    def message_id(self) -> str:
        """The same at every attempt, so that a receiver can tell a repetition."""
        return f"msg_{self.id.hex}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What to tell every endpoint. Ids and amounts only: no names, nothing that a customer typed."""

    type: EventType
    occurred_at: datetime
    data: dict[str, Any]


def pause_after(attempts: int) -> timedelta | None:
    """How long to wait after so many failed attempts; None: give up."""
    return PAUSES[attempts - 1] if attempts <= len(PAUSES) else None
