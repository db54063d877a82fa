"""Statements: written in SQLAlchemy Core, compiled once, and run on the driver.

`StatementCache` has those that are built for a request, one for each combination of filters and groups. To build and compile one
takes up to 20 milliseconds of the event loop, and cannot pause: a client that names another combination in each request would
take all of it.
"""

import asyncio
import time
from asyncio import AbstractEventLoop
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from functools import cached_property
from typing import Any, Final, Generic, TypeVar
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.sql.compiler import SQLCompiler

from app.core.event_loop import waits_for_slot

Row = Mapping[str, Any]
Shape = TypeVar("Shape", bound=Hashable)

_SCOPED = (
    "SELECT found.* FROM (SELECT set_config('byok.org', {organization}, true) AS organization_id) AS context"
    " CROSS JOIN LATERAL (SELECT selected.* FROM ({statement}) AS selected"
    " WHERE context.organization_id = {organization} OFFSET 0) AS found"
)
_DIALECT = PGDialect_asyncpg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]

# The same for one of several calls in a transaction. Row by row: the organization is set before the call, and the wait for a
# lock is short, because the other organizations wait meanwhile.
_SHARED = (
    "SELECT found.*, context.call_number FROM ("
    "SELECT set_config('byok.org', {organization}, true) AS organization_id,"
    " set_config('lock_timeout', '{lock_timeout}ms', true) AS lock_timeout, CAST({number} AS integer) AS call_number"
    ") AS context CROSS JOIN LATERAL (SELECT selected.* FROM ({statement}) AS selected"
    " WHERE context.organization_id = {organization} OFFSET 0) AS found"
)
SHARED_LOCK_TIMEOUT_MS = 20

# All statements of a process together take a tenth of the time, except for the first ones after a while: some ten of them.
_SHARE: Final = 0.1
_AT_FULL_PACE_SECONDS: Final = 0.2
# What takes longer is not the statement, but a machine on which other processes run.
_LONGEST_SECONDS: Final = 0.1


class Query:
    """A Core statement, compiled to SQL text and parameter order for the driver. All values are bind parameters.

    It is compiled at its first use, because compiling all statements would take a tenth of a start.
    """

    def __init__(self, statement: sa.sql.ClauseElement) -> None:
        self._statement: sa.sql.ClauseElement | None = statement

    @cached_property
    def text(self) -> str:
        return self._compiled[0]

    def compile(self) -> None:
        """Compile the statement now."""
        _ = self._compiled

    @property
    def has_values(self) -> bool:
        return bool(self._compiled[1])

    @cached_property
    def scoped_text(self) -> str:
        """The text of a SELECT that sets the organization itself; its id is one more parameter, the last.

        The subquery refers to the row that sets the organization, and OFFSET 0 keeps the two apart, so PostgreSQL can
        read no row of the subquery before the organization is set. Without it, row-level security shows no rows.
        """
        return _SCOPED.format(statement=self.text, organization=f"${len(self._compiled[1]) + 1}")

    @cached_property
    def shared_text(self) -> str:
        """The text of one of several such SELECTs in a transaction; the organization and its number are the last parameters.

        Each row has the number of its call as `call_number`.
        """
        count = len(self._compiled[1])
        return _SHARED.format(
            statement=self.text,
            organization=f"${count + 1}",
            number=f"${count + 2}",
            lock_timeout=SHARED_LOCK_TIMEOUT_MS,
        )

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        return [values[name] for name in self._compiled[1]]

    @cached_property
    def _compiled(self) -> tuple[str, tuple[str, ...]]:
        assert self._statement is not None
        compiled = self._statement.compile(dialect=_DIALECT)
        assert isinstance(compiled, SQLCompiler)
        order = tuple(compiled.positiontup or ())
        if not all(compiled.binds[name].required for name in order):
            raise ValueError("The statement contains a constant that is not a bind parameter.")
        # Of a report, it takes 300 KiB, thirty times as much as the text, and a process keeps a thousand of them.
        self._statement = None
        return str(compiled), order


class FixedStatement:
    """A statement that runs in the same round trip as BEGIN or COMMIT.

    It takes no values. It can read the organization only from the setting `byok.org`.
    """

    def __init__(self, statement: sa.sql.ClauseElement) -> None:
        self._query = Query(statement)

    @cached_property
    def text(self) -> str:
        if self._query.has_values:
            raise ValueError("A fixed statement takes no values.")
        return self._query.text


class _CompileTime:
    """Who compiles next in an event loop, and when the time is used up that the earlier ones may take."""

    def __init__(self) -> None:
        self.line = asyncio.Lock()
        self._used_up_until = 0.0

    async def wait(self) -> None:
        """Wait until there is time."""
        await asyncio.sleep(self.waiting_seconds())

    def waiting_seconds(self) -> float:
        """How long to wait until there is time; zero or less if there is."""
        return self._used_up_until - _AT_FULL_PACE_SECONDS / _SHARE - time.perf_counter()

    def use(self, seconds: float) -> None:
        counted = min(seconds, _LONGEST_SECONDS)
        self._used_up_until = max(self._used_up_until, time.perf_counter()) + counted / _SHARE


_compile_times: WeakKeyDictionary[AbstractEventLoop, _CompileTime] = WeakKeyDictionary()


class StatementCache(Generic[Shape]):
    """The statements of the shapes that were asked for last.

    Args:
        build: builds the statement of a shape.
        at_most: how many are kept.
    """

    def __init__(self, build: Callable[[Shape], Query], *, at_most: int) -> None:
        self._build = build
        self._at_most = at_most
        self._kept: OrderedDict[Shape, Query] = OrderedDict()

    def __call__(self, shape: Shape) -> Query:
        """Return the statement. Await `prepare` before, and outside a transaction, unless the shape is always the same."""
        found = self._kept.get(shape)
        if found is None:
            found = self._kept[shape] = self._build(shape)
            if len(self._kept) > self._at_most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(shape)
        return found

    async def prepare(self, shape: Shape) -> None:
        """Build and compile the statement if it is new. Waits while others are compiled, and until there is time for it.

        Callers hold no slot that other organizations wait for, and of one organization only a few wait here at a time.
        """
        if shape in self._kept:
            self._kept.move_to_end(shape)
            return
        waits_for_slot()
        compile_time = _compile_times.setdefault(asyncio.get_running_loop(), _CompileTime())
        async with compile_time.line:
            if shape in self._kept:
                return
            await compile_time.wait()
            began_at = time.perf_counter()
            self(shape).compile()
            compile_time.use(time.perf_counter() - began_at)


def cached_statements(*, at_most: int) -> Callable[[Callable[[Shape], Query]], StatementCache[Shape]]:
    """Keep the statements that a function builds."""

    def keep(build: Callable[[Shape], Query]) -> StatementCache[Shape]:
        return StatementCache(build, at_most=at_most)

    return keep
