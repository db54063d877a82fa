"""Reservations: spend that is put aside before a request is made."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from app.spend_limits.limits import Spender

DEFAULT_TTL = timedelta(minutes=10)
LONGEST_TTL = timedelta(hours=24)


class ReservationState(StrEnum):
    """An open one is held against limits, past its time to live too: its request may have been made."""

    OPEN = "open"
    SETTLED = "settled"  # its event came
    RELEASED = "released"  # no request was made


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """`amount` is in pico-USD, None where no price is known. It is counted at `created_at`, under that instant's mode."""

    id: UUID
    spender: Spender
    amount: int | None
    state: ReservationState
    created_at: datetime
    created_by: str
    expires_at: datetime

    @property
    def held(self) -> int:
        return self.amount or 0
