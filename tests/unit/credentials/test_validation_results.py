"""What a validation result does to the results before it."""

from datetime import UTC, datetime, timedelta

import pytest

from app.credentials.validation_results import (
    SUSPICION_EXPIRES_AFTER,
    Reason,
    ResultEffect,
    ResultHistory,
    ValidationResult,
    ValidationStatus,
    effect_of,
)

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
VALID, INVALID, INDETERMINATE = (
    ValidationStatus.VALID,
    ValidationStatus.INVALID,
    ValidationStatus.INDETERMINATE,
)


def result(
    status: ValidationStatus,
    reason: Reason = Reason.REDIRECT_REFUSED,
    *,
    at: datetime = NOON,
    needs_second_probe: bool = False,
) -> ValidationResult:
    return ValidationResult(
        status=status, reason=reason, checked_at=at, needs_second_probe=needs_second_probe
    )


def doubtful(reason: Reason = Reason.REDIRECT_REFUSED, *, at: datetime = NOON) -> ValidationResult:
    return result(INVALID, reason, at=at, needs_second_probe=True)


def suspected(reason: Reason = Reason.REDIRECT_REFUSED, *, at: datetime = NOON) -> ResultHistory:
    return ResultHistory(definite_status=VALID, suspected_reason=reason, suspected_at=at)


class TestIndeterminateResult:
    @pytest.mark.parametrize("definite", [None, VALID, INVALID])
    def test_is_never_definite_and_lengthens_the_streak(self, definite: ValidationStatus | None) -> None:
        history = ResultHistory(definite_status=definite, indeterminate_streak=3)

        assert effect_of(history, result(INDETERMINATE)) == ResultEffect(
            is_definite=False, indeterminate_streak=4
        )

    def test_ends_a_suspicion(self) -> None:
        assert not effect_of(suspected(), result(INDETERMINATE, at=NOON + MINUTE)).is_suspected


class TestValidResult:
    def test_is_definite_and_ends_a_suspicion(self) -> None:
        assert effect_of(suspected(), result(VALID)) == ResultEffect(is_definite=True)


class TestInvalidResult:
    def test_that_needs_no_second_probe_is_definite_at_once(self) -> None:
        history = ResultHistory(definite_status=VALID)

        assert effect_of(history, result(INVALID)) == ResultEffect(is_definite=True, is_new_status=True)

    @pytest.mark.parametrize("definite", [None, INVALID])
    def test_of_a_key_that_was_not_valid_is_definite_at_once(self, definite: ValidationStatus | None) -> None:
        history = ResultHistory(definite_status=definite)

        is_new = definite is None
        assert effect_of(history, doubtful()) == ResultEffect(is_definite=True, is_new_status=is_new)

    def test_of_a_valid_key_is_suspected_first(self) -> None:
        assert effect_of(ResultHistory(definite_status=VALID), doubtful()) == ResultEffect(
            is_definite=False, suspected_reason=Reason.REDIRECT_REFUSED, suspected_at=NOON
        )

    @pytest.mark.parametrize("later", [MINUTE, 5 * MINUTE, SUSPICION_EXPIRES_AFTER])
    def test_is_definite_when_a_second_probe_agrees(self, later: timedelta) -> None:
        assert effect_of(suspected(), doubtful(at=NOON + later)).is_definite

    def test_soon_after_the_first_keeps_its_time(self) -> None:
        effect = effect_of(suspected(), doubtful(at=NOON + timedelta(seconds=59)))

        assert not effect.is_definite
        assert effect.suspected_at == NOON

    def test_with_another_reason_counts_as_the_first(self) -> None:
        effect = effect_of(suspected(), doubtful(Reason.TLS_ERROR, at=NOON + 2 * MINUTE))

        assert (effect.is_definite, effect.suspected_at) == (False, NOON + 2 * MINUTE)

    def test_long_after_the_first_counts_as_the_first(self) -> None:
        later = NOON + SUSPICION_EXPIRES_AFTER + MINUTE

        effect = effect_of(suspected(), doubtful(at=later))

        assert (effect.is_definite, effect.suspected_at) == (False, later)
