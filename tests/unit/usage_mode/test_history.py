"""Which usage mode and which key version was active at an instant."""

from datetime import UTC, datetime, timedelta

import pytest

from app.usage_mode.history import KeyVersionActivation, KeyVersionHistory, ModeHistory
from app.usage_mode.modes import INITIAL_MODE, ModeChange, UsageMode

START = datetime(2026, 11, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def hour(number: float) -> datetime:
    return START + timedelta(hours=number)


def version(
    number: int, activated: float | None, rotated: float | None = None, url: str | None = None
) -> KeyVersionActivation:
    return KeyVersionActivation(
        key_version=number,
        activated_at=None if activated is None else hour(activated),
        rotated_at=None if rotated is None else hour(rotated),
        base_url=url,
    )


class TestModeHistory:
    def test_is_managed_before_the_first_change(self) -> None:
        assert ModeHistory([]).at(START) == INITIAL_MODE

    def test_applies_each_change_from_its_effective_time(self) -> None:
        changes = [
            ModeChange(mode=mode, credential_id=None, effective_from=at, changed_by="x")
            for mode, at in ((UsageMode.BYO, hour(1)), (UsageMode.MANAGED, hour(2)))
        ]

        history = ModeHistory(changes)

        assert history.at(hour(1) - MICROSECOND) == INITIAL_MODE
        assert history.at(hour(1)) == changes[0]
        assert history.at(hour(2) - MICROSECOND) == changes[0]
        assert history.at(hour(2)) == changes[1]
        assert history.at(hour(99)) == changes[1]


class TestKeyVersionHistory:
    def test_returns_the_version_activated_last(self) -> None:
        keys = KeyVersionHistory([version(1, 0), version(2, 5, 5), version(3, 9, 9), version(4, None)])

        assert [keys.at(hour(at)) for at in (-1, 0, 4.9, 5, 8, 9, 99)] == [None, 1, 1, 2, 2, 3, 3]

    @pytest.mark.parametrize(
        "versions",
        [
            pytest.param([version(1, 7), version(2, 5, 5)], id="back to the first"),
            pytest.param([version(1, 0), version(2, 7, 3), version(3, 5, 5)], id="back to the second"),
            pytest.param([version(1, 6), version(2, 7, 3)], id="back and forth"),
        ],
    )
    def test_after_a_rollback_knows_only_the_last_activation(
        self, versions: list[KeyVersionActivation]
    ) -> None:
        keys = KeyVersionHistory(versions)

        assert [keys.at(hour(at)) for at in (1, 4, 6.5)] == [None, None, None]
        assert keys.at(hour(7)) == max(versions, key=lambda it: it.activated_at or START).key_version

    def test_knows_which_endpoint_each_key_is_sent_to(self) -> None:
        keys = KeyVersionHistory([version(1, 0), version(2, 5, 5, "https://gateway.example.com")])

        assert [keys.is_compatible_endpoint(number) for number in (1, 2)] == [False, True]
        assert keys.is_compatible_endpoint(None)
        assert 2 in keys
        assert 3 not in keys

    def test_knows_the_versions_since_some_time_without_the_earlier_ones(self) -> None:
        keys = KeyVersionHistory([version(7, 3, 3), version(8, 5, 5)], is_any_compatible=True)

        assert [keys.at(hour(at)) for at in (3, 4.9, 5)] == [7, 7, 8]
        assert keys.is_compatible_endpoint(None)
        assert not keys.is_compatible_endpoint(8)
