"""A page of the audit log reads only the events of its time range, however many the organization has."""

import re
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from app.audit import repository as audit
from app.core.clock import first_id_at, now
from app.database.engine import Database
from app.database.statements import Query
from tests.support.database.rows import change

ORGANIZATION = "org_of_many"
DAYS = 400
# An event an hour. The first 48 bits of an id are its time in milliseconds.
FILL = """
    INSERT INTO audit_event (organization_id, id, occurred_at, action, actor, details)
    SELECT :organization, CAST(lpad(to_hex(CAST(extract(epoch FROM at) * 1000 AS bigint)), 12, '0')
        || '7000800000000000' || lpad(to_hex(n % 65536), 4, '0') AS uuid), at, 'credential.created', 'ada', '{}'
    FROM generate_series(1, 24 * :days) n, LATERAL (SELECT now() - n * interval '1 hour' AS at) x
"""


async def test_reads_only_the_events_of_a_time_range(
    own_database: Database, own_superuser: AsyncEngine
) -> None:
    await change(own_superuser, FILL, organization=ORGANIZATION, days=DAYS)
    await change(own_superuser, "ANALYZE audit_event")
    ending_at = now() - timedelta(days=300)
    values = {
        "organization_id": ORGANIZATION,
        "first": first_id_at(ending_at - timedelta(days=2)),
        "before": first_id_at(ending_at + timedelta(days=1)),
        "credential_id": None,
        "action": None,
        "actor": "nobody",
        "starting_at": ending_at - timedelta(days=1),
        "ending_at": ending_at,
        "at_most": 21,
    }

    async with own_database.session(ORGANIZATION) as session:
        page: Query = audit._PAGE
        found = await session._connection.fetch(
            f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {page.text}", *page.arguments(values)
        )

    plan = "\n".join(row[0] for row in found)
    (removed,) = re.findall(r"Rows Removed by Filter: (\d+)", plan)
    assert int(removed) <= 24 * 3, plan
