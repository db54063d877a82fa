"""The schema shards by organization without a rewrite: from the catalog, from the statements, and from the page that says how."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

import app
from app.database.columns import metadata
from app.database.engine import Query
from tests.rows import fetch

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
# Of no organization: on one node, or on each the same.
OF_NO_ORGANIZATION = {"alembic_version", "sealing_keyset"}


async def tables(owner: AsyncEngine) -> set[str]:
    found = await fetch(
        owner,
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        " AND relkind IN ('r', 'p') AND NOT relispartition",
    )
    return {row["relname"] for row in found}


class TestCatalog:
    async def test_every_table_is_of_an_organization_or_on_the_list(self, owner: AsyncEngine) -> None:
        found = await fetch(
            owner,
            "SELECT relname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid"
            " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition"
            " AND attname = 'organization_id' AND attnotnull",
        )

        assert {row["relname"] for row in found} == await tables(owner) - OF_NO_ORGANIZATION

    async def test_every_table_has_a_primary_key_that_the_organization_leads(
        self, owner: AsyncEngine
    ) -> None:
        found = await fetch(
            owner,
            "SELECT relname, attname FROM pg_constraint"
            " JOIN pg_class ON pg_class.oid = conrelid JOIN pg_attribute ON attrelid = conrelid AND attnum = conkey[1]"
            " WHERE contype = 'p' AND relnamespace = 'public'::regnamespace AND NOT relispartition",
        )

        leading = {row["relname"]: row["attname"] for row in found}
        of_organizations = await tables(owner) - OF_NO_ORGANIZATION
        assert {table: leading.get(table) for table in of_organizations} == dict.fromkeys(
            of_organizations, "organization_id"
        )

    async def test_every_unique_index_holds_the_organization(self, owner: AsyncEngine) -> None:
        found = await fetch(
            owner,
            "SELECT c.relname AS name, t.relname AS of_table,"
            " array_agg(a.attname::text) @> ARRAY['organization_id'] AS holds FROM pg_index i"
            " JOIN pg_class c ON c.oid = indexrelid JOIN pg_class t ON t.oid = indrelid"
            " JOIN pg_attribute a ON a.attrelid = indrelid AND a.attnum = ANY (indkey)"
            " WHERE indisunique AND t.relnamespace = 'public'::regnamespace AND NOT t.relispartition"
            " GROUP BY c.relname, t.relname",
        )

        assert len(found) > 10
        assert [row for row in found if not row["holds"] and row["of_table"] not in OF_NO_ORGANIZATION] == []

    async def test_every_foreign_key_ties_the_organization_to_itself(self, owner: AsyncEngine) -> None:
        found = await fetch(
            owner,
            "SELECT conname, bool_or(here.attname = 'organization_id' AND there.attname = 'organization_id') AS holds"
            " FROM pg_constraint, unnest(conkey, confkey) AS pair(here_number, there_number),"
            " pg_attribute here, pg_attribute there"
            " WHERE contype = 'f' AND connamespace = 'public'::regnamespace"
            " AND here.attrelid = conrelid AND here.attnum = here_number"
            " AND there.attrelid = confrelid AND there.attnum = there_number GROUP BY conname",
        )

        assert found
        assert [row["conname"] for row in found if not row["holds"]] == []


def statements() -> Iterator[tuple[str, str]]:
    """Every statement that the repositories compiled at import, by where it stands."""
    for module in pkgutil.walk_packages(app.__path__, "app."):
        for name, value in vars(importlib.import_module(module.name)).items():
            for number, it in enumerate(value if isinstance(value, tuple | list) else [value]):
                if isinstance(it, Query):
                    yield f"{module.name}.{name}[{number}]", it.text


# Tables, and the names that they go by in the statement.
_NO_NAME = "AS|CROSS|FOR|FROM|GROUP|JOIN|LEFT|LIMIT|ON|ORDER|RETURNING|SELECT|SET|UNION|USING|VALUES|WHERE"
_NAMED = re.compile(
    rf"\b(?:FROM|JOIN|UPDATE|INTO|USING|,)\s+([a-z_]+)(?:(?:\s+AS)?\s+(?!(?:{_NO_NAME})\b)([a-z_0-9]+))?",
    re.IGNORECASE,
)
_EQUAL = re.compile(
    r"(?:\b([a-z_0-9]+)\.)?\borganization_id = (?:CAST\()?([a-z_0-9]+\.organization_id|\$\d+)"
)
_INTO = re.compile(r"INSERT INTO ([a-z_]+)(?: AS ([a-z_]+))?\s+\(organization_id")
# Subqueries, whose own tables are looked at too.
_WITHIN = re.compile(r"\) AS ([a-z_]+)|\b([a-z_]+) AS\s+(?:MATERIALIZED )?\(")
# Across organizations on purpose: what is due or waits, and what has expired.
ACROSS = {f"app.jobs.queue.{name}[0]" for name in ("_TAKE", "_COUNT", "_WAITING")}


def _table_before(text: str) -> str:
    """Whose column it is that has no name before it: the last table that was named."""
    *_, last = _NAMED.finditer(text)
    return last[2] or last[1]


def unbound(text: str) -> set[str]:
    """Tables of organizations that no equation ties to the organization, by the names they go by."""
    named = [(match[1], match[2] or match[1]) for match in _NAMED.finditer(text)]
    names = {name for table, name in named if table in metadata.tables}
    within = {match[1] or match[2] for match in _WITHIN.finditer(text)}
    bound = within | {name for table, name in named if table in within}
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


class TestStatements:
    @pytest.mark.parametrize("where", sorted({where for where, _ in statements()} - ACROSS))
    def test_tie_every_table_to_the_organization(self, where: str) -> None:
        assert unbound(dict(statements())[where]) == set()

    def test_of_reports_do_so_too(self) -> None:
        from app.usage_reports.reports import Dimension  # noqa: PLC0415  # beside what it is for
        from app.usage_reports.repository import _Shape, _statement  # noqa: PLC0415

        for group_by in ((), (Dimension.MODEL,), (Dimension.FEATURE,), (Dimension.SESSION_ID,)):
            assert unbound(_statement(_Shape(group_by, frozenset(group_by))).text) == set()

    def test_that_forget_it_are_found_out(self) -> None:
        version = metadata.tables["credential_version"]
        credential = metadata.tables["provider_credential"]
        here = sa.bindparam("organization_id", type_=sa.Text)
        forgetful = (
            sa.select(version)
            .join(credential, credential.c.id == version.c.credential_id)
            .where(version.c.organization_id == here)
        )

        assert unbound(Query(forgetful).text) == {"provider_credential"}
        tied = forgetful.where(credential.c.organization_id == version.c.organization_id)
        assert unbound(Query(tied).text) == set()


class TestPage:
    async def test_names_every_table(self, owner: AsyncEngine) -> None:
        text = PAGE.read_text(encoding="utf-8")

        distributed = set(re.findall(r"create_distributed_table\('([a-z_]+)', 'organization_id'", text))
        copied = set(re.findall(r"create_reference_table\('([a-z_]+)'\)", text))
        assert distributed == await tables(owner) - OF_NO_ORGANIZATION
        assert copied == OF_NO_ORGANIZATION - {"alembic_version"}
        assert "`alembic_version`" in text
