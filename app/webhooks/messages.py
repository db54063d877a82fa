"""The messages that webhook endpoints receive. The OpenAPI document describes them from these models."""

from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from app.api.money import Money
from app.api.schemas import KeyVersion, OrganizationId, ResponseModel, Timestamp
from app.core import notifications as n
from app.credentials.validation_results import Reason
from app.usage_mode.modes import UsageMode

Type = n.EventType
OccurredAt = Annotated[
    datetime,
    Field(description="When the event occurred, RFC 3339 in UTC.", examples=["2026-11-23T14:05:06.123456Z"]),
]
Valid = Annotated[Reason, Field(examples=[Reason.OK.value])]
Invalid = Annotated[Reason, Field(examples=[Reason.INVALID_KEY.value])]
NewKeyVersion = Annotated[int, Field(description="The number of the new key.", examples=[2])]


class ThresholdCrossedData(ResponseModel):
    """The limit, and the spend that crossed its threshold."""

    organization_id: OrganizationId
    spend_limit_id: UUID
    threshold: Annotated[int, Field(description="A percentage of the amount.", examples=[80])]
    amount: Annotated[Money, Field(description="The amount of the limit when the threshold was crossed.")]
    spent: Money
    period: Annotated[Literal["day", "month", "total"], Field(description="In UTC.", examples=["month"])]
    period_starts_at: Annotated[
        Timestamp | None,
        Field(description="Null for a limit without a period (`total`).", examples=["2026-11-01T00:00:00Z"]),
    ]


class ThresholdCrossedMessage(ResponseModel):
    """Spend crossed a threshold of a spend limit. Sent once per period, and again after the amount changed."""

    type: Literal[Type.THRESHOLD_CROSSED]
    timestamp: OccurredAt
    data: ThresholdCrossedData


class ValidCredentialData(ResponseModel):
    """The key, and the result of its validation."""

    organization_id: OrganizationId
    credential_id: UUID
    key_version: KeyVersion
    reason: Valid
    checked_at: Timestamp


class CredentialValidMessage(ResponseModel):
    """The active key is valid, and was not before, or has its first definite result."""

    type: Literal[Type.CREDENTIAL_VALID]
    timestamp: OccurredAt
    data: ValidCredentialData


class InvalidCredentialData(ResponseModel):
    """The key, and the result of its validation."""

    organization_id: OrganizationId
    credential_id: UUID
    key_version: KeyVersion
    reason: Invalid
    checked_at: Timestamp


class CredentialInvalidMessage(ResponseModel):
    """The active key is invalid, and was not before, or has its first definite result."""

    type: Literal[Type.CREDENTIAL_INVALID]
    timestamp: OccurredAt
    data: InvalidCredentialData


class RotationActivatedData(ResponseModel):
    """The rotation, and which key it replaced."""

    organization_id: OrganizationId
    credential_id: UUID
    rotation_id: UUID
    key_version: NewKeyVersion
    replaced_key_version: KeyVersion


class RotationActivatedMessage(ResponseModel):
    """The new key of a rotation is active."""

    type: Literal[Type.ROTATION_ACTIVATED]
    timestamp: OccurredAt
    data: RotationActivatedData


class RotationRejectedData(ResponseModel):
    """The rotation, and why its key will not be used."""

    organization_id: OrganizationId
    credential_id: UUID
    rotation_id: UUID
    key_version: NewKeyVersion
    reason: Invalid


class RotationRejectedMessage(ResponseModel):
    """The provider rejected the new key of a rotation, or no result was definite within 24 hours.

    The old key stays active.
    """

    type: Literal[Type.ROTATION_REJECTED]
    timestamp: OccurredAt
    data: RotationRejectedData


class UsageModeChangedData(ResponseModel):
    """The usage mode that is active now."""

    organization_id: OrganizationId
    mode: Annotated[UsageMode, Field(examples=[UsageMode.BYO.value])]
    credential_id: Annotated[
        UUID | None,
        Field(
            description="Null for `managed`, and for BYO without a key.",
            examples=["0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819"],
        ),
    ]
    effective_from: Timestamp


