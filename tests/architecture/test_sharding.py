"""Rows of two organizations never meet, so each can be in a cell: checks the catalog and the statements."""

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping
from functools import cache

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

import app
from app.database.columns import metadata
from app.database.statements import Query
from app.usage.filters import PER_REQUEST, Dimension, FilterShape
from app.usage.listing_repository import _days, _page, _StatementShape
from app.usage_reports.day_repository import day_statement
from app.usage_reports.report_statement import StatementShape, report_statement, top_statement
from app.usage_reports.reports import Ranking
from tests.support.database.rows import fetch

# Tables without organizations: they are on one node, or identical on all nodes.
WITHOUT_ORGANIZATION = {"alembic_version", "sealing_keyset"}


async def tables(superuser: AsyncEngine) -> set[str]:
    found = await fetch(
        superuser,
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        " AND relkind IN ('r', 'p') AND NOT relispartition",
    )
    return {row["relname"] for row in found}


class TestCatalog:
    async def test_every_table_has_an_organization_or_is_an_exception(self, superuser: AsyncEngine) -> None:
        found = await fetch(
            superuser,
            "SELECT relname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid"
            " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition"
            " AND attname = 'organization_id' AND attnotnull",
        )

        assert {row["relname"] for row in found} == await tables(superuser) - WITHOUT_ORGANIZATION

    async def test_every_primary_key_begins_with_the_organization(self, superuser: AsyncEngine) -> None:
        found = await fetch(
            superuser,
            "SELECT relname, attname FROM pg_constraint"
            " JOIN pg_class ON pg_class.oid = conrelid JOIN pg_attribute ON attrelid = conrelid AND attnum = conkey[1]"
            " WHERE contype = 'p' AND relnamespace = 'public'::regnamespace AND NOT relispartition",
        )

        leading = {row["relname"]: row["attname"] for row in found}
        of_organizations = await tables(superuser) - WITHOUT_ORGANIZATION
        assert {table: leading.get(table) for table in of_organizations} == dict.fromkeys(
            of_organizations, "organization_id"
        )

    async def test_every_unique_index_contains_the_organization(self, superuser: AsyncEngine) -> None:
        found = await fetch(
            superuser,
            "SELECT c.relname AS name, t.relname AS of_table,"
            " array_agg(a.attname::text) @> ARRAY['organization_id'] AS holds FROM pg_index i"
            " JOIN pg_class c ON c.oid = indexrelid JOIN pg_class t ON t.oid = indrelid"
            " JOIN pg_attribute a ON a.attrelid = indrelid AND a.attnum = ANY (indkey)"
            " WHERE indisunique AND t.relnamespace = 'public'::regnamespace AND NOT t.relispartition"
            " GROUP BY c.relname, t.relname",
        )

        assert len(found) > 10
        assert [
            row for row in found if not row["holds"] and row["of_table"] not in WITHOUT_ORGANIZATION
        ] == []

    async def test_every_foreign_key_stays_within_the_organization(self, superuser: AsyncEngine) -> None:
        found = await fetch(
            superuser,
            "SELECT conname, bool_or(here.attname = 'organization_id' AND there.attname = 'organization_id') AS holds"
            " FROM pg_constraint, unnest(conkey, confkey) AS pair(here_number, there_number),"
            " pg_attribute here, pg_attribute there"
            " WHERE contype = 'f' AND connamespace = 'public'::regnamespace"
            " AND here.attrelid = conrelid AND here.attnum = here_number"
            " AND there.attrelid = confrelid AND there.attnum = there_number GROUP BY conname",
        )

        assert found
        assert [row["conname"] for row in found if not row["holds"]] == []


@cache
def statements() -> Mapping[str, str]:
    """The text of every statement that repositories compile at import, by its module and name."""
    return dict(_statements())


def _statements() -> Iterator[tuple[str, str]]:
    for module in pkgutil.walk_packages(app.__path__, "app."):
        for name, value in vars(importlib.import_module(module.name)).items():
            for number, it in enumerate(value if isinstance(value, tuple | list) else [value]):
                if isinstance(it, Query):
                    yield f"{module.name}.{name}[{number}]", it.text


