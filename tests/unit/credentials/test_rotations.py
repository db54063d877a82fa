"""Tests of the store's capacity for versions, and of the allowed state transitions."""

from typing import cast

import pytest

from app.core.clock import new_id
from app.credentials.records import (
    ALLOWED_TRANSITIONS,
    LIVE_VERSION_STATES,
    PUBLIC_VERSION_STATE,
    VersionState,
    VersionStateError,
)
from app.credentials.rotations import MAX_STORE_VERSIONS, has_store_capacity
from app.credentials.version_repository import VersionRepository
from app.database.sessions import Session


class TestHasRoom:
    @pytest.mark.parametrize(
        ("oldest_kept", "store_version", "expected"),
        [
            (None, 0, True),
            (None, 10_000, True),
            (1, 1, True),
            (1, MAX_STORE_VERSIONS - 1, True),
            (1, MAX_STORE_VERSIONS, False),
            (1, MAX_STORE_VERSIONS + 1, False),
            (2, MAX_STORE_VERSIONS, True),
            (50, 148, True),
            (50, 149, False),
        ],
    )
    def test_depends_on_the_oldest_kept_version(
        self, oldest_kept: int | None, store_version: int, expected: bool
    ) -> None:
        assert has_store_capacity(oldest_kept, store_version) is expected

    @pytest.mark.parametrize("oldest_kept", [1, 2, 7, 250])
    def test_is_false_exactly_when_the_store_would_remove_the_oldest_kept_version(
        self, oldest_kept: int
    ) -> None:
        """The store keeps the newest 100 versions: after n writes, those above n - 100."""
        for store_version in range(oldest_kept, oldest_kept + 2 * MAX_STORE_VERSIONS):
            is_kept_after = oldest_kept > store_version + 1 - MAX_STORE_VERSIONS
            assert has_store_capacity(oldest_kept, store_version) is is_kept_after


class TestAllowedTransitions:
    def test_final_states_are_those_without_a_secret(self) -> None:
        final_states = {state for state, targets in ALLOWED_TRANSITIONS.items() if not targets}

        assert final_states == {VersionState.DESTROYED, VersionState.ABANDONED}

    def test_only_stored_and_previous_versions_become_active(self) -> None:
        sources = {state for state, targets in ALLOWED_TRANSITIONS.items() if VersionState.ACTIVE in targets}

        assert sources == {VersionState.STORED, VersionState.PREVIOUS}

    def test_no_version_returns_to_a_state_before_it_was_stored(self) -> None:
        assert not any(VersionState.INTENT in targets for targets in ALLOWED_TRANSITIONS.values())
        assert VersionState.STORED not in ALLOWED_TRANSITIONS[VersionState.ACTIVE]

    def test_every_live_state_can_reach_a_final_state(self) -> None:
        for state in LIVE_VERSION_STATES:
            assert ALLOWED_TRANSITIONS[state] & {VersionState.DESTROYED, VersionState.ABANDONED}

    async def test_another_transition_raises_before_it_reaches_the_database(self) -> None:
        versions = VersionRepository(cast("Session", None), "org_acme")

        with pytest.raises(VersionStateError):
            await versions.transition(new_id(), 1, expected=VersionState.DESTROYED, to=VersionState.ACTIVE)

    def test_every_state_except_abandoned_is_public(self) -> None:
        assert set(VersionState) - set(PUBLIC_VERSION_STATE) == {VersionState.ABANDONED}
