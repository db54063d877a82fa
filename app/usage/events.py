"""What a client reports of one request to the provider, and what became of it in a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct

from app.usage.anthropic_usage import UsageObject
from app.usage.records import Outcome, UsageSource

LONGEST_EVENT_ID = 64
LONGEST_DIMENSION = 128

EventId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=LONGEST_EVENT_ID,
        description="Unique in the organization for as long as rows are kept. UUIDv7 recommended.",
        examples=["0199a2b4-d1c2-7a3b-8c4d-5e6f70819203"],
    ),
]
_Name = Annotated[str, Meta(min_length=1, max_length=LONGEST_DIMENSION)]


class UsageEvent(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True, gc=False):
    """One request to the provider. Mode and price are not the client's to say."""

    event_id: EventId
    started_at: Annotated[
        datetime,
        Meta(
            tz=True,
            description="At most 5 minutes ahead and 35 days back. Decides mode and price.",
            examples=["2026-11-23T14:05:06.123456Z"],
        ),
    ]
    model: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=LONGEST_DIMENSION,
            description="As the provider answered it.",
            examples=["claude-haiku-5-5"],
        ),
    ]
    outcome: Outcome
    usage: Annotated[UsageObject, Meta(description="Anthropic's usage object, as it came.")]
    usage_source: Annotated[
        UsageSource, Meta(description="`estimated`: the client's own count, as of an aborted stream.")
    ] = UsageSource.REPORTED
    completed_at: Annotated[datetime, Meta(tz=True)] | None = None
    endpoint_id: _Name | None = None
    feature: _Name | None = None
    session_id: _Name | None = None
    prompt_id: _Name | None = None
    credential_id: UUID | None = None
    key_version: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    reservation_id: UUID | None = None
    provider_request_id: _Name | None = None


class EventStatus(StrEnum):
    """What became of an event that was not accepted."""

    DUPLICATE = "duplicate"  # the same event was accepted before
    CONFLICT = "conflict"  # another event was accepted under this id
    REJECTED = "rejected"


class EventCode(StrEnum):
    """Why an event was not accepted. Stable; `invalid_` followed by the field stands for a wrong value."""

    DUPLICATE_EVENT = "duplicate_event"
    EVENT_ID_CONFLICT = "event_id_conflict"
    MALFORMED_JSON = "malformed_json"
    INVALID_EVENT = "invalid_event"  # no JSON object
    UNKNOWN_FIELD = "unknown_field"
    REQUIRED = "required"
    LOOKS_LIKE_KEY = "looks_like_key"
    STARTED_AT_TOO_OLD = "started_at_too_old"
    STARTED_AT_IN_FUTURE = "started_at_in_future"
    COMPLETED_BEFORE_STARTED = "completed_before_started"
    COMPLETED_AT_IN_FUTURE = "completed_at_in_future"
    CREDENTIAL_ID_REQUIRED = "credential_id_required"  # a key version without its credential
    CREDENTIAL_NOT_FOUND = "credential_not_found"
    KEY_VERSION_NOT_FOUND = "key_version_not_found"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotAccepted:
    """One event that was not accepted. `event_id` is None where it is none, or must not be repeated."""

    index: int
    event_id: str | None
    status: EventStatus
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBatch:
    """Events that are well-formed, with the digest of their content and where they stood in the request."""

    events: Sequence[UsageEvent]
    digests: Sequence[bytes]
    indexes: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """What became of a batch: committed, every event either accepted or listed."""

    accepted: int
    not_accepted: Sequence[NotAccepted]
