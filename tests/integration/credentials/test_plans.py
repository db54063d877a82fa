"""Query plans of credentials: those that are not deleted are found without reading the deleted ones."""

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.credentials import repository as credentials
from app.database.engine import Database
from app.database.statements import Query
from tests.support.database.rows import change

ORGANIZATION = "org_of_many"
DELETED = 5_000
FILL = """
    INSERT INTO provider_credential (organization_id, id, provider, label, state, revision, current_key_version, created_at,
        created_by, updated_at)
    SELECT :organization, CAST(lpad(to_hex(n), 12, '0') || '70008000000000000000' AS uuid), 'anthropic', 'x',
        CASE WHEN n <= 5 THEN 'active' ELSE 'deleted' END, 1, 1, now(), 'ada', now() FROM generate_series(1, 5 + :deleted) n
"""


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        pytest.param(
            credentials._PAGE_LIVE,
            {"states": ["active", "disabled"], "before": None, "at_most": 21},
            id="page",
        ),
        pytest.param(credentials._COUNT, {}, id="count"),
    ],
)
async def test_live_credentials_are_found_by_their_index(
    own_database: Database, own_superuser: AsyncEngine, statement: Query, values: dict[str, Any]
) -> None:
    organization = f"{ORGANIZATION}_{len(values)}"
    await change(own_superuser, FILL, organization=organization, deleted=DELETED)
    await change(own_superuser, "ANALYZE provider_credential")

    async with own_database.session(organization) as session:
        await session.rows(Query(sa.text("SET LOCAL plan_cache_mode = force_generic_plan")))
        found = await session._connection.fetch(
            f"EXPLAIN {statement.text}", *statement.arguments({"organization_id": organization, **values})
        )

    plan = "\n".join(row[0] for row in found)
    assert "ix_provider_credential_live" in plan, plan
