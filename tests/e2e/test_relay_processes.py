"""Two processes relay for one organization: limits are exact, and a call whose process is killed ends once.

BYOK_TEST_RELAY_CRASH_ROUNDS sets the number of rounds of the second test.
"""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from tests.support.database.limit_watch import watched
from tests.support.database.rows import change, fetch
from tests.support.processes.commands import byok
from tests.support.processes.service import Service, running, sharing_data_with, until
from tests.support.provider.fake_anthropic import make_key
from tests.support.relay.relay_service import request
from tests.support.relay.scripted_provider import Exchange, ScriptedProvider, message, serve_scripted

pytestmark = pytest.mark.slow

CLIENTS, CALLS_EACH = 32, 10
LIMIT = 10**9  # pico-USD
ROUNDS = int(os.environ.get("BYOK_TEST_RELAY_CRASH_ROUNDS", "2"))


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two processes with one database, an organization with a key, and its token for the relay."""

    services: tuple[Service, Service]
    provider: ScriptedProvider
    superuser: AsyncEngine
    organization: str
    token: str

    async def send(self, number: int, headers: dict[str, str] | None = None) -> httpx.Response:
        return await self.services[number % 2].http.post(
            "/relay/anthropic/v1/messages",
            json=request(),
            headers={"x-api-key": self.token, **(headers or {})},
        )

    async def create_limit(self, amount: str) -> None:
        body = {
            "name": "Budget",
            "amount": {"amount": amount, "currency": "USD"},
            "period": "month",
            "scope": {"usage_mode": "byo"},
            "enforcement": "block",
        }
        created = await self.services[0].request(
            "POST", f"/v1/organizations/{self.organization}/spend-limits", json=body
        )
        assert created.status_code == 201, created.text

    async def rows(self, table: str) -> list[dict[str, Any]]:
        return await fetch(
            self.superuser,
            f"SELECT * FROM {table} WHERE organization_id = :organization",
            organization=self.organization,
        )

    async def settled(self) -> None:
        """Wait until no call is open."""

        async def is_settled() -> bool:
            return all(it["state"] != "open" for it in await self.rows("spend_reservation"))

        await until(is_settled, "every call has ended", seconds=60)


@pytest.fixture(scope="module")
async def provider() -> AsyncIterator[ScriptedProvider]:
    async with serve_scripted() as scripted:
        yield scripted


@pytest.fixture(scope="module")
async def processes(provider: ScriptedProvider) -> AsyncIterator[tuple[Service, Service]]:
    async with (
        running(PROVIDER__DEFAULT_BASE_URL=provider.base_url) as first,
        sharing_data_with(first, "serve") as second,
    ):
        await second.start()
        yield first, second


@pytest.fixture
async def pair(processes: tuple[Service, Service], provider: ScriptedProvider) -> AsyncIterator[Pair]:
    service, organization = processes[0], f"org_{uuid4().hex[:16]}"
    saved = await service.save(organization, make_key())
    mode = {"mode": "byo", "credential_id": saved.json()["id"]}
    await service.request("PUT", f"/v1/organizations/{organization}/usage-mode", json=mode)
    arguments = ("--scope", "relay:messages", "--organization", organization)
    token = await byok("token", *arguments, cwd=service.home, **service.environment)
    assert token.code == 0, token.stderr
    superuser = create_async_engine(service.database_url, poolclass=NullPool)
    yield Pair(
        services=processes,
        provider=provider,
        superuser=superuser,
        organization=organization,
        token=token.stdout.strip(),
    )
    await superuser.dispose()


async def test_a_limit_is_never_exceeded(pair: Pair) -> None:
    await pair.create_limit("0.001")
    statuses: Counter[int] = Counter()

    async def work(number: int) -> None:
        for at in range(CALLS_EACH):
            statuses[(await pair.send(number + at)).status_code] += 1

    async with watched(pair.superuser, pair.organization):
        await asyncio.gather(*(work(number) for number in range(CLIENTS)))
        await pair.settled()

    print(f"granted {statuses[200]}, refused {statuses[402]}")
    assert statuses.keys() == {200, 402}
    assert statuses[200] + statuses[402] == CLIENTS * CALLS_EACH
    (counter,) = await pair.rows("spend_counter")
    assert counter["reserved"] == 0
    assert 0 < counter["settled_byo"] <= LIMIT
    events = await pair.rows("usage_event")
    assert len(events) == statuses[200] == len({it["reservation_id"] for it in events})


@pytest.mark.parametrize("number", range(ROUNDS))
async def test_a_killed_process_leaves_no_call_behind(pair: Pair, number: int) -> None:
    await pair.create_limit("100")
    held = asyncio.Event()

    async def hold(exchange: Exchange) -> None:
        await held.wait()
        await exchange.respond(200, message())

    script = pair.provider.script(f"held-{number}", hold)
    killed = pair.services[1]
    quick = [asyncio.create_task(pair.send(at)) for at in range(20)]
    slow = [asyncio.create_task(pair.send(1, script)) for _ in range(8)]
    await pair.provider.nth(f"held-{number}", 8)

    killed.send_signal(signal.SIGKILL)
    await killed.wait_for_exit()
    responses = await asyncio.gather(*quick, *slow, return_exceptions=True)
    held.set()
    await change(
        pair.superuser,
        "UPDATE spend_reservation SET last_seen_at = now() - interval '10 minutes'"
        " WHERE organization_id = :organization AND state = 'open'",
        organization=pair.organization,
    )
    await pair.settled()
    await killed.start()

    admitted = await pair.rows("spend_reservation")
    events = await pair.rows("usage_event")
    succeeded = sum(isinstance(it, httpx.Response) and it.status_code == 200 for it in responses)
    # The killed process leaves calls without a response, but none is refused, as by a deadlock.
    assert {it.status_code for it in responses if isinstance(it, httpx.Response)} == {200}
    print(f"round {number}: {len(admitted)} admitted, {len(events)} events, {succeeded} with a response")
    assert len(events) + sum(it["state"] == "released" for it in admitted) == len(admitted)
    assert {it["event_id"] for it in events} == {str(it["id"]) for it in admitted if it["state"] == "settled"}
    assert sum(it["usage_source"] == "estimated" for it in events) >= len(slow)
    (counter,) = await pair.rows("spend_counter")
    assert counter["reserved"] == 0