# Tables with their aliases.
_NO_NAME = "AS|CROSS|FOR|FROM|GROUP|JOIN|LEFT|LIMIT|ON|ORDER|RETURNING|SELECT|SET|UNION|USING|VALUES|WHERE"
_NAMED = re.compile(
    rf"\b(?:FROM|JOIN|UPDATE|INTO|USING|,)\s+([a-z_]+)(?:(?:\s+AS)?\s+(?!(?:{_NO_NAME})\b)([a-z_0-9]+))?",
    re.IGNORECASE,
)
_EQUAL = re.compile(
    r"(?:\b([a-z_0-9]+)\.)?\borganization_id = (?:CAST\()?([a-z_0-9]+\.organization_id|\$\d+)"
)
_INTO = re.compile(r"INSERT INTO ([a-z_]+)(?: AS ([a-z_]+))?\s+\(organization_id")
# Subqueries. Their tables are checked too.
_SUBQUERY = re.compile(r"\) AS ([a-z_]+)|\b([a-z_]+) AS\s+(?:MATERIALIZED )?\(")
# Statements about all organizations: claims, counts and pages of the job queue.
UNSCOPED = {f"app.jobs.queue.{name}[0]" for name in ("_CLAIM", "_COUNT", "_PAGE")}


def _table_before(text: str) -> str:
    """The table of an unqualified column: the last one that the text before it names."""
    *_, last = _NAMED.finditer(text)
    return last[2] or last[1]


def unbound(text: str) -> set[str]:
    """Names or aliases of the tables whose `organization_id` no equation restricts."""
    named = [(match[1], match[2] or match[1]) for match in _NAMED.finditer(text)]
    names = {name for table, name in named if table in metadata.tables}
    subqueries = {match[1] or match[2] for match in _SUBQUERY.finditer(text)}
    bound = subqueries | {name for table, name in named if table in subqueries}
    bound |= {name for match in _INTO.finditer(text) for name in match.groups() if name}
    equal = [
        (match[1] or _table_before(text[: match.start()]), match[2].removesuffix(".organization_id"))
        for match in _EQUAL.finditer(text)
    ]
    bound |= {left for left, right in equal if right.startswith("$")}
    for _ in equal:
        bound |= {left for left, right in equal if right in bound}
        bound |= {right for left, right in equal if left in bound}
    return names - bound


def top_level(text: str) -> str:
    """The text without everything in parentheses."""
    while (shorter := re.sub(r"\([^()]*\)", "", text)) != text:
        text = shorter
    return text


def is_copied_by_citus(text: str) -> bool:
    """Whether Citus writes the rows with COPY, which row-level security refuses: an INSERT of a SELECT by itself."""
    top = top_level(text)
    return bool(re.search(r"\bINSERT\b.*\bSELECT\b", top, re.DOTALL)) and not re.search(
        r"\bRETURNING\b|\bON CONFLICT\b", top
    )


class TestStatements:
    def test_write_no_rows_that_citus_would_copy(self) -> None:
        assert [name for name, text in statements().items() if is_copied_by_citus(text)] == []

    def test_that_citus_would_copy_are_found(self) -> None:
        version = metadata.tables["credential_version"]
        copied = sa.insert(version).from_select(["key_hint"], sa.select(version.c.key_hint))

        assert is_copied_by_citus(Query(copied).text)
        assert not is_copied_by_citus(Query(copied.returning(version.c.key_hint)).text)
        assert not is_copied_by_citus(
            Query(sa.select(copied.returning(version.c.key_hint).cte().c.key_hint)).text
        )

    def test_restrict_every_table_to_the_organization(self) -> None:
        assert {
            name: found
            for name, text in statements().items()
            if name not in UNSCOPED and (found := unbound(text))
        } == {}

    def test_of_reports_restrict_every_table_to_the_organization(self) -> None:
        for dimensions in (*((it,) for it in Dimension), (), tuple(Dimension)):
            filters = FilterShape(frozenset(dimensions), frozenset(dimensions))
            for ranking in (None, Ranking(), Ranking(top=3)):
                assert unbound(report_statement(StatementShape(dimensions, filters, ranking)).text) == set()
            assert unbound(top_statement(StatementShape(dimensions, filters, Ranking(top=3))).text) == set()

    def test_of_listings_restrict_every_table_to_the_organization(self) -> None:
        ids = frozenset({"event_id", "provider_request_id"})
        for dimension in Dimension:
            filters = FilterShape(frozenset({dimension}), frozenset({dimension}))
            for statement in (_page, _days):
                assert unbound(statement(_StatementShape(filters, ids, is_first=False)).text) == set()
            rolled_up = FilterShape(filters.only - PER_REQUEST, filters.without)
            assert unbound(day_statement(rolled_up).text) == set()

    def test_without_the_restriction_are_found(self) -> None:
        version = metadata.tables["credential_version"]
        credential = metadata.tables["provider_credential"]
        organization = sa.bindparam("organization_id", type_=sa.Text)
        unrestricted = (
            sa.select(version)
            .join(credential, credential.c.id == version.c.credential_id)
            .where(version.c.organization_id == organization)
        )

        assert unbound(Query(unrestricted).text) == {"provider_credential"}
        restricted = unrestricted.where(credential.c.organization_id == version.c.organization_id)
        assert unbound(Query(restricted).text) == set()
