"""Statements that are built for a request are compiled one after another, and take only a part of the time."""

import asyncio
import time
from itertools import pairwise

import pytest
import sqlalchemy as sa

from app.database.statements import Query, StatementCache

BUILD_SECONDS = 0.004
SHAPES = range(4)


class Built:
    """Builds statements that take some milliseconds, and records when."""

    def __init__(self) -> None:
        self.began_at: list[float] = []
        self.shapes: list[int] = []

    def __call__(self, shape: int) -> Query:
        self.began_at.append(time.perf_counter())
        self.shapes.append(shape)
        while time.perf_counter() - self.began_at[-1] < BUILD_SECONDS:
            continue
        return Query(sa.text(f"SELECT {shape}"))

    @property
    def longest_pause(self) -> float:
        return max(later - earlier for earlier, later in pairwise(self.began_at)) - BUILD_SECONDS


@pytest.fixture
def built() -> Built:
    return Built()


@pytest.fixture
def statements(built: Built) -> StatementCache[int]:
    return StatementCache(built, at_most=len(SHAPES))


async def test_statements_are_built_once(statements: StatementCache[int], built: Built) -> None:
    await asyncio.gather(*(statements.prepare(1) for _ in range(3)))

    assert statements(1) is statements(1)
    assert built.shapes == [1]


async def test_those_that_were_asked_for_last_are_kept(statements: StatementCache[int], built: Built) -> None:
    for shape in (*SHAPES, 0, 99):
        await statements.prepare(shape)
        statements(shape)

    built.shapes.clear()
    for shape in (0, 99, 1):
        statements(shape)

    assert built.shapes == [1]


async def test_the_first_ones_do_not_wait(statements: StatementCache[int], built: Built) -> None:
    await asyncio.gather(*(statements.prepare(shape) for shape in SHAPES))

    assert built.longest_pause < BUILD_SECONDS


async def test_many_take_a_tenth_of_the_time(statements: StatementCache[int], built: Built) -> None:
    at_full_pace = round(0.2 / BUILD_SECONDS)

    await asyncio.gather(*(statements.prepare(shape) for shape in range(at_full_pace + 10)))

    began_at = built.began_at[-8:]
    assert (began_at[-1] - began_at[0]) / 7 >= 9 * BUILD_SECONDS
