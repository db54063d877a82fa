"""Wire models of credentials. Only request models have a field for a key."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from app.api.schemas import (
    KeyVersion,
    OrganizationId,
    RequestModel,
    ResponseModel,
    Subject,
    Timestamp,
    unvalidated,
    without_default,
)
from app.api.text import has_controls, is_blank
from app.core.clock import now
from app.core.errors import InvalidInput
from app.core.keys.api_key import ApiKey
from app.core.keys.pasted_key import MAX_CUSTOM_LENGTH
from app.credentials.deletion import DeletionReceipt as Receipt
from app.credentials.key_in_fields import reject_key_in
from app.credentials.records import (
    Activate,
    CredentialRecord,
    DestroyPrevious,
    PendingRotationRecord,
)
from app.credentials.records import CredentialState as State
from app.credentials.rotations import ROTATION_RETRY_PERIOD
from app.credentials.service import NewCredential
from app.credentials.version_schemas import CredentialVerdict, PreviousVersion
from app.provider_url.endpoint import AuthStyle
from app.provider_url.url import OptionalProviderURL

# A named alias, so that generated clients have one type for it.
CredentialState = TypeAliasType("CredentialState", Literal["active", "disabled", "deleted"])

_PUBLIC_STATE: dict[State, CredentialState] = {
    State.ACTIVE: "active",
    State.DISABLED: "disabled",
    State.DELETING: "deleted",
    State.DELETED: "deleted",
}


def _require_readable(label: str) -> str:
    if has_controls(label):
        raise PydanticCustomError("label_has_controls", "Must not contain control or invisible characters.")
    if is_blank(label):
        raise PydanticCustomError("label_blank", "Must not be blank.")
    return label


Label = Annotated[
    str,
    Field(
        min_length=1,
        max_length=80,
        description="Helps admins identify the key. Control characters are not allowed.",
        examples=["Acme production"],
    ),
    AfterValidator(_require_readable),
]


ApiKeyText = Annotated[
    SecretStr,
    Field(
        description="The key, exactly as the provider shows it. Write-only: no response contains it. At most 512"
        " characters, or 4,096 with a base URL.",
        examples=["sk-ant-api03-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE"],
        json_schema_extra={"writeOnly": True, "minLength": 1, "maxLength": MAX_CUSTOM_LENGTH},
    ),
]
KeyHint = Annotated[
    str | None,
    Field(
        description="The key, shortened as in Anthropic's console. Null for keys under 40 characters.",
        examples=["sk-ant-api03-R2D...igAA"],
    ),
]


class CredentialCreate(RequestModel):
    """A new credential: a key and the endpoint that it may be sent to."""

    provider: Literal["anthropic"] = "anthropic"
    label: Label
    api_key: ApiKeyText
    base_url: Annotated[
        OptionalProviderURL,
        Field(
            description="HTTPS base URL of a compatible provider. Null or empty: the service's default endpoint."
        ),
    ] = None
    auth_style: Annotated[
        AuthStyle | None,
        Field(description="The header that carries the key. Null: chosen by the host of `base_url`."),
    ] = None
    workspace_id: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z0-9_-]{1,100}$",
            description="Required for keys that are not scoped to a workspace.",
        ),
    ] = None
    probe_model: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z0-9._:/@-]{1,200}$",
            description="The model that validations of a custom endpoint use.",
        ),
    ] = None

    def to_command(self) -> NewCredential:
        """Convert to the service's input, and validate the key.

        Raises:
            InvalidInput: another field contains the key or a part of it.
            KeyRefused: the text cannot be a key.
        """
        text = self.api_key.get_secret_value()
        key = ApiKey.parse(text, is_custom_endpoint=self.base_url is not None)
        for name in ("label", "workspace_id", "probe_model", "base_url"):
            reject_key_in(name, getattr(self, name), key)
        return NewCredential(
            label=self.label,
            key=key,
            base_url=self.base_url,
            auth_style=self.auth_style,
            workspace_id=self.workspace_id,
            probe_model=self.probe_model,
        )


_BOUND_FIELDS = ("base_url", "auth_style", "workspace_id", "probe_model")


class CredentialUpdate(RequestModel):
    """A JSON merge patch. Only the label can be changed, because the endpoint is bound to the key."""

    label: Annotated[Label, Field(json_schema_extra=without_default)] = ""

    @model_validator(mode="before")
    @classmethod
    def _reject_bound_fields(cls, body: object) -> object:
        if isinstance(body, dict):
            for name in _BOUND_FIELDS:
                if name in body:
                    raise InvalidInput.of(
                        name,
                        "destination_is_bound",
                        "Cannot be changed, because the endpoint is bound to the key. Rotate the key to change it.",
                    )
        return body

    @model_validator(mode="after")
    def _reject_key(self) -> "CredentialUpdate":
        reject_key_in("label", self.label)
        return self


class PendingRotation(ResponseModel):
    """A rotation that is not decided yet. Get or cancel it by its id."""

    id: UUID
    state: Literal["pending"] = "pending"
    key_version: KeyVersion
    key_hint: KeyHint
    activate: Annotated[Activate, Field(examples=[Activate.WHEN_VALID.value])]
    destroy_previous: Annotated[DestroyPrevious, Field(examples=[DestroyPrevious.AFTER_RETENTION.value])]
    validation: CredentialVerdict
    retried_until: Annotated[
        Timestamp,
        Field(
            description="Until then, an indeterminate validation is repeated. After that, the rotation is rejected."
        ),
    ]
    created_at: Timestamp
    created_by: Subject

    @classmethod
    def of(cls, record: PendingRotationRecord) -> "PendingRotation":
        version = record.version
        return cls(
            id=record.id,
            key_version=version.key_version,
            key_hint=version.key_hint,
            activate=record.activate,
            destroy_previous=record.destroy_previous,
            validation=CredentialVerdict.of(
                version.result, version.latest, version.key_version, version.endpoint
            ),
            retried_until=record.created_at + ROTATION_RETRY_PERIOD,
            created_at=record.created_at,
            created_by=record.created_by,
        )


class Credential(ResponseModel):
    """The masked metadata of a credential."""

    id: UUID
    organization_id: OrganizationId
    provider: Annotated[str, Field(examples=["anthropic"])]
    label: Annotated[str, Field(examples=["Acme production"])]
    state: CredentialState
    key_hint: KeyHint
    fingerprint: Annotated[
        str,
        Field(
            description="Keyed digest of the key. Equal keys of an organization have equal fingerprints.",
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
    rotation: Annotated[
        PendingRotation | None,
        Field(description="The pending rotation. The ETag does not depend on it.", examples=[None]),
    ]
    next_validation_at: Annotated[
        Timestamp | None,
        Field(
            description="When the key is validated again. Null if no validation is scheduled. The ETag does not depend on it."
        ),
    ]
    created_at: Timestamp
    created_by: Subject
    updated_at: Timestamp
    rotated_at: Timestamp | None
    last_used_at: Timestamp | None

    @classmethod
    def of(cls, record: CredentialRecord) -> "Credential":
        active, previous = record.active_version, record.previous_version
        return _credential(
            id=record.id,
            organization_id=record.organization_id,
            provider=record.provider,
            label=record.label,
            state=_PUBLIC_STATE[record.state],
            key_hint=active.key_hint,
            fingerprint=active.fingerprint,
            key_version=active.key_version,
            base_url=active.endpoint.base_url,
            messages_url=active.endpoint.messages_url,
            auth_style=active.endpoint.auth_style,
            workspace_id=active.endpoint.workspace_id,
            probe_model=active.endpoint.probe_model,
            validation=CredentialVerdict.of(
                active.result, active.latest, active.key_version, active.endpoint
            ),
            previous=None
            if previous is None
            else PreviousVersion(
                key_version=previous.key_version,
                retires_at=previous.retires_at,
                last_used_at=previous.last_used_at,
                safe_to_revoke=previous.is_safe_to_revoke(now()),
            ),
            rotation=None if record.rotation is None else PendingRotation.of(record.rotation),
            next_validation_at=record.next_validation_at,
            created_at=record.created_at,
            created_by=record.created_by,
            updated_at=record.updated_at,
            rotated_at=record.rotated_at,
            last_used_at=record.last_used_at,
        )


_credential = unvalidated(Credential)


class DeletionReceipt(ResponseModel):
    """When a credential was deleted, and which key versions were destroyed."""

    id: UUID
    deleted_at: Timestamp
    versions_destroyed: Annotated[list[int], Field(examples=[[1, 2]])]

    @classmethod
    def of(cls, receipt: Receipt) -> "DeletionReceipt":
        return cls(
            id=receipt.id,
            deleted_at=receipt.deleted_at,
            versions_destroyed=list(receipt.versions_destroyed),
        )
