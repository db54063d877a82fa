"""Switches, scheduled changes and ingestion at the same time: every row keeps the mode of the history."""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from random import Random

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.database.rows import fetch
from tests.support.requests.usage_mode import (
    BYO_WITHOUT_CREDENTIAL,
    MANAGED,
    future_timestamp,
    request_switch,
)
from tests.support.tenant import Tenant

_LOCK_SHARED = sa.text("SELECT pg_advisory_xact_lock_shared(hashtext('byok.usage_mode'), hashtext(:o))")
_CLOCK = sa.text("SELECT clock_timestamp() + make_interval(secs => :offset), clock_timestamp()")
_MODE = sa.text(
    "SELECT mode FROM usage_mode_change WHERE organization_id = :o AND effective_from <= :at"
    " ORDER BY effective_from DESC LIMIT 1"
)


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """What ingestion recorded: the mode that it read, and the time for which it read it."""

    mode_time: datetime
    mode: str


async def ingest(superuser: AsyncEngine, organization: str, random: Random) -> Ingested:
    """Read the mode as ingestion does: take the lock shared, read the clock, then the last change up to then."""
    async with superuser.begin() as connection:
        await connection.execute(_LOCK_SHARED, {"o": organization})
        offset = random.uniform(-0.2, 0.2)  # an event may start shortly before or after now
        started_at, now = (await connection.execute(_CLOCK, {"offset": offset})).one()
        mode_time = min(started_at, now)
        mode = (await connection.scalar(_MODE, {"o": organization, "at": mode_time})) or "managed"
        return Ingested(mode_time=mode_time, mode=mode)


class TestHistory:
    async def test_has_the_modes_that_ingestion_read(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        random, ingested, stop = Random(7), list[Ingested](), asyncio.Event()

        async def ingest_until_stopped() -> None:
            while not stop.is_set():
                ingested.append(await ingest(superuser, tenant.organization, random))

        async def switch_repeatedly() -> None:
            for _ in range(30):
                body = random.choice((MANAGED, BYO_WITHOUT_CREDENTIAL))
                schedule = {"effective_at": future_timestamp(seconds=random.uniform(0.01, 0.2))}
                response = await request_switch(tenant, body | random.choice(({}, schedule)))
                # On a slow machine the scheduled time may be in the past when the request arrives.
                assert response.status_code in {200, 422}

        ingesting = [asyncio.create_task(ingest_until_stopped()) for _ in range(3)]
        await asyncio.gather(switch_repeatedly(), switch_repeatedly())
        stop.set()
        await asyncio.gather(*ingesting)

        assert {row.mode for row in ingested} == {"managed", "byo"}
        changes = await fetch(
            superuser,
            "SELECT effective_from, mode FROM usage_mode_change WHERE organization_id = :o ORDER BY effective_from",
            o=tenant.organization,
        )
        for row in ingested:
            modes = ["managed", *(p["mode"] for p in changes if p["effective_from"] <= row.mode_time)]
            assert modes[-1] == row.mode
