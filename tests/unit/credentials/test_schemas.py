"""Credentials of lists are made without validation: they must be what validation makes."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from app.credentials.records import CredentialRecord, CredentialState, VersionRecord, VersionState
from app.credentials.schemas import Credential
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


def version(number: int, latest: ValidationResult) -> VersionRecord:
    return VersionRecord(
        credential_id=UUID(int=1),
        key_version=number,
        state=VersionState.ACTIVE,
        endpoint=ProviderEndpoint(
            base_url="https://gw.example.com",
            messages_url="https://gw.example.com/v1/messages",
            auth_style=AuthStyle.BEARER,
            workspace_id=None,
            probe_model=None,
        ),
        key_hint=None,
        fingerprint="v1:00",
        result=VALID,
        latest=latest,
        created_at=AT,
        created_by="ada",
        activated_at=AT,
        retires_at=None,
        destroyed_at=None,
        last_used_at=None,
        replaced_at=None,
        leased_until=None,
    )


def record(*, latest: ValidationResult, previous: VersionRecord | None) -> CredentialRecord:
    return CredentialRecord(
        organization_id="org_acme",
        id=UUID(int=1),
        provider="anthropic",
        label='Acme "production" ü',
        state=CredentialState.DELETING,
        revision=1,
        active_version=version(2, latest),
        previous_version=previous,
        previous_validation_deadline=None,
        has_previous_open_calls=False,
        created_at=AT,
        created_by="ada",
        updated_at=AT,
        rotated_at=None,
        last_used_at=None,
        rotation=None,
        next_validation_at=None,
    )


class TestCredential:
    @pytest.mark.parametrize("latest", [VALID, PENDING, REFUSED], ids=lambda result: result.status.value)
    @pytest.mark.parametrize("previous", [None, version(1, VALID)], ids=["first key", "rotated"])
    def test_is_what_validation_makes(self, latest: ValidationResult, previous: VersionRecord | None) -> None:
        made = Credential.of(record(latest=latest, previous=previous))

        validated = Credential.model_validate(made.model_dump())
        assert made == validated
        assert made.to_json() == validated.model_dump_json().encode()
