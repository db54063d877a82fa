"""Credentials on the wire. Only `CredentialCreate` has a field for a key, and it never goes out."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from app.api.schemas import (
    Instant,
    KeyVersion,
    OrganizationId,
    RequestModel,
    ResponseModel,
    Subject,
    without_default,
)
from app.api.text import has_controls, is_blank
from app.core.api_key import MAX_LENGTH, ApiKey, looks_like_key
from app.core.clock import now
from app.core.errors import InvalidInput
from app.credentials.deletion import DeletionReceipt as Receipt
from app.credentials.records import CredentialRecord
from app.credentials.records import CredentialState as State
from app.credentials.revocation import is_safe_to_revoke
from app.credentials.service import NewCredential
from app.credentials.verdict_schemas import CredentialVerdict
from app.credentials.version_schemas import PreviousVersion
from app.provider_url.endpoint import AuthStyle
from app.provider_url.url import OptionalProviderURL

# An alias with a name of its own, so that generated clients have one type for it.
CredentialState = TypeAliasType("CredentialState", Literal["active", "disabled", "deleted"])

_PUBLIC_STATE: dict[State, CredentialState] = {
    State.ACTIVE: "active",
    State.DISABLED: "disabled",
    State.DELETING: "deleted",
    State.DELETED: "deleted",
}


def _readable(label: str) -> str:
    if has_controls(label):
        raise PydanticCustomError("label_has_controls", "The label holds control or invisible characters.")
    if is_blank(label):
        raise PydanticCustomError("label_blank", "The label is blank.")
    return label


Label = Annotated[
    str,
    Field(
        min_length=1,
        max_length=80,
        description="Helps future billing admins identify the key. No control characters.",
        examples=["Acme production"],
    ),
    AfterValidator(_readable),
]


ApiKeyText = Annotated[
    SecretStr,
    Field(
        description="The key, exactly as the provider shows it. Write-only: no answer ever has it.",
        examples=["sk-ant-api03-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE"],
        json_schema_extra={"writeOnly": True, "minLength": 1, "maxLength": MAX_LENGTH},
    ),
]
KeyHint = Annotated[
    str | None,
    Field(
        description="As Anthropic's console shows it; null for keys under 40 characters.",
        examples=["sk-ant-api03-R2D...igAA"],
    ),
]


# A key of a compatible provider may be as short as a word, and then a label may hold it by chance.
_RECOGNIZABLE = 8


def refuse_key_in(field: str, value: str | None, key: str = "") -> None:
    """Refuse a key pasted where it would be kept in clear and shown to others.

    Raises:
        InvalidInput
    """
    holds_it = len(key) >= _RECOGNIZABLE and key in (value or "")
    if value and (looks_like_key(value) or holds_it):
        raise InvalidInput.of(
            field, "looks_like_key", "This field holds a key. Paste the key only into api_key."
        )


class CredentialCreate(RequestModel):
    """A key to keep, with where it may be sent."""

    provider: Literal["anthropic"] = "anthropic"
    label: Label
    api_key: ApiKeyText
    base_url: Annotated[
        OptionalProviderURL,
        Field(
            description="HTTPS base URL of a compatible deployment; null or empty: Anthropic's own endpoint."
        ),
    ] = None
    auth_style: Annotated[
        AuthStyle | None, Field(description="How the key travels; null: chosen by the provider's host.")
    ] = None
    workspace_id: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z0-9_-]{1,100}$",
            description="Needed by keys that are not scoped to a workspace.",
        ),
    ] = None
    probe_model: Annotated[
        str | None,
        Field(pattern=r"^[A-Za-z0-9._:/@-]{1,200}$", description="Model for checking a custom endpoint."),
    ] = None

    def to_command(self) -> NewCredential:
        """What was entered, checked.

        Raises:
            InvalidInput: the key stands in a field that is shown again.
            KeyRefused: the text cannot be a key.
        """
        text = self.api_key.get_secret_value()
        key = ApiKey.parse(text, custom_destination=self.base_url is not None)
        for name in ("label", "workspace_id", "probe_model", "base_url"):
            refuse_key_in(name, getattr(self, name), text)
        return NewCredential(
            label=self.label,
            key=key,
            base_url=self.base_url,
            auth_style=self.auth_style,
            workspace_id=self.workspace_id,
            probe_model=self.probe_model,
        )


_BOUND_TO_THE_KEY = ("base_url", "auth_style", "workspace_id", "probe_model")


class CredentialUpdate(RequestModel):
    """A JSON merge patch. Only the label can be patched: a destination is bound to its key."""

    label: Annotated[Label, Field(json_schema_extra=without_default)] = ""

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_bound(cls, body: object) -> object:
        if isinstance(body, dict):
            for name in _BOUND_TO_THE_KEY:
                if name in body:
                    raise InvalidInput.of(
                        name,
                        "destination_is_bound",
                        "A destination belongs to its key: it changes only by a rotation that brings the key again.",
                    )
        return body

    @model_validator(mode="after")
    def _refuse_key(self) -> "CredentialUpdate":
        refuse_key_in("label", self.label)
        return self


class Credential(ResponseModel):
    """A credential as anybody may see it: masked."""

    id: UUID
    organization_id: OrganizationId
    provider: Annotated[str, Field(examples=["anthropic"])]
    label: Annotated[str, Field(examples=["Acme production"])]
    state: CredentialState
    key_hint: KeyHint
    fingerprint: Annotated[
        str,
        Field(
            description="Keyed digest: the same key in this organization has the same one.",
            examples=["v1:9f2c61d0c5a84a6e2f37b9d4e15a0c83b7f6d2948e01c35a7b6f90d2e4c81a57"],
        ),
    ]
    key_version: KeyVersion
    base_url: str | None
    messages_url: Annotated[str, Field(examples=["https://api.anthropic.com/v1/messages"])]
    auth_style: AuthStyle
    workspace_id: str | None
    probe_model: str | None
    validation: CredentialVerdict
    previous: PreviousVersion | None
    created_at: Instant
    created_by: Subject
    updated_at: Instant
    rotated_at: Instant | None
    last_used_at: Instant | None

    @classmethod
    def of(cls, record: CredentialRecord) -> "Credential":
        current, previous = record.current, record.previous
        return cls(
            id=record.id,
            organization_id=record.organization_id,
            provider=record.provider,
            label=record.label,
            state=_PUBLIC_STATE[record.state],
            key_hint=current.key_hint,
            fingerprint=current.fingerprint,
            key_version=current.key_version,
            base_url=current.destination.base_url,
            messages_url=current.destination.messages_url,
            auth_style=current.destination.auth_style,
            workspace_id=current.destination.workspace_id,
            probe_model=current.destination.probe_model,
            validation=CredentialVerdict.of(current.verdict, current.latest, current.key_version),
            previous=None
            if previous is None
            else PreviousVersion(
                key_version=previous.key_version,
                retires_at=previous.retires_at,
                last_used_at=previous.last_used_at,
                safe_to_revoke=is_safe_to_revoke(
                    previous, checked_until=record.previous_checked_until, now=now()
                ),
            ),
            created_at=record.created_at,
            created_by=record.created_by,
            updated_at=record.updated_at,
            rotated_at=record.rotated_at,
            last_used_at=record.last_used_at,
        )


class DeletionReceipt(ResponseModel):
    """What a deletion destroyed. The masked record and its history stay."""

    id: UUID
    deleted_at: Instant
    versions_destroyed: Annotated[list[int], Field(examples=[[1, 2]])]

    @classmethod
    def of(cls, receipt: Receipt) -> "DeletionReceipt":
        return cls(
            id=receipt.id,
            deleted_at=receipt.deleted_at,
            versions_destroyed=list(receipt.versions_destroyed),
        )
