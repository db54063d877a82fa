"""The chosen order of writes is sound in every state of the model, and the tempting ones are not."""

import pytest

from tests.integration.services.order_of_writes_model import Order, World, at_rest, flaws, in_use, reachable

BROKEN = {
    "store, then row": (Order(row_first=None), "orphan"),
    "row in use, then store": (Order(row_first="active"), "dangling row"),
    "intent without check-and-set": (Order(row_first="intent", has_cas=False), "orphan"),
    "sweep that only destroys": (Order(row_first="intent", has_tombstone=False), "orphan"),
    "secret destroyed, then row": (Order(row_first="intent", ends_with_row=True), "dangling row"),
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

    def test_has_never_two_keys_in_use_nor_a_kept_one_alone(self, worlds: list[World]) -> None:
        kept = [world for world in worlds if any(row.state == "previous" for row in world.rows)]

        assert {in_use(world) for world in worlds} == {0, 1}
        assert {in_use(world) for world in kept} == {1}

    def test_comes_to_rest_in_every_way_that_it_should(
        self, worlds: list[World], capsys: pytest.CaptureFixture[str]
    ) -> None:
        rest = {tuple(row.state for row in world.rows) for world in worlds if at_rest(world)}

        assert {
            ("active", "none"),
            ("previous", "active"),
            ("active", "previous"),  # rolled back
            ("ended", "active"),
            ("active", "closed"),  # the second writer was taken for dead
            ("closed", "active"),
            ("ended", "ended"),  # deleted
        } <= rest
        with capsys.disabled():
            print(f"\n  order of writes: {len(worlds)} states looked at", end="")
        assert len(worlds) > 10_000


class TestBrokenOrder:
    @pytest.mark.parametrize("name", BROKEN)
    def test_is_found_broken(self, name: str) -> None:
        order, flaw = BROKEN[name]

        assert any(at_rest(world) and flaw in flaws(world) for world in reachable(order))
