"""The blockers of provider-backed work, by usage mode, credential state and validation status."""

from itertools import product

import pytest

from app.credentials.records import CredentialState
from app.credentials.validation_results import ValidationStatus
from app.readiness.readiness import Blocker, Readiness, blockers_of
from app.usage_mode.modes import UsageMode

STATES = (None, *CredentialState)
VALIDATION_STATUSES = (None, *ValidationStatus)
DELETED_STATES = (CredentialState.DELETING, CredentialState.DELETED)


class TestManaged:
    @pytest.mark.parametrize(("state", "validation_status"), list(product(STATES, VALIDATION_STATUSES)))
    def test_has_no_blockers(
        self, state: CredentialState | None, validation_status: ValidationStatus | None
    ) -> None:
        assert blockers_of(UsageMode.MANAGED, state, validation_status) == ()


class TestByo:
    def test_is_ready_only_with_an_active_credential_and_a_valid_key(self) -> None:
        ready = [
            (state, validation_status)
            for state, validation_status in product(STATES, VALIDATION_STATUSES)
            if not blockers_of(UsageMode.BYO, state, validation_status)
        ]

        assert ready == [(CredentialState.ACTIVE, ValidationStatus.VALID)]

    @pytest.mark.parametrize(
        ("state", "validation_status"), list(product((None, CredentialState.CREATING), VALIDATION_STATUSES))
    )
    def test_reports_a_credential_that_does_not_exist_yet_as_missing(
        self, state: CredentialState | None, validation_status: ValidationStatus | None
    ) -> None:
        assert blockers_of(UsageMode.BYO, state, validation_status) == (Blocker.CREDENTIAL_MISSING,)

    @pytest.mark.parametrize(
        ("state", "validation_status"), list(product(DELETED_STATES, VALIDATION_STATUSES))
    )
    def test_reports_a_deleted_credential_only_as_deleted(
        self, state: CredentialState, validation_status: ValidationStatus | None
    ) -> None:
        assert blockers_of(UsageMode.BYO, state, validation_status) == (Blocker.CREDENTIAL_DELETED,)

    @pytest.mark.parametrize(
        "validation_status",
        [validation_status for validation_status in VALIDATION_STATUSES if validation_status != "valid"],
    )
    def test_reports_all_blockers(self, validation_status: ValidationStatus | None) -> None:
        assert set(blockers_of(UsageMode.BYO, CredentialState.DISABLED, validation_status)) == {
            Blocker.CREDENTIAL_DISABLED,
            Blocker.CREDENTIAL_NOT_VALID,
        }
        assert blockers_of(UsageMode.BYO, CredentialState.ACTIVE, validation_status) == (
            Blocker.CREDENTIAL_NOT_VALID,
        )


class TestReadiness:
    @pytest.mark.parametrize("blockers", [(), (Blocker.CREDENTIAL_MISSING,), tuple(Blocker)])
    def test_is_ready_without_blockers(self, blockers: tuple[Blocker, ...]) -> None:
        readiness = Readiness(mode=UsageMode.BYO, credential_id=None, blockers=blockers)

        assert readiness.is_ready is (blockers == ())
