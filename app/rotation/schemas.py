"""Wire models of rotations. Only the request model has a field for a key."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from app.api.schemas import KeyVersion, RequestModel, ResponseModel, Subject, Timestamp
from app.core.keys.api_key import ApiKey
from app.credentials.key_in_fields import reject_key_in
from app.credentials.records import Activate, DestroyPrevious
from app.credentials.rotations import PreviousKept, RotationRecord, RotationState
from app.credentials.schemas import ApiKeyText, KeyHint
from app.credentials.version_schemas import CredentialVerdict
from app.provider_url.endpoint import AuthStyle
from app.provider_url.url import OptionalProviderURL, ProviderURL
from app.rotation.service import NewKey


class RotationCreate(RequestModel):
    """A new key. Absent endpoint fields are copied from the active version."""

    api_key: ApiKeyText
    base_url: Annotated[OptionalProviderURL, Field(description="Absent: the active version's value.")] = None
    auth_style: Annotated[AuthStyle | None, Field(description="Absent: the active version's value.")] = None
    workspace_id: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9_-]{1,100}$")] = None
    probe_model: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9._:/@-]{1,200}$")] = None
    activate: Annotated[
        Activate,
        Field(
            description="`when_valid`: activate the key when the provider accepts it. `immediately`: activate it"
            " before its validation."
        ),
    ] = Activate.WHEN_VALID
    destroy_previous: Annotated[
        DestroyPrevious,
        Field(
            description="`after_retention`: keep the previous key for rollback until its retention expires."
            " `immediately`: destroy it as soon as a validation proves the new key, for example because it leaked."
            " Until then its retention applies, and `previous_kept_reason` says why it is kept."
        ),
    ] = DestroyPrevious.AFTER_RETENTION

    def to_command(self, active_base_url: str | None) -> NewKey:
        """Convert to the service's input, and validate the key.

        Args:
            active_base_url: the active version's base URL. A key for a custom base URL may have any format.

        Raises:
            InvalidInput: another field contains the key or a part of it.
            KeyRefused: the text cannot be a key.
        """
        text = self.api_key.get_secret_value()
        base_url: str | ProviderURL | None = self.base_url
        if "base_url" not in self.model_fields_set:
            base_url = active_base_url
        key = ApiKey.parse(text, is_custom_endpoint=base_url is not None)
        for name in ("workspace_id", "probe_model", "base_url"):
            reject_key_in(name, getattr(self, name), key)
        return NewKey(
            key=key,
            activate=self.activate,
            destroy_previous=self.destroy_previous,
            provided_fields=frozenset(self.model_fields_set),
            base_url=self.base_url,
            auth_style=self.auth_style,
            workspace_id=self.workspace_id,
            probe_model=self.probe_model,
        )


class Rotation(ResponseModel):
    """A rotation: its state, the new key masked, and the validation result."""

    id: UUID
    credential_id: UUID
    state: Annotated[RotationState, Field(examples=[RotationState.ACTIVATED.value])]
    key_version: KeyVersion
    key_hint: KeyHint
    activate: Annotated[Activate, Field(examples=[Activate.WHEN_VALID.value])]
    destroy_previous: Annotated[DestroyPrevious, Field(examples=[DestroyPrevious.AFTER_RETENTION.value])]
    previous_kept_reason: Annotated[
        PreviousKept | None,
        Field(
            description="Why the previous key still exists although `destroy_previous` is `immediately`: no validation"
            " has proven the new key yet. A later `valid` result destroys it. Null otherwise."
        ),
    ]
    validation: CredentialVerdict
    created_at: Timestamp
    created_by: Subject
    decided_at: Annotated[
        Timestamp | None, Field(description="Null while pending.", examples=["2026-11-23T14:05:06.123456Z"])
    ]

    @classmethod
    def of(cls, record: RotationRecord) -> "Rotation":
        version = record.version
        return cls(
            id=record.id,
            credential_id=record.credential_id,
            state=record.state,
            key_version=record.key_version,
            key_hint=version.key_hint,
            activate=record.activate,
            destroy_previous=record.destroy_previous,
            previous_kept_reason=record.previous_kept_reason,
            validation=CredentialVerdict.of(
                version.result, version.latest, record.key_version, version.endpoint
            ),
            created_at=record.created_at,
            created_by=record.created_by,
            decided_at=record.decided_at,
        )
