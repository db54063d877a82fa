"""Reservations: spend that is reserved before a request is made."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from app.spend_limits.limits import Spender

DEFAULT_TTL = timedelta(minutes=10)
MAX_TTL = timedelta(hours=24)


class StoredReservationState(StrEnum):
    """An open reservation counts against limits even after it has expired, because its request may have been made."""

    OPEN = "open"
    UNPRICED = "unpriced"  # its usage event was ingested, but has no price yet: still charged
    SETTLED = "settled"  # its usage event was ingested
    RELEASED = "released"  # no request was made


class HeldState(StrEnum):
    """How a reservation that is still charged is listed."""

    OPEN = "open"
    EXPIRED = "expired"  # open, and its time to live has passed
    UNPRICED = "unpriced"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """A reservation. `amount` is in pico-USD; `None` if the price is not known.

    It counts in the period of `created_at`, under the usage mode that was active then.
    """

    id: UUID
    spender: Spender
    amount: int | None
    state: StoredReservationState
    created_at: datetime
    created_by: str
    expires_at: datetime
    # Whether it is open and its time to live had passed when it was read.
    has_expired: bool = False

    @property
    def reserved_amount(self) -> int:
        """What it adds to the counters, in pico-USD."""
        return self.amount or 0
