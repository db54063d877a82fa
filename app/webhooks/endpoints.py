"""Webhook endpoints, and deliveries with their retry schedule."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

MAX_ENDPOINTS = 10
# How many deliveries of one endpoint may be pending. The claims of all organizations walk past them. Beyond it, further
# messages to it are dropped: its receiver has been down for days, or it takes messages slower than they are caused.
MAX_PENDING = 5_000

# The delay before the next attempt, by the number of failed attempts. After the last one there are no more attempts.
RETRY_DELAYS = (
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
    """The state of an endpoint. Only active endpoints are listed and receive deliveries."""

    INTENT = "intent"  # its secret is being written to the store
    ACTIVE = "active"
    ABANDONED = "abandoned"  # its writer crashed
    DELETING = "deleting"  # its secret is being destroyed


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookEndpoint:
    """The target of deliveries. Its signing secret is in the secret store."""

    id: UUID
    url: str
    state: EndpointState
    intent_id: UUID
    created_at: datetime
    created_by: str
    store_version: int


class DeliveryState(StrEnum):
    """The state of a delivery."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"  # every attempt failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message to one endpoint. Each attempt signs and sends exactly the bytes of `body`."""

    id: UUID
    url: str
    endpoint_id: UUID
    body: str
    attempts: int
    store_version: int  # of the endpoint's signing secret

    @property
    def message_id(self) -> str:
        """The same for every attempt, so that a receiver can recognize duplicates."""
        return f"msg_{self.id.hex}"


def retry_delay_after(attempts: int) -> timedelta | None:
    """Return the delay before the next attempt, or `None` after the last attempt."""
    return RETRY_DELAYS[attempts - 1] if attempts <= len(RETRY_DELAYS) else None
