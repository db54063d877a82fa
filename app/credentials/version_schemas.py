"""Wire models of key versions, masked."""

from typing import Annotated, Literal

from pydantic import Field

from app.api.schemas import KeyVersion, ResponseModel, Subject, Timestamp
from app.credentials.records import PUBLIC_VERSION_STATE, VersionRecord
from app.credentials.validation_result_schemas import CredentialVerdict
from app.provider_url.endpoint import AuthStyle


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
