"""A billing month, in UTC."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime

# The years 2000 to 2099: long before the first and long after the last month that will be billed.
PATTERN = r"^20[0-9]{2}-(0[1-9]|1[0-2])$"


@dataclass(frozen=True, slots=True, order=True)
class BillingMonth:
    """A calendar month in UTC. Ordered by time."""

    year: int
    month: int

    @classmethod
    def parse(cls, text: str) -> "BillingMonth":
        """Parse a text such as `2026-11`. Raises ValueError."""
        if not re.fullmatch(PATTERN, text):
            raise ValueError("not a month")
        return cls(int(text[:4]), int(text[5:]))

    @classmethod
    def of(cls, instant: datetime) -> "BillingMonth":
        utc = instant.astimezone(UTC)
        return cls(utc.year, utc.month)

    @classmethod
    def of_day(cls, day: date) -> "BillingMonth":
        return cls(day.year, day.month)

    @classmethod
    def from_number(cls, number: int) -> "BillingMonth":
        return cls(number // 12, number % 12 + 1)

    @property
    def number(self) -> int:
        """The number of months since the year 0; consecutive months have consecutive numbers."""
        return self.year * 12 + self.month - 1

    @property
    def first_day(self) -> date:
        return date(self.year, self.month, 1)

    @property
    def starts_at(self) -> datetime:
        return datetime(self.year, self.month, 1, tzinfo=UTC)

    @property
    def ends_at(self) -> datetime:
        """The end of the month, exclusive."""
        return self.next.starts_at

    @property
    def next(self) -> "BillingMonth":
        return self.from_number(self.number + 1)

    @property
    def previous(self) -> "BillingMonth":
        return self.from_number(self.number - 1)

    def __str__(self) -> str:
        return f"{self.year:04}-{self.month:02}"
