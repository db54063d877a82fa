"""Credentials are made without validation: they must be what validation makes."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import fields, replace
from pydantic import BaseModel

from app.credentials.records import (
    Activate,
    CredentialRecord,
    CredentialState,
    DestroyPrevious,
    PendingRotationRecord,
    PreviousVersionRecord,
    VersionRecord,
    VersionState,
)
from app.credentials.schemas import _PUBLIC_STATE, Credential
from app.credentials.validation_results import Reason, ValidationResult, ValidationStatus
from app.provider_url.endpoint import AuthStyle, ProviderEndpoint

AT = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
VALID = ValidationResult(
    status=ValidationStatus.VALID, reason=Reason.OK, checked_at=AT, provider_request_id="req_1"
)
PENDING = ValidationResult(
    status=ValidationStatus.PENDING, reason=None, checked_at=None, provider_request_id=None
)
REFUSED = ValidationResult(
    status=ValidationStatus.INVALID, reason=Reason.INVALID_KEY, checked_at=AT, provider_request_id=None
)


UNDECIDED = ValidationResult(
    status=ValidationStatus.INDETERMINATE,
    reason=Reason.OVERLOADED,
    checked_at=AT,
    provider_request_id="req_2",
)
ENDPOINT = ProviderEndpoint(
    base_url="https://gw.example.com",
    messages_url="https://gw.example.com/v1/messages",
    auth_style=AuthStyle.BEARER,
    workspace_id="wrkspc_1",
    probe_model="claude-haiku-4-5",
)
ENDPOINTS = {
    "bearer": ENDPOINT,
    "x-api-key": replace(ENDPOINT, auth_style=AuthStyle.X_API_KEY),
    "no base URL": ProviderEndpoint(
        base_url=None,
        messages_url="https://api.anthropic.com/v1/messages",
        auth_style=AuthStyle.X_API_KEY,
        workspace_id=None,
        probe_model=None,
    ),
}


def version(number: int = 2, **changed: Any) -> VersionRecord:
    made = VersionRecord(
        credential_id=UUID(int=1),
        key_version=number,
        state=VersionState.ACTIVE,
        endpoint=ENDPOINT,
        key_hint="sk-ant-api03-R2D...igAA",
        fingerprint="v1:00",
        result=VALID,
        latest=VALID,
        created_at=AT,
        created_by="ada",
        activated_at=AT,
        retires_at=AT,
        destroyed_at=None,
        last_used_at=AT,
        replaced_at=AT,
        leased_until=None,
    )
    return replace(made, **changed)


PREVIOUS = PreviousVersionRecord(
    key_version=1,
    retires_at=AT,
    last_used_at=AT,
    replaced_at=AT,
    leased_until=AT,
    validation_deadline=AT,
    has_open_calls=True,
)
# Without None.
RECORD = CredentialRecord(
    organization_id="org_acme",
    id=UUID(int=1),
    provider="anthropic",
    label='Acme "production" ü',
    state=CredentialState.ACTIVE,
    revision=1,
    active_version=version(),
    previous_version=PREVIOUS,
    created_at=AT,
    created_by="ada",
    updated_at=AT,
    rotated_at=AT,
    last_used_at=AT,
    rotation=PendingRotationRecord(
        id=UUID(int=2),
        activate=Activate.WHEN_VALID,
        destroy_previous=DestroyPrevious.IMMEDIATELY,
        created_at=AT,
        created_by="ada",
        version=version(3, result=PENDING, latest=UNDECIDED),
    ),
    next_validation_at=AT,
)
NULLABLE = (
    "previous_version",
    "rotated_at",
    "last_used_at",
    "rotation",
    "next_validation_at",
)
NOTHING: dict[str, Any] = dict.fromkeys(NULLABLE)
RECORDS: dict[str, CredentialRecord] = {
    "everything": RECORD,
    "nothing": replace(
        RECORD,
        **NOTHING,
        active_version=version(1, key_hint=None, result=PENDING, latest=PENDING),
    ),
    **{f"without {name}": replace(RECORD, **{name: NOTHING[name]}) for name in NULLABLE},
    **{state.value: replace(RECORD, state=state) for state in _PUBLIC_STATE},
    "previous without times": replace(
        RECORD,
        previous_version=replace(
            PREVIOUS,
            retires_at=None,
            last_used_at=None,
            replaced_at=None,
            leased_until=None,
            validation_deadline=None,
            has_open_calls=False,
        ),
    ),
    **{
        f"{name}, {result.status.value}, {latest.status.value}": replace(
            RECORD, active_version=version(endpoint=endpoint, result=result, latest=latest)
        )
        for name, endpoint in ENDPOINTS.items()
        for result in (VALID, PENDING, REFUSED)
        for latest in (VALID, PENDING, REFUSED, UNDECIDED)
    },
}


def values(model: BaseModel) -> dict[str, Any]:
    """The fields of a model and of the models in it, with the types of their values."""
    found: dict[str, Any] = {}
    for name, value in model:
        found[name] = values(value) if isinstance(value, BaseModel) else (type(value), value)
    return found


class TestCredential:
    @pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
    def test_is_what_validation_makes(self, record: CredentialRecord) -> None:
        made = Credential.of(record)

        validated = Credential.model_validate(made.model_dump())
        assert made == validated
        assert values(made) == values(validated)
        assert made.to_json() == validated.model_dump_json().encode()

    def test_all_branches_are_among_the_records(self) -> None:
        made = [Credential.of(record) for record in RECORDS.values()]

        nullable = [it.name for it in fields(CredentialRecord) if "None" in str(it.type)]
        assert set(nullable) == set(NULLABLE)
        assert {it.state for it in made} == {"active", "disabled", "deleted"}
        assert {it.validation.other_auth_style for it in made} == {None, *AuthStyle}
        for name, field in Credential.model_fields.items():
            is_nullable = "None" in str(field.annotation)
            assert (None in [getattr(it, name) for it in made]) == is_nullable, name
            assert any(getattr(it, name) is not None for it in made), name
