"""Unit tests of the schedule of validations."""

from datetime import UTC, datetime, timedelta

import pytest

from app.credentials.validation_results import Reason, ResultEffect, ValidationResult, ValidationStatus
from app.validation.schedule import ValidationSchedule

DAY, HOUR, MINUTE = timedelta(hours=24), timedelta(hours=1), timedelta(minutes=1)
CHECKED_AT = datetime(2026, 11, 23, 12, tzinfo=UTC)
DEFINITE = ResultEffect(is_definite=True)
SUSPECTED = ResultEffect(is_definite=False, suspected_reason=Reason.REDIRECT_REFUSED, suspected_at=CHECKED_AT)


def indeterminate(streak: int) -> ResultEffect:
    return ResultEffect(is_definite=False, indeterminate_streak=streak)


def delays(
    effect: ResultEffect, *, every: timedelta | None = DAY, retry_after: timedelta | None = None
) -> list[timedelta]:
    """The delays of 200 schedules, which differ by their jitter."""
    result = ValidationResult(
        status=ValidationStatus.INDETERMINATE,
        reason=Reason.OVERLOADED,
        checked_at=CHECKED_AT,
        retry_after=retry_after,
    )
    schedule = ValidationSchedule(every=every)
    found = [schedule.next_validation_at(CHECKED_AT, result, effect) for _ in range(200)]
    return [at - CHECKED_AT for at in found if at is not None]


class TestRetriesOfIndeterminateResults:
    @pytest.mark.parametrize(
        ("streak", "minutes"), [(1, 1), (2, 2), (3, 5), (4, 15), (5, 60), (6, 60), (10_000, 60)]
    )
    def test_come_after_1_2_5_15_minutes_then_hourly(self, streak: int, minutes: int) -> None:
        found = delays(indeterminate(streak))

        assert all(minutes * MINUTE * 0.9 <= delay <= minutes * MINUTE * 1.1 for delay in found)
        assert len(set(found)) > 100, "no jitter"

    def test_are_bounded_by_a_shorter_period(self) -> None:
        assert max(delays(indeterminate(5), every=timedelta(seconds=10))) <= timedelta(seconds=11)

    def test_happen_without_periodic_validation(self) -> None:
        assert len(delays(indeterminate(1), every=None)) == 200

    @pytest.mark.parametrize("every", [DAY, timedelta(seconds=10), None])
    def test_are_never_earlier_than_retry_after(self, every: timedelta | None) -> None:
        found = delays(indeterminate(1), every=every, retry_after=30 * MINUTE)

        assert all(30 * MINUTE <= delay <= 33 * MINUTE for delay in found)

    def test_are_not_brought_forward_by_a_short_retry_after(self) -> None:
        assert min(delays(indeterminate(4), retry_after=MINUTE)) >= 13.5 * MINUTE


class TestSecondProbe:
    @pytest.mark.parametrize("every", [DAY, None])
    def test_comes_after_1_to_5_minutes(self, every: timedelta | None) -> None:
        found = delays(SUSPECTED, every=every)

        assert len(found) == 200
        assert all(MINUTE <= delay <= 5 * MINUTE for delay in found)
        assert max(found) - min(found) > 2 * MINUTE

    def test_is_never_earlier_than_retry_after(self) -> None:
        assert min(delays(SUSPECTED, retry_after=10 * MINUTE)) >= 10 * MINUTE


class TestPeriodicValidation:
    def test_comes_after_the_period(self) -> None:
        assert all(DAY * 0.9 <= delay <= DAY * 1.1 for delay in delays(DEFINITE))

    def test_can_be_disabled(self) -> None:
        assert delays(DEFINITE, every=None) == []
