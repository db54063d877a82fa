"""A garbage collection visits few objects, because the event loop waits for it."""

import gc
from collections.abc import Iterator

import pytest

from app.server import _freeze_startup_objects

OBJECTS = 10_000


@pytest.fixture
def _as_in_the_service() -> Iterator[None]:
    before = gc.get_threshold()
    _freeze_startup_objects()
    yield
    gc.set_threshold(*before)


@pytest.mark.usefixtures("_as_in_the_service")
def test_many_objects_are_collected_in_small_steps() -> None:
    generations: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            generations.append(info["generation"])

    gc.callbacks.append(note)
    try:
        kept: list[list[None]] = [[] for _ in range(OBJECTS)]
    finally:
        gc.callbacks.remove(note)

    assert len(kept) == OBJECTS
    assert len(generations) >= 4
    assert max(generations) == 0
