"""Two reads in one round trip find what each finds by itself."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from app.database.engine import Database
from app.database.statements import Query, Read, Row

_NUMBERS = Query(
    sa.text(
        "SELECT n, CAST(:text AS text) AS text FROM generate_series(1, CAST(:last AS int)) AS n ORDER BY n DESC"
    )
)
_TYPES = Query(
    sa.text(
        "SELECT CAST(:id AS uuid) AS n, CAST(:at AS timestamptz) AS at, ARRAY[1, 2] AS numbers,"
        " CAST(NULL AS bigint) AS nothing, CAST('{\"a\": 1}' AS jsonb) AS json"
    )
)
_ID, _AT = uuid4(), datetime(2026, 11, 29, 12, tzinfo=UTC)
_TYPED = {"n": _ID, "at": _AT, "numbers": [1, 2], "nothing": None, "json": {"a": 1}}


def numbers(last: int) -> Read[list[int]]:
    def decode(rows: Sequence[Row]) -> list[int]:
        assert all(row["text"] == "x" for row in rows)
        return [row["n"] for row in rows]

    return Read(query=_NUMBERS, values={"text": "x", "last": last}, decode=decode)


def types() -> Read[list[Mapping[str, Any]]]:
    values: dict[str, UUID | datetime] = {"id": _ID, "at": _AT}
    return Read(query=_TYPES, values=values, decode=lambda rows: [dict(row) for row in rows])


class TestReadBoth:
    @pytest.mark.parametrize("first", [0, 1, 3])
    @pytest.mark.parametrize("second", [0, 1, 12])
    async def test_returns_the_rows_of_each_in_their_order(
        self, database: Database, first: int, second: int
    ) -> None:
        async with database.session("org_reads", read_only=True) as session:
            found = await session.read_both(numbers(first), numbers(second))

        assert found == (list(range(first, 0, -1)), list(range(second, 0, -1)))

    @pytest.mark.parametrize("rows", [0, 2])
    async def test_keeps_types_and_columns_of_the_same_name(self, database: Database, rows: int) -> None:
        async with database.session("org_reads", read_only=True) as session:
            found = await session.read_both(types(), numbers(rows))
            swapped = await session.read_both(numbers(rows), types())

        assert found == ([_TYPED], list(range(rows, 0, -1)))
        assert swapped == (found[1], found[0])
