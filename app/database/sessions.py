"""Sessions: what repositories run statements with."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import structlog

from app.database.statements import FixedStatement, Query, Row

log = structlog.get_logger("byok.database")


class NoRow(Exception):
    """A statement that always returns a row returned none."""


class Session:
    """One transaction on one connection. Without a call of `commit` a writing transaction is rolled back."""

    __slots__ = ("_connection", "is_home", "is_on_citus", "is_open")

    def __init__(self, connection: Any, *, is_home: bool = True, is_on_citus: bool = False) -> None:
        self._connection = connection
        self.is_home = is_home  # the transaction runs in the first cell, which is never on a worker of Citus
        self.is_on_citus = is_on_citus  # the transaction runs in a cell that may be on a worker
        self.is_open = True

    async def rows(self, statement: Query, /, **values: Any) -> Sequence[Row]:
        """Run a statement and return all rows."""
        found: Sequence[Row] = await self._connection.fetch(statement.text, *statement.arguments(values))
        return found

    async def first(self, statement: Query, /, **values: Any) -> Row | None:
        """Run a statement and return its first row, or None."""
        found: Row | None = await self._connection.fetchrow(statement.text, *statement.arguments(values))
        return found

    async def one(self, statement: Query, /, **values: Any) -> Row:
        """Run a statement that always returns a row, and return that row.

        Raises:
            NoRow
        """
        found = await self.first(statement, **values)
        if found is None:
            raise NoRow
        return found

    async def execute(self, statement: Query, /, **values: Any) -> int:
        """Run a statement and return the number of rows it affected."""
        tag: str = await self._connection.execute(statement.text, *statement.arguments(values))
        return int(tag.rpartition(" ")[2])

    async def commit(self, *, last_statement: FixedStatement | None = None) -> None:
        """Commit, and run a last statement before that in the same round trip."""
        await self._connection.execute(
            "COMMIT" if last_statement is None else f"{last_statement.text}; COMMIT"
        )
        self.is_open = False

    async def roll_back(self) -> None:
        await self._connection.execute("ROLLBACK")
        self.is_open = False


class NotASelect(Exception):
    """A statement that is not a SELECT was tried without a transaction."""


class AutocommitSelects(Session):
    """SELECTs for one organization without BEGIN and COMMIT: one round trip in place of three.

    Each statement is a transaction of its own. PostgreSQL rejects anything but a SELECT in it. A SELECT may call a
    function that writes.
    """

    __slots__ = ("_fetch",)

    def __init__(self, fetch: Callable[[Query, Mapping[str, Any]], Awaitable[Sequence[Row]]]) -> None:
        super().__init__(None)
        self._fetch = fetch

    async def rows(self, statement: Query, /, **values: Any) -> Sequence[Row]:
        return await self._fetch(statement, values)

    async def first(self, statement: Query, /, **values: Any) -> Row | None:
        found = await self.rows(statement, **values)
        return found[0] if found else None

    async def execute(self, _statement: Query, /, **_values: Any) -> int:
        raise NotASelect
