"""Response models of key versions, masked, and of the validation results that they and credentials contain."""

from typing import Annotated, Literal

from pydantic import Field

from app.api.schemas import KeyVersion, ResponseModel, Subject, Timestamp, unvalidated
from app.credentials.records import PUBLIC_VERSION_STATE, VersionRecord
from app.credentials.validation_results import Reason, ValidationResult, ValidationStatus
from app.provider_url.auth_style import other_auth_style
from app.provider_url.endpoint import AuthStyle, ProviderEndpoint

Status = Annotated[ValidationStatus, Field(examples=[ValidationStatus.VALID.value])]
MaybeReason = Annotated[Reason | None, Field(description="Null while pending.", examples=[Reason.OK.value])]
CheckedAt = Annotated[
    Timestamp | None, Field(description="Null while pending.", examples=["2026-11-23T14:05:06.123456Z"])
]
ProviderRequestId = Annotated[
    str | None,
    Field(
        description="Anthropic's id of the validation request. Quote it to Anthropic's support. Null for other providers.",
        examples=["req_011CSHoEeqs5C35K2UUqR7Fy"],
    ),
]


OtherAuthStyle = Annotated[
    AuthStyle | None,
    Field(
        description="Set if a custom provider rejected the key as `invalid_key`: the auth style that was not tried. The header"
        " may be the cause, and the key may be right.",
        examples=[None],
    ),
]
Advice = Annotated[
    str | None, Field(description="What to try next, for the admin. Null: nothing.", examples=[None])
]

_TRY_OTHER_AUTH_STYLE = {
    AuthStyle.BEARER: (
        "The provider rejected the key in the header `x-api-key`. If the key is right, the provider may expect it in"
        " `Authorization: Bearer`: rotate to the same key with `auth_style` `bearer`."
    ),
    AuthStyle.X_API_KEY: (
        "The provider rejected the key in the header `Authorization: Bearer`. If the key is right, the provider may"
        " expect it in `x-api-key`: rotate to the same key with `auth_style` `x_api_key`."
    ),
}


# Lists compare it for every row; on Python 3.11 looking up a member of an enum runs code.
_INVALID_KEY = Reason.INVALID_KEY


def advice_on_auth_style(other: AuthStyle | None) -> str | None:
    """What to try if the header may be why a custom provider rejected a key."""
    return None if other is None else _TRY_OTHER_AUTH_STYLE[other]


class LatestAttempt(ResponseModel):
    """The result of the most recent validation, also if it is indeterminate."""

    status: Status
    reason: MaybeReason
    checked_at: CheckedAt

    @classmethod
    def of(cls, result: ValidationResult) -> "LatestAttempt":
        return _latest_attempt(status=result.status, reason=result.reason, checked_at=result.checked_at)


_latest_attempt = unvalidated(LatestAttempt)


class CredentialVerdict(ResponseModel):
    """The last definite validation result of a key version.

    It is `pending` or `indeterminate` only as long as no validation of this version had a definite result.
    """

    status: Status
    reason: MaybeReason
    checked_at: CheckedAt
    key_version: KeyVersion
    provider_request_id: ProviderRequestId
    latest: LatestAttempt
    other_auth_style: OtherAuthStyle
    message: Advice

    @classmethod
    def of(
        cls,
        result: ValidationResult,
        latest: ValidationResult,
        key_version: int,
        endpoint: ProviderEndpoint,
    ) -> "CredentialVerdict":
        is_refused = result.reason is _INVALID_KEY or latest.reason is _INVALID_KEY
        other = other_auth_style(endpoint) if is_refused else None
        return _validation_of_credential(
            status=result.status,
            reason=result.reason,
            checked_at=result.checked_at,
            key_version=key_version,
            provider_request_id=result.provider_request_id,
            latest=LatestAttempt.of(latest),
            other_auth_style=other,
            message=advice_on_auth_style(other),
        )


_validation_of_credential = unvalidated(CredentialVerdict)


class PreviousVersion(ResponseModel):
    """The key version that a rollback would restore."""

    key_version: KeyVersion
    state: Literal["previous"] = "previous"
    retires_at: Timestamp | None
    last_used_at: Timestamp | None
    safe_to_revoke: Annotated[
        bool,
        Field(
            description="Whether the key can be revoked at the provider without breaking a consumer: all leases"
            " from before the rotation have expired, no validation or relayed call is in progress, and no later use is recorded.",
            examples=[True],
        ),
    ]


class CredentialVersion(ResponseModel):
    """One key version: its state, endpoint and validation result, and who created it and when."""

    key_version: KeyVersion
    state: Annotated[
        Literal["pending", "active", "previous", "rejected", "destroyed"], Field(examples=["active"])
    ]
    key_hint: Annotated[str | None, Field(examples=["sk-ant-api03-R2D...igAA"])]
    fingerprint: Annotated[
        str, Field(examples=["v1:9f2c61d0c5a84a6e2f37b9d4e15a0c83b7f6d2948e01c35a7b6f90d2e4c81a57"])
    ]
    base_url: str | None
    messages_url: Annotated[str, Field(examples=["https://api.anthropic.com/v1/messages"])]
    auth_style: AuthStyle
    workspace_id: str | None
    validation: CredentialVerdict
    created_at: Timestamp
    created_by: Subject
    activated_at: Annotated[Timestamp | None, Field(examples=["2026-11-23T14:05:06.123456Z"])]
    retires_at: Timestamp | None
    destroyed_at: Timestamp | None
    last_used_at: Timestamp | None

    @classmethod
    def of(cls, record: VersionRecord) -> "CredentialVersion":
        return cls.model_validate(
            {
                "key_version": record.key_version,
                "state": PUBLIC_VERSION_STATE[record.state],
                "key_hint": record.key_hint,
                "fingerprint": record.fingerprint,
                "base_url": record.endpoint.base_url,
                "messages_url": record.endpoint.messages_url,
                "auth_style": record.endpoint.auth_style,
                "workspace_id": record.endpoint.workspace_id,
                "validation": CredentialVerdict.of(
                    record.result, record.latest, record.key_version, record.endpoint
                ),
                "created_at": record.created_at,
                "created_by": record.created_by,
                "activated_at": record.activated_at,
                "retires_at": record.retires_at,
                "destroyed_at": record.destroyed_at,
                "last_used_at": record.last_used_at,
            }
        )
