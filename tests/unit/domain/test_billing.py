"""What is in the way of work, by mode, credential and verdict."""

from itertools import product

import pytest

from app.credentials.records import CredentialState
from app.credentials.verdicts import ValidationStatus
from app.readiness.readiness import Blocker, Readiness, blockers_of
from app.usage_mode.modes import INITIAL_MODE, UsageMode

STATES = (None, *CredentialState)
VERDICTS = (None, *ValidationStatus)
GONE = (CredentialState.DELETING, CredentialState.DELETED)


class TestManaged:
    def test_is_what_an_organization_begins_as(self) -> None:
        assert (INITIAL_MODE.mode, INITIAL_MODE.effective_from) == (UsageMode.MANAGED, None)

    @pytest.mark.parametrize(("state", "verdict"), list(product(STATES, VERDICTS)))
    def test_has_no_blockers(self, state: CredentialState | None, verdict: ValidationStatus | None) -> None:
        assert blockers_of(UsageMode.MANAGED, state, verdict) == ()


class TestByo:
    def test_is_ready_with_a_valid_key_in_use_and_with_nothing_else(self) -> None:
        ready = [
            (state, verdict)
            for state, verdict in product(STATES, VERDICTS)
            if not blockers_of(UsageMode.BYO, state, verdict)
        ]

        assert ready == [(CredentialState.ACTIVE, ValidationStatus.VALID)]

    @pytest.mark.parametrize(("state", "verdict"), list(product((None, CredentialState.CREATING), VERDICTS)))
    def test_misses_a_credential_that_is_not_there_yet(
        self, state: CredentialState | None, verdict: ValidationStatus | None
    ) -> None:
        assert blockers_of(UsageMode.BYO, state, verdict) == (Blocker.CREDENTIAL_MISSING,)

    @pytest.mark.parametrize(("state", "verdict"), list(product(GONE, VERDICTS)))
    def test_says_of_a_deleted_one_nothing_else(
        self, state: CredentialState, verdict: ValidationStatus | None
    ) -> None:
        assert blockers_of(UsageMode.BYO, state, verdict) == (Blocker.CREDENTIAL_DELETED,)

    @pytest.mark.parametrize("verdict", [verdict for verdict in VERDICTS if verdict != "valid"])
    def test_names_everything_in_the_way(self, verdict: ValidationStatus | None) -> None:
        assert set(blockers_of(UsageMode.BYO, CredentialState.DISABLED, verdict)) == {
            Blocker.CREDENTIAL_DISABLED,
            Blocker.CREDENTIAL_NOT_VALID,
        }
        assert blockers_of(UsageMode.BYO, CredentialState.ACTIVE, verdict) == (Blocker.CREDENTIAL_NOT_VALID,)


class TestReadiness:
    @pytest.mark.parametrize("blockers", [(), (Blocker.CREDENTIAL_MISSING,), tuple(Blocker)])
    def test_is_the_absence_of_blockers(self, blockers: tuple[Blocker, ...]) -> None:
        readiness = Readiness(mode=UsageMode.BYO, credential_id=None, blockers=blockers)

        assert readiness.is_ready is (blockers == ())
