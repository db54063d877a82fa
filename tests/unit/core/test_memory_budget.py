"""Bytes that requests hold: a share for each organization, and a total."""

import pytest

from app.core.memory_budget import MemoryBudget


class TestMemoryBudget:
    def test_leaves_the_rest_to_other_organizations(self) -> None:
        budget = MemoryBudget(10, per_organization=6)

        assert budget.try_hold("org_a", 6)
        assert not budget.try_hold("org_a", 1)
        assert budget.try_hold("org_b", 4)
        assert not budget.try_hold("org_c", 1)

    def test_released_bytes_can_be_held_again(self) -> None:
        budget = MemoryBudget(10, per_organization=10)
        assert budget.try_hold("org_a", 10)

        budget.release("org_a", 10)

        assert budget.try_hold("org_b", 10)

    @pytest.mark.parametrize("more", [0, 5, 20])
    def test_keeps_nothing_about_organizations_that_hold_nothing(self, more: int) -> None:
        budget = MemoryBudget(10, per_organization=10)
        for number in range(100):
            held = more if budget.try_hold(f"org_{number}", more) else 0
            budget.release(f"org_{number}", held)

        assert budget.held_bytes == 0
        assert not budget._held
