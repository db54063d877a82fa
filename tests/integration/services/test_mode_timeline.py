"""Switches, scheduled ones and ingestion at the same time: every row has the mode that the timeline says for good."""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from random import Random

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.api.switching import EMPTY_BYO, MANAGED, ahead, switch
from tests.conftest import Tenant
from tests.rows import fetch

_SHARED = sa.text("SELECT pg_advisory_xact_lock_shared(hashtext('byok.usage_mode'), hashtext(:o))")
_CLOCK = sa.text("SELECT clock_timestamp() + make_interval(secs => :offset), clock_timestamp()")
_MODE = sa.text(
    "SELECT mode FROM usage_mode_change WHERE organization_id = :o AND effective_from <= :at"
    " ORDER BY effective_from DESC LIMIT 1"
)


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """What ingestion wrote down: the instant that decided, and the mode that it found."""

    decided_at: datetime
    mode: str


async def ingest(owner: AsyncEngine, organization: str, random: Random) -> Ingested:
    """As ingestion does: the lock shared, then the clock, then the last point that is not after it."""
    async with owner.begin() as connection:
        await connection.execute(_SHARED, {"o": organization})
        offset = random.uniform(-0.2, 0.2)  # an event may have started a little before or ahead
        started_at, now = (await connection.execute(_CLOCK, {"offset": offset})).one()
        decided_at = min(started_at, now)
        mode = (await connection.scalar(_MODE, {"o": organization, "at": decided_at})) or "managed"
        return Ingested(decided_at=decided_at, mode=mode)


class TestTimeline:
    async def test_never_says_another_mode_afterwards_than_ingestion_found(
        self, tenant: Tenant, owner: AsyncEngine
    ) -> None:
        random, ingested, is_over = Random(7), list[Ingested](), asyncio.Event()

        async def keep_ingesting() -> None:
            while not is_over.is_set():
                ingested.append(await ingest(owner, tenant.organization, random))

        async def keep_switching() -> None:
            for _ in range(30):
                body = random.choice((MANAGED, EMPTY_BYO))
                later = {"effective_at": ahead(seconds=random.uniform(0.01, 0.2))}
                answer = await switch(tenant, body | random.choice(({}, later)))
                # On a slow machine a time to come may be past when it arrives.
                assert answer.status_code in {200, 422}

        writers = [asyncio.create_task(keep_ingesting()) for _ in range(3)]
        await asyncio.gather(keep_switching(), keep_switching())
        is_over.set()
        await asyncio.gather(*writers)

        assert {row.mode for row in ingested} == {"managed", "byo"}
        points = await fetch(
            owner,
            "SELECT effective_from, mode FROM usage_mode_change WHERE organization_id = :o ORDER BY effective_from",
            o=tenant.organization,
        )
        for row in ingested:
            modes = ["managed", *(p["mode"] for p in points if p["effective_from"] <= row.decided_at)]
            assert modes[-1] == row.mode
