"""The chosen order of writes is sound in every state of the model, and the tempting ones are not."""

import pytest

from tests.integration.services.order_of_writes_model import Order, World, at_rest, flaws, reachable

BROKEN = {
    "store, then row": (Order(row_first=None), "orphan"),
    "row in use, then store": (Order(row_first="active"), "dangling row"),
    "intent without check-and-set": (Order(row_first="intent", has_cas=False), "orphan"),
    "sweep that only destroys": (Order(row_first="intent", has_tombstone=False), "orphan"),
}


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    """Every world that the chosen order can lead to."""
    return list(reachable(Order(row_first="intent")))


class TestChosenOrder:
    def test_leaves_neither_orphans_nor_dangling_rows(self, worlds: list[World]) -> None:
        assert [world for world in worlds if at_rest(world) and flaws(world)] == []

    def test_has_no_dangling_row_on_the_way_either(self, worlds: list[World]) -> None:
        assert [world for world in worlds if "dangling row" in flaws(world)] == []

    def test_brings_both_keys_one_or_none_into_use(self, worlds: list[World]) -> None:
        in_use = {sum(row.state == "active" for row in world.rows) for world in worlds if at_rest(world)}

        assert in_use == {0, 1, 2}
        assert len(worlds) > 1000


class TestBrokenOrder:
    @pytest.mark.parametrize("name", BROKEN)
    def test_is_found_broken(self, name: str) -> None:
        order, flaw = BROKEN[name]

        assert any(at_rest(world) and flaw in flaws(world) for world in reachable(order))
