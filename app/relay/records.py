"""A call of the relay as values: what is asked, where it goes, how it ended. They hold no key and no text of a prompt."""

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypeAlias
from uuid import UUID

from app.provider_url.endpoint import ProviderEndpoint
from app.usage_events.records import Outcome, UsageSource
from app.usage_mode.modes import UsageMode

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """What the operator allows. Times are in seconds, sizes in bytes."""

    slots: int = 1000
    slots_per_organization: int = 64
    body_bytes: int = 32 * 1024 * 1024
    body_seconds: float = 300
    bodies_bytes: int = 256 * 1024 * 1024
    bodies_bytes_per_organization: int = 64 * 1024 * 1024
    unread_seconds: float = 120  # how long a client may leave its response unread
    total_seconds: float = 7200
    small_seconds: float = 60  # for requests without a reservation
    drain_seconds: float = 30
    detached_calls: int = 32  # managed calls that are read to their end after the client left
    is_managed_enabled: bool = False


# Longer than any call, so that its reservation does not expire while it runs.
RESERVATION_TTL = timedelta(hours=3)
# A call that no process has reported for so long is lost. Processes report every `HEARTBEAT_SECONDS`.
LOST_AFTER_SECONDS = 120
HEARTBEAT_SECONDS = 15


class Operation(StrEnum):
    """What the relay serves."""

    MESSAGES = "messages"
    COUNT_TOKENS = "count_tokens"
    MODELS = "models"


class EndedBy(StrEnum):
    """Who or what ended a call."""

    COMPLETE = "complete"
    PROVIDER_ERROR = "provider_error"  # a status of 400 or more, or an error event
    PROVIDER_CUT = "provider_cut"  # the connection or the response ended too early
    PROVIDER_SILENT = "provider_silent"
    CLIENT = "client"
    SLOW_CLIENT = "slow_client"
    DRAIN = "drain"
    TOO_LONG = "too_long"
    REFUSED = "refused"  # by the relay, before anything was sent
    FAULT = "fault"  # of the relay


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """The dimensions of the usage that the client names."""

    endpoint_id: str | None = None
    feature: str | None = None
    session_id: str | None = None
    prompt_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRequest:
    """A request for a message. Its id is that of its reservation, and later that of its usage event."""

    id: UUID
    subject: str
    model: str
    max_tokens: int
    input_tokens: int
    is_stream: bool
    dimensions: Dimensions


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A key version, and where its key may be sent. `organization_id` owns the credential."""

    organization_id: str
    credential_id: UUID
    key_version: int
    store_version: int
    endpoint: ProviderEndpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmittedCall:
    """A call with a reservation. In managed mode it names no key: the operator's is found afterwards."""

    organization_id: str
    request: CallRequest
    started_at: datetime
    mode: UsageMode
    credential_id: UUID | None
    key_version: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEnd:
    """How a call ended. `usage` is a usage object in JSON; `refusal_category` is one that the provider bills."""

    call: AdmittedCall
    by: EndedBy
    outcome: Outcome
    usage_source: UsageSource
    usage: bytes
    completed_at: datetime
    model: str | None = None
    provider_request_id: str | None = None
    is_refusal: bool = False
    refusal_category: str | None = None


def counters(*, input_tokens: int = 0, output_tokens: int = 0) -> bytes:
    """A usage object with nothing but these counters."""
    return b'{"input_tokens":%d,"output_tokens":%d}' % (input_tokens, output_tokens)
