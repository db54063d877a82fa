"""Use of the provider: what an event says, and what the ledger keeps of it for good."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntFlag, StrEnum
from typing import Protocol
from uuid import UUID

from app.usage_mode.modes import UsageMode

# How far from the server's clock an event may have started.
FURTHEST_AHEAD = timedelta(minutes=5)
FURTHEST_BACK = timedelta(days=35)


class Outcome(StrEnum):
    """How the request to the provider ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABORTED = "aborted"


class UsageSource(StrEnum):
    """Whether the provider reported the tokens, or the client estimated them (an aborted stream)."""

    REPORTED = "reported"
    ESTIMATED = "estimated"


class UsageFlag(IntFlag):
    """What a reader of a row should know about its mode or its cost. Stored as one number."""

    NONE = 0
    MODE_MISMATCH = 1  # managed at its instant, yet it names a credential: billed 0
    CACHE_TTL_ASSUMED = 2  # cache writes without a TTL split, priced at the 5-minute rate
    TIER_ASSUMED = 4  # a tier without a public price (priority), priced as standard
    MIXED_MODELS = 8  # iterations by other models: the estimate is of low precision
    COMPACTION_ADDED = 16  # compaction iterations, which the top-level counters leave out, were added
    GEOGRAPHY_ASSUMED = 32  # a geography without a known price, priced as global
    SPEED_ASSUMED = 64  # a speed without a known price, priced as standard


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUsage:
    """Tokens of one request by class of price, disjoint: their sum is everything the provider counted.

    `uncached_input` is Anthropic's `input_tokens`; cache writes are split by their time to live.
    """

    uncached_input: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    cache_read: int = 0
    output: int = 0
    web_search_requests: int = 0

    @property
    def prompt(self) -> int:
        """What decides the prompt-length band."""
        return self.uncached_input + self.cache_write_5m + self.cache_write_1h + self.cache_read


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUsage:
    """What is priced: tokens of one model under the conditions that its price depends on.

    `service_tier`, `speed` and `inference_geo` are as the provider answered them; None where it said nothing.
    """

    model: str
    tokens: TokenUsage
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """One row of the ledger. `cost` and `billed` are pico-USD.

    `cost` is None where no price is known: never 0, never a guess. `correction` is 0 for the event
    itself and counts the rows that correct it (same event_id, no tokens, only what the cost lacked).
    """

    started_at: datetime
    event_id: str
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


class Charge(Protocol):
    """What limits have to know of a row of the ledger."""

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
