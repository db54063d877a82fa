"""Killed with -9 in the middle of everything: what was answered is there, what was not leaves nothing behind.

BYOK_TEST_CRASH_ROUNDS says how often; every second round takes PostgreSQL down as well.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from tests.e2e.service import Service, running, until
from tests.fake_anthropic import FakeAnthropic, Served, make_key

ROUNDS = int(os.environ.get("BYOK_TEST_CRASH_ROUNDS", "3"))
ORGANIZATIONS = 20
SAVES = 200

# Each must find nothing once the sweep has been.
LEFTOVERS = {
    "credentials that were never born": "SELECT id FROM provider_credential WHERE state = 'creating'",
    "versions on their way": "SELECT intent_id FROM credential_version WHERE state IN ('intent', 'stored')",
    "checks under way": "SELECT id FROM credential_validation WHERE status = 'pending'",
    "jobs": "SELECT id FROM job_queue WHERE kind <> 'revalidate'",
    "secrets without a version": """
        SELECT s.credential_id FROM sealed_secret s
        WHERE s.sealed IS NOT NULL AND NOT EXISTS (
            SELECT FROM credential_version v
            WHERE v.organization_id = s.organization_id AND v.credential_id = s.credential_id
            AND v.store_version = s.store_version AND v.intent_id = s.intent_id AND v.state = 'active')
    """,
    "versions without a secret": """
        SELECT v.credential_id FROM credential_version v
        WHERE v.state = 'active' AND NOT EXISTS (
            SELECT FROM sealed_secret s
            WHERE s.organization_id = v.organization_id AND s.credential_id = v.credential_id
            AND s.store_version = v.store_version AND s.sealed IS NOT NULL)
    """,
    "claims of keys that nobody has": """
        SELECT c.credential_id FROM fingerprint_claim c
        WHERE NOT EXISTS (
            SELECT FROM credential_version v
            WHERE v.organization_id = c.organization_id AND v.credential_id = c.credential_id
            AND v.fingerprint = c.fingerprint AND v.state = 'active')
    """,
}


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A save that was answered with 201."""

    organization: str
    credential_id: str
    key: str

    @property
    def path(self) -> str:
        return f"/v1/organizations/{self.organization}/provider-credentials/{self.credential_id}"


@pytest.fixture(scope="module")
async def service(provider: Served) -> AsyncIterator[Service]:
    async with running(PROVIDER__DEFAULT_BASE_URL=provider.base_url, JOBS__INTERVAL="1s") as service:
        await service.token()
        yield service


@pytest.fixture(scope="module")
async def earlier() -> list[Answered]:
    """What the rounds before have left."""
    return []


@pytest.mark.parametrize("number", range(1, ROUNDS + 1))
async def test_every_answered_save_survives_and_nothing_else_is_left(
    number: int, service: Service, earlier: list[Answered], fake_anthropic: FakeAnthropic
) -> None:
    fake_anthropic.release.clear()
    answered = await saves_until(service, service.lose_power if number % 2 == 0 else service.kill)
    fake_anthropic.release.set()
    await service.start()

    interrupted = {what: len(ids) for what, ids in (await left(service)).items()}
    print(f"round {number}: {len(answered)} answered, interrupted: {interrupted}")
    # As if the time had passed after which a writer counts as dead.
    await at_database(service, "UPDATE job_queue SET due_at = now() WHERE kind <> 'revalidate'", change=True)
    await until(lambda: nothing_is_left(service), "the sweep settles what the crash interrupted", seconds=30)

    assert await left(service) == {}
    asked = {save.key: len(fake_anthropic.requests_of(save.key)) for save in answered}
    checks = await asyncio.gather(*(service.request("POST", f"{save.path}/validations") for save in answered))
    assert {(check.status_code, check.json()["status"]) for check in checks} == {(201, "valid")}
    assert {
        save.key for save in answered if len(fake_anthropic.requests_of(save.key)) == asked[save.key] + 1
    } == set(asked)
    earlier += answered
    found = await few_at_once(service.request("GET", save.path) for save in earlier)
    assert {response.status_code for response in found} == {200}


async def saves_until(service: Service, die: Callable[[], Awaitable[None]]) -> list[Answered]:
    """Many saves at once in fresh organizations, and death somewhere among them; returns those answered before."""
    organizations = [f"org_{uuid4().hex[:16]}" for _ in range(ORGANIZATIONS)]
    answered: list[Answered] = []

    async def save(number: int) -> None:
        # Some hang in the provider, so that there are checks under way too.
        key, organization = (
            make_key("valid" if number % 25 else "slow"),
            organizations[number % ORGANIZATIONS],
        )
        with suppress(httpx.TransportError):  # then nobody knows what became of it
            response = await service.save(organization, key)
            assert response.status_code in {201, 503}
            if response.status_code == 201:
                answered.append(
                    Answered(organization=organization, credential_id=response.json()["id"], key=key)
                )

    saves = [asyncio.create_task(save(number)) for number in range(SAVES)]
    moment = random.randint(1, SAVES // 2)
    await until(lambda: len(answered) >= moment, f"{moment} saves are answered")
    await die()
    await asyncio.gather(*saves)
    return answered


async def few_at_once(requests: Iterable[Coroutine[None, None, httpx.Response]]) -> list[httpx.Response]:
    """Neither one by one nor all at once."""
    turn = asyncio.Semaphore(20)

    async def one(request: Coroutine[None, None, httpx.Response]) -> httpx.Response:
        async with turn:
            return await request

    return await asyncio.gather(*map(one, requests))


async def nothing_is_left(service: Service) -> bool:
    return not await left(service)


async def left(service: Service) -> dict[str, list[str]]:
    found = {what: await at_database(service, query) for what, query in LEFTOVERS.items()}
    return {what: ids for what, ids in found.items() if ids}


async def at_database(service: Service, statement: str, *, change: bool = False) -> list[str]:
    """As the owner, who sees every organization."""
    engine = create_async_engine(service.database_url, poolclass=NullPool)
    async with engine.begin() as connection:
        result = await connection.execute(sa.text(statement))
        return [] if change else [str(it) for it in result.scalars()]
