"""The projection of a switch: this month's rate so far, for as long as the mode would be managed."""

from datetime import UTC, datetime

import pytest

from app.billing.mode_preview import Projection, project
from app.billing.month import BillingMonth
from app.core.money import PICO_PER_USD
from app.usage_mode.modes import INITIAL_MODE, UsageMode, UsageModePoint, UsageModeState

APRIL = BillingMonth(2026, 4)  # thirty days
TENTH_DAY_OVER = datetime(2026, 4, 11, tzinfo=UTC)


def point(mode: UsageMode, day: int, month: int = 4) -> UsageModePoint:
    at = datetime(2026, month, day, tzinfo=UTC)
    return UsageModePoint(mode=mode, credential_id=None, effective_from=at, changed_by="ada")


def state(in_force: UsageModePoint, scheduled: UsageModePoint | None = None) -> UsageModeState:
    return UsageModeState(in_force=in_force, scheduled=scheduled)


def projected(
    planned: UsageModeState, switched: UsageModeState, *, cost: int = 100, managed: int = 100
) -> Projection:
    return project(
        now=TENTH_DAY_OVER,
        month=APRIL,
        cost_so_far=cost * PICO_PER_USD,
        managed_so_far=managed * PICO_PER_USD,
        planned=planned,
        switched=switched,
    )


MANAGED, BYO = UsageMode.MANAGED, UsageMode.BYO
NOW_MANAGED, NOW_BYO = state(INITIAL_MODE), state(point(BYO, 1))


class TestProject:
    @pytest.mark.parametrize(
        ("planned", "switched", "as_planned", "after_switch"),
        [
            (NOW_MANAGED, NOW_MANAGED, 300, 300),
            (NOW_MANAGED, state(point(BYO, 11)), 300, 100),
            (NOW_MANAGED, state(INITIAL_MODE, point(BYO, 21)), 300, 200),
            (NOW_MANAGED, state(INITIAL_MODE, point(BYO, 1, month=5)), 300, 300),
            (NOW_MANAGED, state(INITIAL_MODE, point(BYO, 1, month=8)), 300, 300),
            (NOW_BYO, state(point(MANAGED, 11)), 100, 300),
            (NOW_BYO, state(point(BYO, 1), point(MANAGED, 26)), 100, 150),
            (state(INITIAL_MODE, point(BYO, 16)), state(INITIAL_MODE, point(BYO, 26)), 150, 250),
            (state(INITIAL_MODE, point(BYO, 16)), NOW_MANAGED, 150, 300),
        ],
    )
    def test_goes_on_at_the_rate_so_far(
        self, planned: UsageModeState, switched: UsageModeState, as_planned: int, after_switch: int
    ) -> None:
        found = projected(planned, switched)

        assert (found.as_planned, found.after_switch) == (
            as_planned * PICO_PER_USD,
            after_switch * PICO_PER_USD,
        )
        assert found.difference == (after_switch - as_planned) * PICO_PER_USD

    def test_takes_the_rate_of_all_use_whoever_paid(self) -> None:
        found = projected(NOW_BYO, state(point(MANAGED, 11)), cost=90, managed=30)

        assert found.after_switch == (30 + 2 * 90) * PICO_PER_USD
        assert found.as_planned == 30 * PICO_PER_USD

    def test_of_nothing_is_nothing(self) -> None:
        assert projected(NOW_MANAGED, NOW_BYO, cost=0, managed=0) == Projection(as_planned=0, after_switch=0)

    def test_in_the_first_instant_of_a_month_is_finite(self) -> None:
        found = project(
            now=APRIL.starts_at,
            month=APRIL,
            cost_so_far=0,
            managed_so_far=0,
            planned=NOW_MANAGED,
            switched=NOW_BYO,
        )

        assert found.difference == 0
