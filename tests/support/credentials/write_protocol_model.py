"""A model of the write protocol, small enough to visit every reachable state.

Two writers write one key each for one credential: the first creates it, the second rotates. Row and secret are in
two systems, connected by messages that may be delayed, lost or delivered twice. A writer may crash at any step.
Reconciliation may abandon its intent at any time, and may crash at any step itself. Meanwhile, requests may roll
back, destroy a previous version or delete the credential. When no work is left, the test looks for

* an orphan: a secret in the store that no row references;
* a dangling row: a row whose secret is not in the store;
* two active versions, or none although a previous one is kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

TAKEN = -1  # a store version that is taken by a tombstone or a destroyed secret

RowState: TypeAlias = Literal[
    "none",
    "intent",
    "abandoned",
    "closed",  # the states up to here have no secret in the store
    "stored",
    "active",
    "previous",  # these three reference a secret
    "ending",  # the row is marked as destroyed
    "ended",  # and the secret is destroyed
]
REFERENCING_STATES = ("stored", "active", "previous")
FINISHED_STATES = ("none", "closed", "active", "previous", "ended")


@dataclass(frozen=True)
class WriteOrder:
    """Which write comes first, and how a late write is blocked."""

    row_first: Literal["intent", "active"] | None
    has_cas: bool = True
    has_tombstone: bool = True
    ends_with_row: bool = False  # the secret is destroyed before its row is marked


@dataclass(frozen=True)
class Row:
    state: RowState = "none"
    expected: int = 0
    version: int = 0  # the store version that it references


@dataclass(frozen=True)
class ModelState:
    rows: tuple[Row, Row] = (Row(), Row())
    store: tuple[int, ...] = ()  # at each store version, from 1 on: the writer of the secret, or TAKEN
    at: tuple[str, str] = ("start", "start")
    writes: frozenset[int] = frozenset()  # the writers whose write message is on its way
    responses: frozenset[tuple[int, int]] = frozenset()  # writer and store version; 0: rejected
    is_deleted: bool = False


def next_models(model: ModelState, order: WriteOrder) -> Iterator[ModelState]:
    """Yield every possible next state."""
    for writer in (0, 1):
        if model.at[writer] != "over":
            yield _at(model, writer, "over")  # it crashes or times out
            yield from _write(model, order, writer)
        if writer in model.writes:
            lost = replace(model, writes=model.writes - {writer})
            yield lost
            yield _deliver(lost, order, writer)
            if model.store.count(writer) == 0:  # a message is delivered at most twice
                yield _deliver(model, order, writer)
        if model.rows[writer].state in {"intent", "abandoned"}:
            yield _reconcile(model, order, writer)
        yield from _change_stored_key(model, order, writer)
    if any(row.state in REFERENCING_STATES for row in model.rows):
        yield _delete(model)


def _write(model: ModelState, order: WriteOrder, writer: int) -> Iterator[ModelState]:
    row, number = model.rows[writer], len(model.store) + 1
    match model.at[writer]:
        case "start" if model.is_deleted or any(o.state in {"intent", "stored"} for o in model.rows):
            return  # one pending version of a credential at a time
        case "start":
            state: RowState = order.row_first or "none"
            version = number if state == "active" else 0
            announced = Row(state=state, expected=number - 1, version=version)
            yield _at(_row(model, writer, announced), writer, "send")
        case "send":
            yield _at(replace(model, writes=model.writes | {writer}), writer, "wait")
        case "wait":
            for responded_to, version in model.responses:
                if responded_to == writer:
                    yield _at(_finish(model, order, writer, version, row), writer, "over")


def _finish(model: ModelState, order: WriteOrder, writer: int, version: int, row: Row) -> ModelState:
    if version == 0 or order.row_first == "active":
        return model
    if order.row_first is None or row.state == "intent":
        return _row(model, writer, replace(row, state="stored", version=version))
    return _destroy(model, version)  # the intent was abandoned: undo the own write


def _change_stored_key(model: ModelState, order: WriteOrder, writer: int) -> Iterator[ModelState]:
    """Yield the next states of a key in the store. Each is one transaction, or one call of the store."""
    row, other = model.rows[writer], model.rows[1 - writer]
    match row.state:
        case "stored":
            yield _state(model, writer, "ending")  # rejected or cancelled
            replaced = _state(model, 1 - writer, "previous") if other.state == "active" else model
            yield _state(replaced, writer, "active")
        case "previous":
            if other.state == "active":
                yield _state(_state(model, 1 - writer, "previous"), writer, "active")  # rolled back
            is_next = order.ends_with_row and _holds(model, writer)
            yield _destroy(model, row.version) if is_next else _state(model, writer, "ending")
        case "ending" if _holds(model, writer):
            yield _destroy(model, row.version)
        case "ending":
            yield _state(model, writer, "ended")


def _delete(model: ModelState) -> ModelState:
    """Mark all rows at once. A write message that is on its way cannot be stopped."""
    for writer, row in enumerate(model.rows):
        if row.state in REFERENCING_STATES:
            model = _state(model, writer, "ending")
        if row.state == "intent":
            model = _state(model, writer, "abandoned")
    return replace(model, is_deleted=True)


def _deliver(model: ModelState, order: WriteOrder, writer: int) -> ModelState:
    expected = model.rows[writer].expected
    if not order.has_cas or len(model.store) == expected:
        number = len(model.store) + 1
        model = replace(model, store=(*model.store, writer))
    else:
        number = expected + 1 if model.store[expected] == writer else 0
    return replace(model, responses=model.responses | {(writer, number)})


def _reconcile(model: ModelState, order: WriteOrder, writer: int) -> ModelState:
    """One step of reconciliation. It may crash after each step, and starts again."""
    row = model.rows[writer]
    if row.state == "intent":
        return _state(model, writer, "abandoned")
    if not order.has_cas:  # it cannot know the store version, so it searches for the writer
        for number, holder in enumerate(model.store, 1):
            model = _destroy(model, number) if holder == writer else model
        return _state(model, writer, "closed")
    if order.has_tombstone and len(model.store) == row.expected:
        return replace(model, store=(*model.store, TAKEN))
    if len(model.store) > row.expected and model.store[row.expected] == writer:
        return _destroy(model, row.expected + 1)
    return _state(model, writer, "closed")


def _at(model: ModelState, writer: int, step: str) -> ModelState:
    return replace(model, at=(step, model.at[1]) if writer == 0 else (model.at[0], step))


def _row(model: ModelState, writer: int, row: Row) -> ModelState:
    return replace(model, rows=(row, model.rows[1]) if writer == 0 else (model.rows[0], row))


def _state(model: ModelState, writer: int, state: RowState) -> ModelState:
    return _row(model, writer, replace(model.rows[writer], state=state))


def _holds(model: ModelState, writer: int) -> bool:
    """Whether the store has the secret that the writer's row references."""
    return model.store[model.rows[writer].version - 1 :][:1] == (writer,)


def _destroy(model: ModelState, number: int) -> ModelState:
    return replace(model, store=(*model.store[: number - 1], TAKEN, *model.store[number:]))


def reachable_models(order: WriteOrder) -> Iterator[ModelState]:
    """Yield every state that this order can reach, each once."""
    visited, unexplored = {ModelState()}, [ModelState()]
    while unexplored:
        model = unexplored.pop()
        yield model
        found = set(next_models(model, order)) - visited
        visited |= found
        unexplored += found


def is_finished(model: ModelState) -> bool:
    settled = all(row.state in FINISHED_STATES for row in model.rows)
    return settled and model.at == ("over", "over") and not model.writes


def violations(model: ModelState) -> set[str]:
    secrets = {(writer, number) for number, writer in enumerate(model.store, 1) if writer != TAKEN}
    referenced = {
        (writer, row.version) for writer, row in enumerate(model.rows) if row.state in REFERENCING_STATES
    }
    found = {"orphan"} if secrets - referenced else set()
    return found | ({"dangling row"} if referenced - secrets else set())


def count_active(model: ModelState) -> int:
    return sum(row.state == "active" for row in model.rows)
