"""Usage events as clients report them, and the result of each event in a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct

from app.usage_events.anthropic_usage import MAX_SHORT_TEXT, UsageObject
from app.usage_events.records import Outcome, UsageSource

MAX_EVENT_ID_LENGTH = 64
MAX_DIMENSION_LENGTH = 128

EventId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_EVENT_ID_LENGTH,
        description="Unique in the organization while rows are retained. UUIDv7 is recommended.",
        examples=["0199a2b4-d1c2-7a3b-8c4d-5e6f70819203"],
    ),
]
_DimensionText = Annotated[str, Meta(min_length=1, max_length=MAX_DIMENSION_LENGTH)]


class UsageEvent(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True, gc=False):
    """One request to the provider. The service determines the usage mode and the price."""

    event_id: EventId
    started_at: Annotated[
        datetime,
        Meta(
            tz=True,
            description="At most 5 minutes in the future and 35 days in the past. Determines usage mode and price.",
            examples=["2026-11-23T14:05:06.123456Z"],
        ),
    ]
    model: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=MAX_DIMENSION_LENGTH,
            description="The model in the provider's response.",
            examples=["claude-haiku-5-5"],
        ),
    ]
    outcome: Outcome
    usage: Annotated[UsageObject, Meta(description="Anthropic's usage object, unchanged.")]
    usage_source: Annotated[
        UsageSource,
        Meta(
            description="`estimated`: the client counted the tokens itself, for example after an aborted stream."
        ),
    ] = UsageSource.REPORTED
    completed_at: Annotated[datetime, Meta(tz=True)] | None = None
    endpoint_id: _DimensionText | None = None
    feature: _DimensionText | None = None
    session_id: _DimensionText | None = None
    prompt_id: _DimensionText | None = None
    credential_id: UUID | None = None
    key_version: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    reservation_id: UUID | None = None
    provider_request_id: _DimensionText | None = None
    corrects: (
        Annotated[
            EventId,
            Meta(
                description="The event that this one replaces, for example after a partial count. An event can be corrected"
                " once, within 35 days of its start, in the same usage mode. A correction cannot be corrected."
            ),
        ]
        | None
    ) = None
    stop_reason: (
        Annotated[
            str,
            Meta(
                max_length=MAX_SHORT_TEXT,
                description="The response's `stop_reason`. A `refusal` without output is free unless its category is billed.",
                examples=["end_turn"],
            ),
        ]
        | None
    ) = None
    refusal_category: (
        Annotated[
            str,
            Meta(
                max_length=MAX_SHORT_TEXT,
                description="The category in the response's `stop_details`, if a model refused.",
                examples=["bio"],
            ),
        ]
        | None
    ) = None


class EventStatus(StrEnum):
    """The status of an event that was not accepted."""

    DUPLICATE = "duplicate"  # the same event was accepted before
    CONFLICT = "conflict"  # another event was accepted under this id, or as the correction of the same event
    REJECTED = "rejected"


class EventCode(StrEnum):
    """Why an event was not accepted. Codes are stable. `invalid_` plus a field name means an invalid value."""

    DUPLICATE_EVENT = "duplicate_event"
    EVENT_ID_CONFLICT = "event_id_conflict"
    MALFORMED_JSON = "malformed_json"
    INVALID_EVENT = "invalid_event"  # not a JSON object
    UNKNOWN_FIELD = "unknown_field"
    REQUIRED = "required"
    EVENT_TOO_LARGE = "event_too_large"
    TOO_MANY_ITERATIONS = (
        "too_many_iterations"  # of all events of the batch together; send the event in another one
    )
    LOOKS_LIKE_KEY = "looks_like_key"
    INVALID_USAGE = "invalid_usage"  # `fields` names what is wrong in the usage object
    USAGE_UNRECOGNIZED = "usage_unrecognized"  # the usage object has no token counter of Anthropic's
    STARTED_AT_TOO_OLD = "started_at_too_old"
    STARTED_AT_IN_FUTURE = "started_at_in_future"
    COMPLETED_BEFORE_STARTED = "completed_before_started"
    COMPLETED_AT_IN_FUTURE = "completed_at_in_future"
    CREDENTIAL_ID_REQUIRED = "credential_id_required"  # a key version without a credential id
    CREDENTIAL_NOT_FOUND = "credential_not_found"
    KEY_VERSION_NOT_FOUND = "key_version_not_found"
    CORRECTS_ITSELF = "corrects_itself"
    CORRECTED_EVENT_NOT_FOUND = "corrected_event_not_found"
    CORRECTED_EVENT_TOO_OLD = "corrected_event_too_old"
    CORRECTED_EVENT_IS_CORRECTION = "corrected_event_is_correction"  # a correction cannot be corrected
    CORRECTED_USAGE_MODE_DIFFERS = "corrected_usage_mode_differs"  # usage never moves to the other mode
    CORRECTED_RESERVATION_DIFFERS = (
        "corrected_reservation_differs"  # omit the reservation, or name the same one
    )
    EVENT_ALREADY_CORRECTED = "event_already_corrected"  # with status `conflict`: by another event


@dataclass(frozen=True, slots=True, kw_only=True)
class NotAccepted:
    """One event that was not accepted. `event_id` is `None` if it is missing, invalid or looks like a key.

    `fields` names the fields that are missing or caused the rejection, by names that are known beforehand.
    """

    index: int
    event_id: str | None
    status: EventStatus
    code: str
    fields: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBatch:
    """Well-formed events, each with the digest of its content and its index in the request.

    `usages` are the usage objects as they were sent; None for one that must not be stored. `flags` record what was
    left out when they were decoded.
    """

    events: Sequence[UsageEvent]
    digests: Sequence[bytes]
    indexes: Sequence[int]
    usages: Sequence[bytes | None]
    flags: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """The result of a committed batch: every event is either accepted or in `not_accepted`."""

    accepted: int
    not_accepted: Sequence[NotAccepted]
