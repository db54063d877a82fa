"""Statements that are built for a request are compiled one after another, and take only a part of the time."""

import asyncio
import gc
import weakref

import pytest
import sqlalchemy as sa

from app.database.statements import Query, StatementCache, _CompileTime

SHAPES = range(4)


class Built:
    """Builds statements, and records which."""

    def __init__(self) -> None:
        self.shapes: list[int] = []

    def __call__(self, shape: int) -> Query:
        self.shapes.append(shape)
        return Query(sa.text(f"SELECT {shape}"))


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


async def test_of_compiled_ones_only_the_text_is_kept() -> None:
    built: list[weakref.ref[sa.TextClause]] = []

    def build(shape: int) -> Query:
        statement = sa.text(f"SELECT {shape}")
        built.append(weakref.ref(statement))
        return Query(statement)

    statements = StatementCache(build, at_most=1)
    await statements.prepare(1)
    gc.collect()

    assert statements(1).text == "SELECT 1"
    assert [it() for it in built] == [None]


def test_the_first_ones_do_not_wait() -> None:
    compile_time = _CompileTime()

    compile_time.use(0.1)
    assert compile_time.waiting_seconds() < 0

    for _ in range(2):
        compile_time.use(0.1)
    assert compile_time.waiting_seconds() > 0


def test_a_busy_machine_is_not_counted() -> None:
    compile_time = _CompileTime()

    for _ in range(3):
        compile_time.use(60)

    assert 0 < compile_time.waiting_seconds() < 2


def test_many_take_a_tenth_of_the_time() -> None:
    compile_time = _CompileTime()

    for _ in range(500):
        compile_time.use(0.02)

    assert compile_time.waiting_seconds() == pytest.approx(100 - 0.2 / 0.1, abs=1)
