"""Request and response bodies of leases. The wrapping token is a secret; the key itself is not in the response."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from app.api.schemas import KeyVersion, RequestModel, ResponseModel, Timestamp
from app.leases.service import MAX_TTL
from app.leases.service import Lease as LeaseRecord
from app.provider_url.endpoint import AuthStyle


class LeaseCreate(RequestModel):
    """`ttl_seconds`: how long the token can be unwrapped."""

    ttl_seconds: Annotated[int, Field(strict=True, ge=1, le=int(MAX_TTL.total_seconds()))] = 60


class Lease(ResponseModel):
    """Unwrap the token once, at `vault_address`, after checking that Vault created it at `creation_path`."""

    lease_id: UUID
    wrapping_token: Annotated[
        str,
        Field(
            description="Can be unwrapped once. Holds the base64-encoded key as `plaintext`.",
            examples=["hvs.CAESIExample"],
        ),
    ]
    expires_at: Timestamp
    vault_address: Annotated[str, Field(examples=["https://vault.example.com:8200"])]
    creation_path: Annotated[str, Field(examples=["byok-transit/decrypt/org_acme"])]
    encoding: Literal["base64"]
    credential_id: UUID
    key_version: KeyVersion
    messages_url: Annotated[str, Field(examples=["https://api.anthropic.com/v1/messages"])]
    auth_style: Annotated[AuthStyle, Field(examples=[AuthStyle.X_API_KEY.value])]
    workspace_id: Annotated[str | None, Field(examples=[None])]
    usage_mode: Literal["byo"]

    @classmethod
    def of(cls, lease: LeaseRecord) -> "Lease":
        return cls(
            lease_id=lease.id,
            wrapping_token=lease.wrapping_token,
            expires_at=lease.expires_at,
            vault_address=lease.vault_address,
            creation_path=lease.creation_path,
            encoding="base64",
            credential_id=lease.credential_id,
            key_version=lease.key_version,
            messages_url=lease.endpoint.messages_url,
            auth_style=lease.auth_style,
            workspace_id=lease.endpoint.workspace_id,
            usage_mode="byo",
        )
