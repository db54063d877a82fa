"""Tests that the write protocol is safe in every state of the model, and that other orders are not."""

import pytest

from tests.support.credentials.write_protocol_model import (
    ModelState,
    WriteOrder,
    count_active,
    is_finished,
    reachable_models,
    violations,
)

UNSAFE_ORDERS = {
    "store, then row": (WriteOrder(row_first=None), "orphan"),
    "active row, then store": (WriteOrder(row_first="active"), "dangling row"),
    "intent without check-and-set": (WriteOrder(row_first="intent", has_cas=False), "orphan"),
    "reconciliation without a tombstone": (WriteOrder(row_first="intent", has_tombstone=False), "orphan"),
    "secret destroyed, then row": (WriteOrder(row_first="intent", ends_with_row=True), "dangling row"),
}


@pytest.fixture(scope="module")
def models() -> list[ModelState]:
    """Every state that the write protocol can reach."""
    return list(reachable_models(WriteOrder(row_first="intent")))


class TestWriteProtocol:
    def test_leaves_no_orphans_and_no_dangling_rows(self, models: list[ModelState]) -> None:
        assert [model for model in models if is_finished(model) and violations(model)] == []

    def test_has_no_dangling_row_in_any_intermediate_state(self, models: list[ModelState]) -> None:
        assert [model for model in models if "dangling row" in violations(model)] == []

    def test_has_at_most_one_active_version_and_one_if_a_previous_one_is_kept(
        self, models: list[ModelState]
    ) -> None:
        kept = [model for model in models if any(row.state == "previous" for row in model.rows)]

        assert {count_active(model) for model in models} == {0, 1}
        assert {count_active(model) for model in kept} == {1}

    def test_reaches_every_expected_final_state(
        self, models: list[ModelState], capsys: pytest.CaptureFixture[str]
    ) -> None:
        final_states = {tuple(row.state for row in model.rows) for model in models if is_finished(model)}

        assert {
            ("active", "none"),
            ("previous", "active"),
            ("active", "previous"),  # rolled back
            ("ended", "active"),
            ("active", "closed"),  # the intent of the second writer was abandoned
            ("closed", "active"),
            ("ended", "ended"),  # deleted
        } <= final_states
        with capsys.disabled():
            print(f"\n  write protocol: {len(models)} states visited", end="")
        assert len(models) > 10_000


class TestUnsafeOrder:
    @pytest.mark.parametrize("name", UNSAFE_ORDERS)
    def test_violation_is_found(self, name: str) -> None:
        order, violation = UNSAFE_ORDERS[name]

        assert any(is_finished(model) and violation in violations(model) for model in reachable_models(order))
