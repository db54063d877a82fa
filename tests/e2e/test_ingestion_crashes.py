"""Kills the service with SIGKILL during ingestion. Accepted events are in the ledger exactly once; repeated ones too.

Reports always match the ledger, whether rows are rolled up or not.

BYOK_TEST_CRASH_ROUNDS sets the number of rounds; otherwise the day chooses one. Every second round also kills PostgreSQL.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from tests.support.fault_injection import crash_rounds
from tests.support.processes.service import Service, running, until
from tests.support.requests.usage_events import NDJSON, event, instant, lines

pytestmark = pytest.mark.slow

BATCHES = 16
LINES = 1500


@dataclass(kw_only=True)
class Batch:
    """The events of one request, and how many the response reported as accepted."""

    events: list[dict[str, Any]]
    is_stream: bool
    accepted: int | None = None
    ids: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.ids = {it["event_id"] for it in self.events}


@pytest.fixture(scope="module")
async def service() -> AsyncIterator[Service]:
    async with running() as service:
        await service.token("service")
        yield service


@pytest.mark.parametrize("number", crash_rounds("events"))
async def test_a_crash_neither_loses_nor_duplicates_events(service: Service, number: int) -> None:
    organization = f"org_{uuid4().hex[:16]}"
    batches = [
        Batch(events=[event() for _ in range(LINES if at % 2 else 200)], is_stream=bool(at % 2))
        for at in range(BATCHES)
    ]
    moment = random.randint(1, BATCHES // 2)

    sending = [asyncio.create_task(send(service, organization, batch)) for batch in batches]
    await until(
        lambda: sum(it.accepted is not None for it in batches) >= moment, "some batches got a response"
    )
    await (service.kill_with_postgresql if number % 2 == 0 else service.kill)()
    await asyncio.gather(*sending)
    await service.start()

    completed = [batch for batch in batches if batch.accepted is not None]
    found = await recorded(service, organization)
    print(f"round {number}: {len(completed)} of {BATCHES} completed, {len(found)} events recorded")
    assert len(found) == len(set(found))
    assert await reported(service, organization) == len(found)
    for batch in completed:
        assert batch.accepted == len(batch.ids)
        assert batch.ids <= set(found)
    again = await asyncio.gather(*(send(service, organization, batch) for batch in batches))
    assert all(
        body is not None and body["accepted"] + body["duplicates"] == len(batch.ids)
        for body, batch in zip(again, batches, strict=True)
    )
    whole = await recorded(service, organization)
    assert len(whole) == len(set(whole)) == sum(len(batch.ids) for batch in batches)
    assert await reported(service, organization) == len(whole)


async def send(service: Service, organization: str, batch: Batch) -> dict[str, Any] | None:
    """Send a batch; return the response, or None if the result is unknown."""
    headers = {"Authorization": f"Bearer {await service.token('service')}"}
    if batch.is_stream:
        headers |= NDJSON
        content = lines(batch.events)
    else:
        headers["Content-Type"] = "application/json"
        content = json.dumps({"events": batch.events}).encode()
    path = f"/v1/organizations/{organization}/usage-events"
    while True:
        try:
            response = await service.http.post(path, content=content, headers=headers)
        except httpx.TransportError:
            return None
        if response.status_code == 200:
            break
        assert response.status_code in {429, 503}, response.text
        if response.status_code == 503:
            return None
    body: dict[str, Any] = response.json()
    if batch.accepted is None:
        batch.accepted = body["accepted"] + body["duplicates"]
    return body


async def reported(service: Service, organization: str) -> int:
    """Return the number of requests in a report over all events, grouped by model."""
    response = await service.request(
        "GET",
        f"/v1/organizations/{organization}/usage-report",
        params={"starting_at": instant(days=2), "bucket_width": "all", "group_by[]": "model"},
    )
    assert response.status_code == 200, response.text
    return sum(result["requests"] for bucket in response.json()["data"] for result in bucket["results"])


async def recorded(service: Service, organization: str) -> list[str]:
    """Return the event ids in the ledger. Check that `usage_event_key` has exactly the same ids."""
    engine = create_async_engine(service.database_url, poolclass=NullPool)
    async with engine.connect() as connection:
        asked = {"organization": organization}
        rows = await connection.execute(
            sa.text("SELECT event_id FROM usage_event WHERE organization_id = :organization"), asked
        )
        keys = await connection.execute(
            sa.text("SELECT event_id FROM usage_event_key WHERE organization_id = :organization"), asked
        )
        found = [str(it) for it in rows.scalars()]
        assert sorted(found) == sorted(str(it) for it in keys.scalars())
    await engine.dispose()
    return found
