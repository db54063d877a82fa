"""The projection of a usage mode switch: the rate of the month so far, for the time in which the mode is managed."""

from datetime import UTC, datetime

import pytest

from app.billing.mode_preview import Projection, project
from app.billing.month import BillingMonth
from app.core.money import PICO_PER_USD
from app.usage_mode.modes import INITIAL_MODE, ModeChange, UsageMode, UsageModeState

APRIL = BillingMonth(2026, 4)  # 30 days
AFTER_TEN_DAYS = datetime(2026, 4, 11, tzinfo=UTC)


def change(mode: UsageMode, day: int, month: int = 4) -> ModeChange:
    at = datetime(2026, month, day, tzinfo=UTC)
    return ModeChange(mode=mode, credential_id=None, effective_from=at, changed_by="ada")


def state(active: ModeChange, scheduled: ModeChange | None = None) -> UsageModeState:
    return UsageModeState(active=active, scheduled=scheduled)


def projected(
    planned: UsageModeState, switched: UsageModeState, *, cost: int = 100, managed: int = 100
) -> Projection:
    return project(
        now=AFTER_TEN_DAYS,
        month=APRIL,
        cost_so_far=cost * PICO_PER_USD,
        managed_so_far=managed * PICO_PER_USD,
        planned=planned,
        switched=switched,
    )


MANAGED, BYO = UsageMode.MANAGED, UsageMode.BYO
MANAGED_NOW, BYO_NOW = state(INITIAL_MODE), state(change(BYO, 1))


class TestProject:
    @pytest.mark.parametrize(
        ("planned", "switched", "as_planned", "after_switch"),
        [
            (MANAGED_NOW, MANAGED_NOW, 300, 300),
            (MANAGED_NOW, state(change(BYO, 11)), 300, 100),
            (MANAGED_NOW, state(INITIAL_MODE, change(BYO, 21)), 300, 200),
            (MANAGED_NOW, state(INITIAL_MODE, change(BYO, 1, month=5)), 300, 300),
            (MANAGED_NOW, state(INITIAL_MODE, change(BYO, 1, month=8)), 300, 300),
            (BYO_NOW, state(change(MANAGED, 11)), 100, 300),
            (BYO_NOW, state(change(BYO, 1), change(MANAGED, 26)), 100, 150),
            (state(INITIAL_MODE, change(BYO, 16)), state(INITIAL_MODE, change(BYO, 26)), 150, 250),
            (state(INITIAL_MODE, change(BYO, 16)), MANAGED_NOW, 150, 300),
        ],
    )
    def test_continues_at_the_rate_so_far(
        self, planned: UsageModeState, switched: UsageModeState, as_planned: int, after_switch: int
    ) -> None:
        found = projected(planned, switched)

        assert (found.as_planned, found.after_switch) == (
            as_planned * PICO_PER_USD,
            after_switch * PICO_PER_USD,
        )
        assert found.difference == (after_switch - as_planned) * PICO_PER_USD

    def test_uses_the_cost_of_both_modes(self) -> None:
        found = projected(BYO_NOW, state(change(MANAGED, 11)), cost=90, managed=30)

        assert found.after_switch == (30 + 2 * 90) * PICO_PER_USD
        assert found.as_planned == 30 * PICO_PER_USD

    def test_without_usage_is_zero(self) -> None:
        assert projected(MANAGED_NOW, BYO_NOW, cost=0, managed=0) == Projection(as_planned=0, after_switch=0)

    def test_does_not_divide_by_zero_at_the_start_of_a_month(self) -> None:
        found = project(
            now=APRIL.starts_at,
            month=APRIL,
            cost_so_far=0,
            managed_so_far=0,
            planned=MANAGED_NOW,
            switched=BYO_NOW,
        )

        assert found.difference == 0
