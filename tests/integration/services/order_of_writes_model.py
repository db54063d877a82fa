"""A model of the order of writes, small enough to look at every state that it can get into.

Two writers bring a key each to one credential. A row and a secret live in two systems, joined by
messages that may be late, lost, or come twice. A writer may crash at any step, and a sweep may take
it for dead at any moment. The question is what is left when everything has come to rest:

* an orphan: a secret in the store to which no row points;
* a dangling row: one that points to where its secret is not.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

GONE = -1  # what a tombstone or a destroyed secret leaves in the store: a taken number


@dataclass(frozen=True)
class Order:
    """Who does what first, and by what a late write is kept out."""

    row_first: Literal["intent", "active"] | None
    has_cas: bool = True
    has_tombstone: bool = True


@dataclass(frozen=True)
class Row:
    state: Literal["none", "intent", "abandoned", "closed", "active"] = "none"
    expected: int = 0
    version: int = 0  # which number of the store it points to


@dataclass(frozen=True)
class World:
    rows: tuple[Row, Row] = (Row(), Row())
    store: tuple[int, ...] = ()  # at each number, from 1 on: whose secret, or GONE
    at: tuple[str, str] = ("start", "start")
    writes: frozenset[int] = frozenset()  # of which writer a write is under way
    answers: frozenset[tuple[int, int]] = frozenset()  # writer and number written; 0: refused


def moves(world: World, order: Order) -> Iterator[World]:
    """Everything that may happen next."""
    for writer in (0, 1):
        if world.at[writer] != "over":
            yield _at(world, writer, "over")  # it crashes, or tires of waiting
            yield from _write(world, order, writer)
        if writer in world.writes:
            lost = replace(world, writes=world.writes - {writer})
            yield lost
            yield _deliver(lost, order, writer)
            if world.store.count(writer) == 0:  # twice is enough to come twice
                yield _deliver(world, order, writer)
        if world.rows[writer].state in {"intent", "abandoned"}:
            yield _sweep(world, order, writer)


def _write(world: World, order: Order, writer: int) -> Iterator[World]:
    row, number = world.rows[writer], len(world.store) + 1
    match world.at[writer]:
        case "start" if any(other.state == "intent" for other in world.rows):
            return  # one intent of a credential at a time
        case "start":
            state = order.row_first or "none"
            version = number if state == "active" else 0
            begun = Row(state=state, expected=number - 1, version=version)
            yield _at(_row(world, writer, begun), writer, "send")
        case "send":
            yield _at(replace(world, writes=world.writes | {writer}), writer, "wait")
        case "wait":
            for answered, version in world.answers:
                if answered == writer:
                    yield _at(_finish(world, order, writer, version, row), writer, "over")


def _finish(world: World, order: Order, writer: int, version: int, row: Row) -> World:
    if version == 0 or order.row_first == "active":
        return world
    if order.row_first is None or row.state == "intent":
        return _row(world, writer, replace(row, state="active", version=version))
    return _destroy(world, version)  # the row did not wait: undo the own write


def _deliver(world: World, order: Order, writer: int) -> World:
    expected = world.rows[writer].expected
    if not order.has_cas or len(world.store) == expected:
        number = len(world.store) + 1
        world = replace(world, store=(*world.store, writer))
    else:
        number = expected + 1 if world.store[expected] == writer else 0
    return replace(world, answers=world.answers | {(writer, number)})


def _sweep(world: World, order: Order, writer: int) -> World:
    row = world.rows[writer]
    if row.state == "intent":
        return _row(world, writer, replace(row, state="abandoned"))
    if not order.has_cas:  # it cannot know the number, so it looks for the writer's name
        for number, holder in enumerate(world.store, 1):
            world = _destroy(world, number) if holder == writer else world
    if order.has_tombstone and (len(world.store) == row.expected or not order.has_cas):
        world = replace(world, store=(*world.store, GONE))
    if len(world.store) > row.expected and world.store[row.expected] == writer:
        world = _destroy(world, row.expected + 1)
    return _row(world, writer, replace(row, state="closed"))


def _at(world: World, writer: int, place: str) -> World:
    return replace(world, at=(place, world.at[1]) if writer == 0 else (world.at[0], place))


def _row(world: World, writer: int, row: Row) -> World:
    return replace(world, rows=(row, world.rows[1]) if writer == 0 else (world.rows[0], row))


def _destroy(world: World, number: int) -> World:
    return replace(world, store=(*world.store[: number - 1], GONE, *world.store[number:]))


def reachable(order: Order) -> Iterator[World]:
    """Every world that the order can lead to, each once."""
    seen, unexplored = {World()}, [World()]
    while unexplored:
        world = unexplored.pop()
        yield world
        found = set(moves(world, order)) - seen
        seen |= found
        unexplored += found


def at_rest(world: World) -> bool:
    settled = all(row.state not in {"intent", "abandoned"} for row in world.rows)
    return settled and world.at == ("over", "over") and not world.writes


def flaws(world: World) -> set[str]:
    secrets = {(writer, number) for number, writer in enumerate(world.store, 1) if writer != GONE}
    pointed_at = {(writer, row.version) for writer, row in enumerate(world.rows) if row.state == "active"}
    found = {"orphan"} if secrets - pointed_at else set()
    return found | ({"dangling row"} if pointed_at - secrets else set())
