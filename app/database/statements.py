"""Statements: written in SQLAlchemy Core, compiled once, and run on the driver."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.sql.compiler import SQLCompiler

Row = Mapping[str, Any]
Found = TypeVar("Found")

_SCOPED = (
    "SELECT found.* FROM (SELECT set_config('byok.org', {organization}, true) AS organization_id) AS context"
    " CROSS JOIN LATERAL (SELECT selected.* FROM ({statement}) AS selected"
    " WHERE context.organization_id = {organization} OFFSET 0) AS found"
)
_DIALECT = PGDialect_asyncpg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
_PARAMETER = re.compile(r"\$(\d+)")
# The first column of each read in a statement that runs several. No table has it.
_ROW_NUMBER = "number_of_this_row"
_PART = "(SELECT row_number() OVER () AS {row_number}, found.* FROM ({statement}) AS found) AS part{number}"
_COMBINED = "SELECT {columns} FROM {joined} ORDER BY coalesce({row_numbers})"


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

    @property
    def number_of_arguments(self) -> int:
        return len(self._compiled[1])

    @cached_property
    def scoped_text(self) -> str:
        """The text of a SELECT that sets the organization itself; its id is one more parameter, the last.

        The subquery refers to the row that sets the organization, and OFFSET 0 keeps the two apart, so PostgreSQL can
        read no row of the subquery before the organization is set. Without it, row-level security shows no rows.
        """
        return _SCOPED.format(statement=self.text, organization=f"${len(self._compiled[1]) + 1}")

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Read(Generic[Found]):
    """A SELECT with its values, and what its rows mean. Several can share a round trip."""

    query: Query
    values: Mapping[str, Any]
    decode: Callable[[Sequence[Row]], Found]


class CombinedReads:
    """Several SELECTs as one statement, so that they take one round trip and see the same snapshot.

    Row 1 of each stands beside row 1 of the others, and so on. Shorter results are filled up with nulls.
    """

    def __init__(self, reads: Sequence[Read[Any]]) -> None:
        self._reads = reads
        self.text = _combined_text(tuple(read.query for read in reads))

    def arguments(self) -> list[Any]:
        return [value for read in self._reads for value in read.query.arguments(read.values)]

    def decode(self, rows: Sequence[Row]) -> list[Any]:
        parts = list(_columns_of_parts(list(rows[0].keys()))) if rows else []
        found: list[list[Row]] = [[] for _ in self._reads]
        for row in rows:
            values = list(row.values())
            for (number, names), own in zip(parts, found, strict=True):
                if values[number] is not None:
                    own.append(dict(zip(names, values[number + 1 :], strict=False)))
        return [read.decode(own) for read, own in zip(self._reads, found, strict=True)]


def _columns_of_parts(names: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """The place of each read's row number, and the names of the columns that follow it."""
    places = [place for place, name in enumerate(names) if name == _ROW_NUMBER]
    for place, end in zip(places, [*places[1:], len(names)], strict=True):
        yield place, names[place + 1 : end]


@lru_cache(maxsize=64)
def _combined_text(queries: tuple[Query, ...]) -> str:
    offsets = accumulate((query.number_of_arguments for query in queries), initial=0)
    parts = [
        _PART.format(row_number=_ROW_NUMBER, statement=_shifted(query.text, by=offset), number=number)
        for number, (query, offset) in enumerate(zip(queries, offsets, strict=False))
    ]
    numbers = range(len(parts))
    return _COMBINED.format(
        columns=", ".join(f"part{number}.*" for number in numbers),
        joined=parts[0] + "".join(f" FULL JOIN {part} USING ({_ROW_NUMBER})" for part in parts[1:]),
        row_numbers=", ".join(f"part{number}.{_ROW_NUMBER}" for number in numbers),
    )


def _shifted(text: str, *, by: int) -> str:
    return _PARAMETER.sub(lambda found: f"${int(found[1]) + by}", text)


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
