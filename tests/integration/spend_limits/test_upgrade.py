"""Limits on one model are counted again by the migration that introduced the identity of models."""

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from app.database import migrations
from tests.support.database.own_database import DatabaseRoles, new_database

_BEFORE = "4e8a61c0d95b"
_LIMIT = UUID("0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819")
_SET_UP = (
    "SELECT set_config('byok.org', 'org_1', false)",
    f"""INSERT INTO spend_limit VALUES ('org_1', '{_LIMIT}', 'Haiku', 1000, 'total', 'managed', 'claude-haiku-4-5', NULL,
        NULL, 'block', '{{}}', to_timestamp(0), 1, now(), 'admin', now())""",
    f"INSERT INTO spend_counter VALUES ('org_1', '{_LIMIT}', to_timestamp(0), 1, 0, 0, 0)",
    """INSERT INTO usage_day SELECT 'org_1', now() - interval '1 day', 'managed', model, 1, 0, 0, 0, 0, 0, 0, cost, cost, 0
        FROM (VALUES ('claude-haiku-4-5', 1), ('claude-haiku-4-5-20251001', 20), ('claude-haiku-4-5-5', 300))
        AS x (model, cost)""",
    """INSERT INTO spend_reservation (organization_id, id, amount, mode, model, state, created_at, created_by, expires_at)
        VALUES ('org_1', gen_random_uuid(), 400, 'managed', 'claude-haiku-4-5-latest', 'open', now(), 'service', now())""",
)


async def test_counts_every_spelling_of_the_model(database_server: DatabaseRoles) -> None:
    async with new_database(database_server, _BEFORE) as database:
        engine = create_async_engine(database.superuser)
        async with engine.begin() as connection:
            for statement in _SET_UP:
                await connection.execute(sa.text(statement))

        await migrations.migrate(database.owner)

        async with engine.connect() as connection:
            found = await connection.execute(sa.text("SELECT settled_managed, reserved FROM spend_counter"))
            assert found.all() == [(21, 400)]
        await engine.dispose()
