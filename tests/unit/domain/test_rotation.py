"""Room in the store, and the moves that a key version may make on its way."""

import pytest

from app.credentials.records import LEGAL_MOVES, LIVE_VERSION_STATES, PUBLIC_VERSION_STATE, VersionState
from app.credentials.rotations import MOST_STORE_VERSIONS, has_room


class TestRoom:
    @pytest.mark.parametrize(
        ("oldest_kept", "store_version", "expected"),
        [
            (None, 0, True),
            (None, 10_000, True),
            (1, 1, True),
            (1, MOST_STORE_VERSIONS - 1, True),
            (1, MOST_STORE_VERSIONS, False),
            (1, MOST_STORE_VERSIONS + 1, False),
            (2, MOST_STORE_VERSIONS, True),
            (50, 148, True),
            (50, 149, False),
        ],
    )
    def test_is_there_while_the_oldest_kept_stays(
        self, oldest_kept: int | None, store_version: int, expected: bool
    ) -> None:
        assert has_room(oldest_kept, store_version) is expected

    @pytest.mark.parametrize("oldest_kept", [1, 2, 7, 250])
    def test_ends_exactly_where_the_store_would_drop_it(self, oldest_kept: int) -> None:
        """The store keeps the newest hundred: with n written, those above n - 100."""
        for store_version in range(oldest_kept, oldest_kept + 2 * MOST_STORE_VERSIONS):
            is_kept_after = oldest_kept > store_version + 1 - MOST_STORE_VERSIONS
            assert has_room(oldest_kept, store_version) is is_kept_after


class TestMoves:
    def test_end_where_the_secret_is_gone(self) -> None:
        ends = {state for state, moves in LEGAL_MOVES.items() if not moves}

        assert ends == {VersionState.DESTROYED, VersionState.ABANDONED}

    def test_back_into_use_come_only_kept_keys(self) -> None:
        into_use = {state for state, moves in LEGAL_MOVES.items() if VersionState.ACTIVE in moves}

        assert into_use == {VersionState.STORED, VersionState.PREVIOUS}

    def test_never_lead_back_to_before_the_store_had_it(self) -> None:
        assert not any(VersionState.INTENT in moves for moves in LEGAL_MOVES.values())
        assert VersionState.STORED not in LEGAL_MOVES[VersionState.ACTIVE]

    def test_lead_every_live_version_to_an_end(self) -> None:
        for state in LIVE_VERSION_STATES:
            assert LEGAL_MOVES[state] & {VersionState.DESTROYED, VersionState.ABANDONED}

    def test_every_state_but_the_abandoned_is_shown(self) -> None:
        assert set(VersionState) - set(PUBLIC_VERSION_STATE) == {VersionState.ABANDONED}
