"""A model of the order of writes, small enough to look at every state that it can get into.

Two writers bring a key each to one credential: the first creates it, the second rotates. Row and secret live in
two systems, joined by messages that may be late, lost, or come twice. A writer may crash at any step, a
sweep may take it for dead at any moment and may die at any step itself; meanwhile somebody rolls back, lets a
kept key go, or deletes the credential. The question is what is left when everything has come to rest:

* an orphan: a secret in the store to which no row points;
* a dangling row: one that points to where its secret is not;
* two keys in use, or none though one is kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

GONE = -1  # what a tombstone or a destroyed secret leaves in the store: a taken number

State: TypeAlias = Literal[
    "none",
    "intent",
    "abandoned",
    "closed",  # up to here it never got to the store
    "stored",
    "active",
    "previous",  # these three point to a secret
    "ending",  # the row says destroyed
    "ended",  # and the secret is gone as well
]
POINTING = ("stored", "active", "previous")
AT_REST = ("none", "closed", "active", "previous", "ended")


@dataclass(frozen=True)
class Order:
    """Who does what first, and by what a late write is kept out."""

    row_first: Literal["intent", "active"] | None
    has_cas: bool = True
    has_tombstone: bool = True
    ends_with_row: bool = False  # the secret is destroyed before its row says so


@dataclass(frozen=True)
class Row:
    state: State = "none"
    expected: int = 0
    version: int = 0  # which number of the store it points to


@dataclass(frozen=True)
class World:
    rows: tuple[Row, Row] = (Row(), Row())
    store: tuple[int, ...] = ()  # at each number, from 1 on: whose secret, or GONE
    at: tuple[str, str] = ("start", "start")
    writes: frozenset[int] = frozenset()  # of which writer a write is under way
    answers: frozenset[tuple[int, int]] = frozenset()  # writer and number written; 0: refused
    is_deleted: bool = False


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
        yield from _live(world, order, writer)
    if any(row.state in POINTING for row in world.rows):
        yield _delete(world)


def _write(world: World, order: Order, writer: int) -> Iterator[World]:
    row, number = world.rows[writer], len(world.store) + 1
    match world.at[writer]:
        case "start" if world.is_deleted or any(o.state in {"intent", "stored"} for o in world.rows):
            return  # one new key of a credential at a time
        case "start":
            state: State = order.row_first or "none"
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
        return _row(world, writer, replace(row, state="stored", version=version))
    return _destroy(world, version)  # the row did not wait: undo the own write


def _live(world: World, order: Order, writer: int) -> Iterator[World]:
    """What becomes of a key that is in the store: each move one transaction, or one call of the store."""
    row, other = world.rows[writer], world.rows[1 - writer]
    match row.state:
        case "stored":
            yield _state(world, writer, "ending")  # refused, or cancelled
            replaced = _state(world, 1 - writer, "previous") if other.state == "active" else world
            yield _state(replaced, writer, "active")
        case "previous":
            if other.state == "active":
                yield _state(_state(world, 1 - writer, "previous"), writer, "active")  # rolled back
            is_next = order.ends_with_row and _holds(world, writer)
            yield _destroy(world, row.version) if is_next else _state(world, writer, "ending")
        case "ending" if _holds(world, writer):
            yield _destroy(world, row.version)
        case "ending":
            yield _state(world, writer, "ended")


def _delete(world: World) -> World:
    """Every row ends at once; a write that is under way cannot be called back."""
    for writer, row in enumerate(world.rows):
        if row.state in POINTING:
            world = _state(world, writer, "ending")
        if row.state == "intent":
            world = _state(world, writer, "abandoned")
    return replace(world, is_deleted=True)


def _deliver(world: World, order: Order, writer: int) -> World:
    expected = world.rows[writer].expected
    if not order.has_cas or len(world.store) == expected:
        number = len(world.store) + 1
        world = replace(world, store=(*world.store, writer))
    else:
        number = expected + 1 if world.store[expected] == writer else 0
    return replace(world, answers=world.answers | {(writer, number)})


def _sweep(world: World, order: Order, writer: int) -> World:
    """One step of it; it may die after each, and begins anew."""
    row = world.rows[writer]
    if row.state == "intent":
        return _state(world, writer, "abandoned")
    if not order.has_cas:  # it cannot know the number, so it looks for the writer's name
        for number, holder in enumerate(world.store, 1):
            world = _destroy(world, number) if holder == writer else world
        return _state(world, writer, "closed")
    if order.has_tombstone and len(world.store) == row.expected:
        return replace(world, store=(*world.store, GONE))
    if len(world.store) > row.expected and world.store[row.expected] == writer:
        return _destroy(world, row.expected + 1)
    return _state(world, writer, "closed")


def _at(world: World, writer: int, place: str) -> World:
    return replace(world, at=(place, world.at[1]) if writer == 0 else (world.at[0], place))


def _row(world: World, writer: int, row: Row) -> World:
    return replace(world, rows=(row, world.rows[1]) if writer == 0 else (world.rows[0], row))


def _state(world: World, writer: int, state: State) -> World:
    return _row(world, writer, replace(world.rows[writer], state=state))


def _holds(world: World, writer: int) -> bool:
    """Whether the secret is where the writer's row points."""
    return world.store[world.rows[writer].version - 1 :][:1] == (writer,)


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
    settled = all(row.state in AT_REST for row in world.rows)
    return settled and world.at == ("over", "over") and not world.writes


def flaws(world: World) -> set[str]:
    secrets = {(writer, number) for number, writer in enumerate(world.store, 1) if writer != GONE}
    pointed_at = {(writer, row.version) for writer, row in enumerate(world.rows) if row.state in POINTING}
    found = {"orphan"} if secrets - pointed_at else set()
    return found | ({"dangling row"} if pointed_at - secrets else set())


def in_use(world: World) -> int:
    return sum(row.state == "active" for row in world.rows)
