"""Statements: written in SQLAlchemy Core, compiled once, and run on the driver."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.sql.compiler import SQLCompiler

Row = Mapping[str, Any]

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


class Query:
    """A Core statement, compiled to SQL text and parameter order for the driver. All values are bind parameters.

    It is compiled at its first use, because compiling all statements would take a tenth of a start.
    """

    def __init__(self, statement: sa.sql.ClauseElement) -> None:
        self._statement = statement

    @cached_property
    def text(self) -> str:
        return self._compiled[0]

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
        compiled = self._statement.compile(dialect=_DIALECT)
        assert isinstance(compiled, SQLCompiler)
        order = tuple(compiled.positiontup or ())
        if not all(compiled.binds[name].required for name in order):
            raise ValueError("The statement contains a constant that is not a bind parameter.")
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
