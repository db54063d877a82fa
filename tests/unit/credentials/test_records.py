"""Tests of the rule that decides when a replaced key may be revoked at the provider."""

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from app.credentials.records import PreviousVersionRecord

REPLACED_AT = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
PREVIOUS = PreviousVersionRecord(
    key_version=1,
    retires_at=REPLACED_AT + timedelta(hours=72),
    last_used_at=None,
    replaced_at=REPLACED_AT,
    leased_until=None,
    validation_deadline=None,
    has_open_calls=False,
)


def after(seconds: float) -> datetime:
    """The time this many seconds after the replacement; before it, if negative."""
    return REPLACED_AT + timedelta(seconds=seconds)


class TestSafeToRevoke:
    @pytest.mark.parametrize(
        ("last_used", "leased_until", "validation_deadline", "now", "is_safe"),
        [
            pytest.param(None, None, None, 0, True, id="never used, at the replacement"),
            pytest.param(-60, None, None, 0, True, id="used only before the replacement"),
            pytest.param(0, None, None, 0, True, id="used at the moment of the replacement"),
            pytest.param(1, None, None, 2, False, id="used after the replacement"),
            pytest.param(1, None, None, 1_000_000, False, id="used after the replacement, long ago"),
            pytest.param(-5, 55, None, 10, False, id="an earlier lease can still be unwrapped"),
            pytest.param(-5, 55, None, 54.9, False, id="just before that lease expires"),
            pytest.param(-5, 55, None, 55, True, id="when that lease expires"),
            pytest.param(-500, -440, None, 0, True, id="the last lease expired before the replacement"),
            pytest.param(
                30, 55, None, 60, True, id="used after the replacement, by an earlier lease that expired"
            ),
            pytest.param(
                30,
                55,
                None,
                40,
                False,
                id="used after the replacement, by an earlier lease that is still valid",
            ),
            pytest.param(56, 55, None, 60, False, id="used after the last lease expired"),
            pytest.param(None, None, 15, 10, False, id="a validation is running"),
            pytest.param(None, None, 15, 15, True, id="the validation is past its deadline"),
            pytest.param(10, None, 15, 20, False, id="a validation does not explain a use"),
            pytest.param(-5, 5, 15, 10, False, id="the lease expired, the validation is still running"),
            pytest.param(None, None, None, -1, False, id="the clock is behind"),
        ],
    )
    def test_is_safe_only_if_no_consumer_can_use_the_key(
        self,
        last_used: float | None,
        leased_until: float | None,
        validation_deadline: float | None,
        now: float,
        is_safe: bool,
    ) -> None:
        previous = replace(
            PREVIOUS,
            last_used_at=None if last_used is None else after(last_used),
            leased_until=None if leased_until is None else after(leased_until),
            validation_deadline=None if validation_deadline is None else after(validation_deadline),
        )

        assert previous.is_safe_to_revoke(after(now)) is is_safe

    def test_is_not_safe_while_a_call_with_it_is_open(self) -> None:
        late = after(1_000_000)

        assert PREVIOUS.is_safe_to_revoke(late)
        assert not replace(PREVIOUS, has_open_calls=True).is_safe_to_revoke(late)

    def test_is_not_safe_if_the_time_of_the_replacement_is_unknown(self) -> None:
        without_time = replace(PREVIOUS, replaced_at=None)

        assert not without_time.is_safe_to_revoke(after(1_000_000))
