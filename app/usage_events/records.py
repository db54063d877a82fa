"""Domain types of usage: tokens, priced parts and ledger rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntFlag, StrEnum
from typing import Any, Protocol, Self
from uuid import UUID

from msgspec import Struct

from app.usage_mode.modes import UsageMode

# How far before and after the server's clock an event may start.
MAX_EVENT_LEAD = timedelta(minutes=5)
MAX_EVENT_AGE = timedelta(days=35)


class Outcome(StrEnum):
    """How the request to the provider ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABORTED = "aborted"


class UsageSource(StrEnum):
    """Who counted the tokens: the provider, or the client (for example after an aborted stream)."""

    REPORTED = "reported"
    ESTIMATED = "estimated"


class UsageFlag(IntFlag):
    """Assumptions about the mode or the cost of a row. Stored as one integer."""

    NONE = 0
    MODE_MISMATCH = 1  # the mode was managed, but the event has a credential id: billed 0
    CACHE_TTL_ASSUMED = 2  # cache writes without a TTL split, priced at the 5-minute rate
    TIER_ASSUMED = 4  # a tier without a public price (priority), priced as standard
    MIXED_MODELS = 8  # several models worked on the request: each one has its own row
    COMPACTION_ADDED = 16  # compaction iterations, which the top-level counters leave out, were added
    GEOGRAPHY_ASSUMED = 32  # a geography without a known price, priced as global
    SPEED_ASSUMED = 64  # a speed without a known price, priced as standard
    REFUSAL = 128  # refused before any output: free unless the provider bills the refusal's category
    BAND_ASSUMED = (
        256  # only the total of several possible prompts is known, so its length selected the price band
    )
    USAGE_FIELD_IGNORED = 512  # a field of the usage object has an unknown form or meaning and was left out
    USAGE_NOT_KEPT = (
        1024  # the usage object is too large, or contains what looks like a key, so it is not stored
    )
    PROVIDER_REQUEST_REPEATED = (
        2048  # another event has the same provider request id, so one may be a repetition
    )


class TokenUsage(Struct, frozen=True, kw_only=True, gc=False):
    """Tokens of one request by price class. The classes are disjoint; their sum is what the provider counted.

    `uncached_input` is Anthropic's `input_tokens`. Cache writes are split by time to live.
    """

    uncached_input: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    cache_read: int = 0
    output: int = 0
    web_search_requests: int = 0

    @classmethod
    def of_columns(cls, row: Mapping[str, Any]) -> Self:
        """Read the columns of a ledger row, or of sums over them, which PostgreSQL returns as numeric."""
        return cls(
            uncached_input=int(row["uncached_input_tokens"]),
            cache_write_5m=int(row["cache_write_5m_tokens"]),
            cache_write_1h=int(row["cache_write_1h_tokens"]),
            cache_read=int(row["cache_read_tokens"]),
            output=int(row["output_tokens"]),
            web_search_requests=int(row["web_search_requests"]),
        )

    @property
    def prompt(self) -> int:
        """The length of the prompt, which selects the price band."""
        return self.uncached_input + self.cache_write_5m + self.cache_write_1h + self.cache_read


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUsage:
    """Tokens of one model, with the conditions that its price depends on.

    `service_tier`, `speed` and `inference_geo` are from the provider's response; None if it did not contain them.
    `calls` are the single calls that `tokens` is the total of; empty if they are not known. `is_free` means that the
    provider does not bill the tokens.
    """

    model: str
    tokens: TokenUsage
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    calls: tuple[TokenUsage, ...] = ()
    is_free: bool = False


class LedgerRow(Struct, frozen=True, kw_only=True, gc=False):
    """One row of the ledger. `cost` and `billed` are pico-USD.

    `cost` is `None` if no price is known; it is never 0 and never a guess in that case. `part` is 0 for the model that
    served the request, and 1, 2, ... for the other models that worked on it. `correction` is 0 for the part itself and
    1, 2, ... for its price corrections, which have no tokens and only the missing cost. If another event corrects the
    event, the rows -1, -2, ... cancel the rows 0, 1, ...: the same row with negative tokens and amounts.

    `corrects` is the event that a correcting event replaces. `corrected_by` of a cancelling row is the correcting event.
    """

    started_at: datetime
    event_id: str
    part: int = 0
    correction: int
    completed_at: datetime | None
    ingested_at: datetime
    mode: UsageMode
    credential_id: UUID | None
    key_version: int | None
    model: str
    endpoint_id: str | None
    feature: str | None
    session_id: str | None
    prompt_id: str | None
    outcome: Outcome
    usage_source: UsageSource
    service_tier: str | None
    speed: str | None
    inference_geo: str | None
    tokens: TokenUsage
    cost: int | None
    billed: int
    price_version: str | None
    flags: UsageFlag
    provider_request_id: str | None
    reservation_id: UUID | None
    corrects: str | None = None
    corrected_by: str | None = None


class Charge(Protocol):
    """The values of a ledger row that spend limits need."""

    @property
    def started_at(self) -> datetime: ...
    @property
    def correction(self) -> int: ...
    @property
    def mode(self) -> UsageMode: ...
    @property
    def model(self) -> str: ...
    @property
    def endpoint_id(self) -> str | None: ...
    @property
    def feature(self) -> str | None: ...
    @property
    def cost(self) -> int | None: ...
    @property
    def billed(self) -> int: ...
    @property
    def reservation_id(self) -> UUID | None: ...


def cancelled_row(correction: int) -> int | None:
    """Return the number of the row that a row with this number cancels. None if it cancels none."""
    return -1 - correction if correction < 0 else None


def unpriced_change(row: Charge) -> int:
    """Return how a row changes the number of parts without a price.

    The first price correction adds the cost that the part lacked.
    """
    cancelled = cancelled_row(row.correction)
    number, sign = (row.correction, 1) if cancelled is None else (cancelled, -1)
    if number == 0:
        return sign if row.cost is None else 0
    return -sign if number == 1 and row.cost is not None else 0
