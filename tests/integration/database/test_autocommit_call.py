"""Calls that share a transaction each see the rows of one organization, whatever plan PostgreSQL chooses."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.engine import Database, DatabaseLogin
from app.database.statements import Query
from app.observability.metrics import REGISTRY
from tests.support.database.own_database import DatabaseRoles
from tests.support.database.rows import change

# Without a WHERE clause: only the policy chooses the rows.
_PLANS = Query(sa.text("SELECT organization_id, plan FROM subscription"))
_SETTINGS = Query(
    sa.text(
        "SELECT coalesce(current_setting('byok.org', true), '') AS organization,"
        " current_setting('lock_timeout') AS lock_timeout"
    )
)


@pytest.fixture
async def organizations(superuser: AsyncEngine) -> Sequence[str]:
    """Three organizations with a subscription each."""
    ids = [f"org_{uuid4().hex[:12]}" for _ in range(3)]
    for organization in ids:
        await change(
            superuser,
            "INSERT INTO subscription VALUES (:organization, 'x', 1, 1, 1, 1, now(), now(), 'x')",
            organization=organization,
        )
    return ids


@pytest.fixture(params=["force_generic_plan", "force_custom_plan"])
async def own_database(
    request: pytest.FixtureRequest, database_roles: DatabaseRoles
) -> AsyncIterator[Database]:
    """With one connection, whose statements have this kind of plan."""
    url = database_roles.service.update_query_dict({"options": f"-c plan_cache_mode={request.param}"})
    database = Database(DatabaseLogin(url=url, set_role=False), pool_size=1)
    yield database
    await database.close()


@pytest.mark.skipif("BYOK_TEST_CELLS" in os.environ, reason="in cells each organization has its transaction")
async def test_concurrent_ones_do_not_mix_and_leave_no_setting(
    own_database: Database, organizations: Sequence[str]
) -> None:
    asked = [*organizations] * 40
    shared = _number_shared()
    async with own_database.session(None, read_only=True) as session:
        before = await session.one(_SETTINGS)

    found = await asyncio.gather(*(_organizations_seen(own_database, it) for it in asked))

    assert found == [[organization] for organization in asked]
    assert _number_shared() > shared
    async with own_database.session(None, read_only=True) as session:
        after = await session.one(_SETTINGS)
        assert await session.rows(_PLANS) == []
    assert (before["organization"], dict(after)) == ("", dict(before))


async def _organizations_seen(database: Database, organization: str) -> list[str]:
    rows = await database.autocommit_call(organization).rows(_PLANS)
    return [row["organization_id"] for row in rows]


def _number_shared() -> float:
    return REGISTRY.get_sample_value("byok_shared_transactions_total", {"outcome": "committed"}) or 0.0