class UsageModeChangedMessage(ResponseModel):
    """Another mode or credential pays, by an immediate switch or because a scheduled one has taken effect."""

    type: Literal[Type.USAGE_MODE_CHANGED]
    timestamp: OccurredAt
    data: UsageModeChangedData


Message = (
    ThresholdCrossedMessage
    | CredentialValidMessage
    | CredentialInvalidMessage
    | RotationActivatedMessage
    | RotationRejectedMessage
    | UsageModeChangedMessage
)


def message_of(event: n.Event) -> Message:
    """The message about an event, as endpoints receive it.

    Raises:
        pydantic.ValidationError: a code of the event is not a value of the API.
    """
    match event:
        case n.ThresholdCrossed():
            return _threshold_crossed(event)
        case n.CredentialResult():
            return _credential_result(event)
        case n.RotationActivated():
            return _rotation_activated(event)
        case n.RotationRejected():
            return _rotation_rejected(event)
        case n.UsageModeChanged():
            return _usage_mode_changed(event)


def _threshold_crossed(event: n.ThresholdCrossed) -> ThresholdCrossedMessage:
    data = {
        "organization_id": event.organization_id,
        "spend_limit_id": event.spend_limit_id,
        "threshold": event.threshold,
        "amount": Money.of(event.amount),
        "spent": Money.of(event.spent),
        "period": event.period,
        "period_starts_at": None
        if event.period_starts_at is None
        else event.period_starts_at.astimezone(UTC),
    }
    return ThresholdCrossedMessage(
        type=Type.THRESHOLD_CROSSED,
        timestamp=event.occurred_at.astimezone(UTC),
        data=ThresholdCrossedData.model_validate(data),
    )


def _credential_result(event: n.CredentialResult) -> CredentialValidMessage | CredentialInvalidMessage:
    occurred_at, checked_at = event.occurred_at.astimezone(UTC), event.checked_at.astimezone(UTC)
    if event.is_valid:
        valid = ValidCredentialData(
            organization_id=event.organization_id,
            credential_id=event.credential_id,
            key_version=event.key_version,
            reason=Reason(event.reason),
            checked_at=checked_at,
        )
        return CredentialValidMessage(type=Type.CREDENTIAL_VALID, timestamp=occurred_at, data=valid)
    invalid = InvalidCredentialData(
        organization_id=event.organization_id,
        credential_id=event.credential_id,
        key_version=event.key_version,
        reason=Reason(event.reason),
        checked_at=checked_at,
    )
    return CredentialInvalidMessage(type=Type.CREDENTIAL_INVALID, timestamp=occurred_at, data=invalid)


def _rotation_activated(event: n.RotationActivated) -> RotationActivatedMessage:
    return RotationActivatedMessage(
        type=Type.ROTATION_ACTIVATED,
        timestamp=event.occurred_at.astimezone(UTC),
        data=RotationActivatedData(
            organization_id=event.organization_id,
            credential_id=event.credential_id,
            rotation_id=event.rotation_id,
            key_version=event.key_version,
            replaced_key_version=event.replaced_key_version,
        ),
    )


def _rotation_rejected(event: n.RotationRejected) -> RotationRejectedMessage:
    return RotationRejectedMessage(
        type=Type.ROTATION_REJECTED,
        timestamp=event.occurred_at.astimezone(UTC),
        data=RotationRejectedData(
            organization_id=event.organization_id,
            credential_id=event.credential_id,
            rotation_id=event.rotation_id,
            key_version=event.key_version,
            reason=Reason(event.reason),
        ),
    )


def _usage_mode_changed(event: n.UsageModeChanged) -> UsageModeChangedMessage:
    return UsageModeChangedMessage(
        type=Type.USAGE_MODE_CHANGED,
        timestamp=event.occurred_at.astimezone(UTC),
        data=UsageModeChangedData(
            organization_id=event.organization_id,
            mode=UsageMode(event.mode),
            credential_id=event.credential_id,
            effective_from=event.effective_from.astimezone(UTC),
        ),
    )
