"""Rotations and deletions on the wire. The new key goes in and never out."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from app.api.schemas import Instant, KeyVersion, RequestModel, ResponseModel, Subject
from app.core.api_key import ApiKey
from app.credentials.rotations import Activate, DestroyPrevious, RotationRecord, RotationState
from app.credentials.schemas import ApiKeyText, KeyHint, refuse_key_in
from app.credentials.verdict_schemas import CredentialVerdict
from app.provider_url.endpoint import AuthStyle
from app.provider_url.url import OptionalProviderURL, ProviderURL
from app.rotation.service import NewKey


class RotationCreate(RequestModel):
    """A new key. Where it may be sent stays as it is unless given."""

    api_key: ApiKeyText
    base_url: Annotated[OptionalProviderURL, Field(description="Left out: as before.")] = None
    auth_style: Annotated[AuthStyle | None, Field(description="Left out: as before.")] = None
    workspace_id: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9_-]{1,100}$")] = None
    probe_model: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9._:/@-]{1,200}$")] = None
    activate: Annotated[
        Activate,
        Field(
            description="`when_valid`: only once the provider accepts it. `immediately`: whatever it says."
        ),
    ] = Activate.WHEN_VALID
    destroy_previous: Annotated[
        DestroyPrevious,
        Field(description="`after_retention`: kept for rollback. `immediately`: for a leaked key."),
    ] = DestroyPrevious.AFTER_RETENTION

    def to_command(self, base_url_in_use: str | None) -> NewKey:
        """What was entered, checked.

        Args:
            base_url_in_use: where keys go that do not say otherwise; decides what can be a key.

        Raises:
            InvalidInput: the key stands in a field that is shown again.
            KeyRefused: the text cannot be a key.
        """
        text = self.api_key.get_secret_value()
        base_url: str | ProviderURL | None = self.base_url
        if "base_url" not in self.model_fields_set:
            base_url = base_url_in_use
        key = ApiKey.parse(text, custom_destination=base_url is not None)
        for name in ("workspace_id", "probe_model", "base_url"):
            refuse_key_in(name, getattr(self, name), text)
        return NewKey(
            key=key,
            activate=self.activate,
            destroy_previous=self.destroy_previous,
            given=frozenset(self.model_fields_set),
            base_url=self.base_url,
            auth_style=self.auth_style,
            workspace_id=self.workspace_id,
            probe_model=self.probe_model,
        )


class Rotation(ResponseModel):
    """A new key on its way into use, or what became of it."""

    id: UUID
    credential_id: UUID
    state: Annotated[RotationState, Field(examples=[RotationState.ACTIVATED.value])]
    key_version: KeyVersion
    key_hint: KeyHint
    activate: Annotated[Activate, Field(examples=[Activate.WHEN_VALID.value])]
    destroy_previous: Annotated[DestroyPrevious, Field(examples=[DestroyPrevious.AFTER_RETENTION.value])]
    validation: CredentialVerdict
    created_at: Instant
    created_by: Subject
    decided_at: Annotated[
        Instant | None, Field(description="Null while pending.", examples=["2026-11-23T14:05:06.123456Z"])
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
            validation=CredentialVerdict.of(version.verdict, version.latest, record.key_version),
            created_at=record.created_at,
            created_by=record.created_by,
            decided_at=record.decided_at,
        )
