"""Leases on the wire. The wrapping token is a secret; the key itself never passes through here."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from app.domain.credentials import AuthStyle
from app.schemas.base import Instant, RequestModel, ResponseModel
from app.services.leases import LONGEST_TTL
from app.services.leases import Lease as LeaseRecord


class LeaseCreate(RequestModel):
    """How long the token may be opened."""

    ttl_seconds: Annotated[int, Field(ge=1, le=int(LONGEST_TTL.total_seconds()))] = 60


class Lease(ResponseModel):
    """Unwrap the token at `vault_address`, once, after checking that it was created at `creation_path`."""

    lease_id: UUID
    wrapping_token: Annotated[
        str, Field(description="Opens once. Holds the key, base64-encoded, as `plaintext`.")
    ]
    expires_at: Instant
    vault_address: str
    creation_path: str
    encoding: Literal["base64"]
    credential_id: UUID
    key_version: int
    messages_url: str
    auth_style: AuthStyle
    workspace_id: str | None
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
            messages_url=lease.destination.messages_url,
            auth_style=lease.auth_style,
            workspace_id=lease.destination.workspace_id,
            usage_mode="byo",
        )
