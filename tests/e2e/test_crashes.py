"""Kills the service with SIGKILL during concurrent saves. Confirmed saves survive, others leave nothing behind.

BYOK_TEST_CRASH_ROUNDS is the number of rounds; otherwise the day chooses one. Every second round kills PostgreSQL too.
"""

import asyncio
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

from tests.support.fault_injection import crash_rounds
from tests.support.processes.service import Service, running, until
from tests.support.provider.fake_anthropic import FakeAnthropic, Served, make_key

ORGANIZATIONS = 20
SAVES = 200

# Each query must return no rows after reconciliation.
LEFTOVERS = {
    "credentials in creation": "SELECT id FROM provider_credential WHERE state = 'creating'",
    "pending versions": "SELECT intent_id FROM credential_version WHERE state IN ('intent', 'stored')",
    "pending validations": "SELECT id FROM credential_validation WHERE status = 'pending'",
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
    "claims without a version": """
        SELECT c.credential_id FROM fingerprint_claim c
        WHERE NOT EXISTS (
            SELECT FROM credential_version v
            WHERE v.organization_id = c.organization_id AND v.credential_id = c.credential_id
            AND v.fingerprint = c.fingerprint AND v.state = 'active')
    """,
}


@dataclass(frozen=True, kw_only=True)
class SavedCredential:
    """A credential whose creation got a 201 response."""

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
async def earlier_saves() -> list[SavedCredential]:
    """The credentials saved in earlier rounds."""
    return []


@pytest.mark.parametrize("number", crash_rounds("saves"))
async def test_every_confirmed_save_survives_and_no_leftovers_remain(
    number: int, service: Service, earlier_saves: list[SavedCredential], fake_anthropic: FakeAnthropic
) -> None:
    fake_anthropic.release.clear()
    saved = await save_until_crash(service, service.kill_with_postgresql if number % 2 == 0 else service.kill)
    fake_anthropic.release.set()
    await service.start()

    interrupted = {what: len(ids) for what, ids in (await find_leftovers(service)).items()}
    print(f"round {number}: {len(saved)} saved, interrupted: {interrupted}")
    # Let the deadlines pass after which reconciliation abandons intents.
    await query_database(
        service, "UPDATE job_queue SET due_at = now() WHERE kind <> 'revalidate'", change=True
    )
    await until(lambda: is_nothing_left(service), "reconciliation completes the interrupted work", seconds=30)

    assert await find_leftovers(service) == {}
    requests_before = {save.key: len(fake_anthropic.requests_of(save.key)) for save in saved}
    # All at once, some would be rejected with 503 on a busy machine.
    validations = await gather_with_limit(
        service.request("POST", f"{save.path}/validations") for save in saved
    )
    assert {(validation.status_code, validation.json()["status"]) for validation in validations} == {
        (201, "valid")
    }
    assert {
        save.key
        for save in saved
        if len(fake_anthropic.requests_of(save.key)) == requests_before[save.key] + 1
    } == set(requests_before)
    earlier_saves += saved
    found = await gather_with_limit(service.request("GET", save.path) for save in earlier_saves)
    assert {response.status_code for response in found} == {200}


async def save_until_crash(service: Service, crash: Callable[[], Awaitable[None]]) -> list[SavedCredential]:
    """Create many credentials at once in new organizations, and crash after some of them. Returns the confirmed ones."""
    organizations = [f"org_{uuid4().hex[:16]}" for _ in range(ORGANIZATIONS)]
    saved: list[SavedCredential] = []

    async def save(number: int) -> None:
        # Some wait for the provider, so that validations are pending during the crash.
        key, organization = (
            make_key("valid" if number % 25 else "slow"),
            organizations[number % ORGANIZATIONS],
        )
        with suppress(httpx.TransportError):  # the outcome is unknown
            response = await service.save(organization, key)
            assert response.status_code in {201, 503}
            if response.status_code == 201:
                saved.append(
                    SavedCredential(organization=organization, credential_id=response.json()["id"], key=key)
                )

    saves = [asyncio.create_task(save(number)) for number in range(SAVES)]
    saves_before_crash = random.randint(1, SAVES // 2)
    await until(lambda: len(saved) >= saves_before_crash, f"{saves_before_crash} saves are confirmed")
    await crash()
    await asyncio.gather(*saves)
    return saved


async def gather_with_limit(
    requests: Iterable[Coroutine[None, None, httpx.Response]],
) -> list[httpx.Response]:
    """Run the requests with limited concurrency."""
    semaphore = asyncio.Semaphore(20)

    async def limited(request: Coroutine[None, None, httpx.Response]) -> httpx.Response:
        async with semaphore:
            return await request

    return await asyncio.gather(*map(limited, requests))


async def is_nothing_left(service: Service) -> bool:
    return not await find_leftovers(service)


async def find_leftovers(service: Service) -> dict[str, list[str]]:
    found = {what: await query_database(service, query) for what, query in LEFTOVERS.items()}
    return {what: ids for what, ids in found.items() if ids}


async def query_database(service: Service, statement: str, *, change: bool = False) -> list[str]:
    """Run a statement as the superuser, who sees all organizations."""
    engine = create_async_engine(service.database_url, poolclass=NullPool)
    async with engine.begin() as connection:
        result = await connection.execute(sa.text(statement))
        return [] if change else [str(it) for it in result.scalars()]
