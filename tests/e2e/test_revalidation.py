"""Two thousand keys come due, and three workers share them out: each is checked once, whoever is killed meanwhile."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.core.api_key import ApiKey
from app.core.clock import new_id, now
from app.database.engine import Database, DatabaseLogin
from app.secret_store.embedded.keyset import Keyset
from app.secret_store.embedded.store import EmbeddedSecretStore
from app.secret_store.port import SecretRef
from tests.databases import new_database
from tests.e2e.service import Service, running, until
from tests.fake_anthropic import FakeAnthropic, digest, make_key, serve
from tests.rows import change, fetch

pytestmark = pytest.mark.slow

KEYS = 2000
ORGANIZATIONS = 40
WORKERS = 3
AT_ONCE = 16  # checks of one worker: the default
# A check that has ended puts its item off by hours; one that was only taken, by a minute.
PLANT = (
    """
    INSERT INTO provider_credential (organization_id, id, provider, label, state, revision, current_key_version,
        created_at, created_by, updated_at)
    VALUES (:organization_id, :id, 'anthropic', 'Acme', 'active', 1, 1, :now, 'test', :now)
    """,
    """
    INSERT INTO credential_version (organization_id, credential_id, key_version, state, intent_id,
        expected_store_version, store_version, messages_url, auth_style, fingerprint, created_at, created_by,
        activated_at, latest_status, latest_reason, latest_checked_at,
        definite_status, definite_reason, definite_checked_at)
    VALUES (:organization_id, :id, 1, 'active', :intent_id, 0, 1, :messages_url, 'x_api_key', 'v1:test', :now,
        'test', :now, 'valid', 'ok', :now, 'valid', 'ok', :now)
    """,
    """
    INSERT INTO job_queue (organization_id, kind, id, due_at)
    VALUES (:organization_id, 'revalidate', :id, CAST(:now AS timestamptz) + interval '1 day')
    """,
)

LEFT = "SELECT id FROM job_queue WHERE kind = 'revalidate' AND due_at < now() + interval '1 hour'"


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """The keys, where they are checked, and how to start a worker."""

    settings: dict[str, str]
    owner: AsyncEngine
    fake: FakeAnthropic
    digests: dict[UUID, str]

    def asked(self) -> Counter[str]:
        """How often each key has come to the provider."""
        return Counter(entry.credential_digest for entry in self.fake.journal if entry.credential_digest)

    async def left(self) -> list[str]:
        """The keys whose check has not ended, by their digests."""
        return [self.digests[row["id"]] for row in await fetch(self.owner, LEFT)]

    async def let_come_due(self, kind: str) -> None:
        await change(self.owner, "UPDATE job_queue SET due_at = now() WHERE kind = :kind", kind=kind)

    async def is_nothing_due(self) -> bool:
        return not await fetch(
            self.owner, "SELECT id FROM job_queue WHERE kind = 'revalidate' AND due_at <= now() LIMIT 1"
        )

    async def is_nothing_left(self) -> bool:
        return not await fetch(self.owner, f"{LEFT} LIMIT 1")

    async def is_nothing_pending(self) -> bool:
        return not await fetch(
            self.owner, "SELECT id FROM credential_validation WHERE status = 'pending' LIMIT 1"
        )


@pytest.fixture(scope="module")
async def fleet(server_url: sa.URL, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    data_dir = tmp_path_factory.mktemp("data")
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(new_database(server_url))
        provider = await stack.enter_async_context(serve())
        owner = create_async_engine(url)
        stack.push_async_callback(owner.dispose)
        keys = [make_key() for _ in range(KEYS)]
        digests = await _plant(url, owner, keys, data_dir, messages_url=f"{provider.base_url}/v1/messages")
        yield Fleet(
            settings={
                "DATABASE__URL": url.render_as_string(hide_password=False),
                "DATA_DIR": str(data_dir),
                "PROVIDER__DEFAULT_BASE_URL": provider.base_url,
                "JOBS__INTERVAL": "1s",
                "LOG_LEVEL": "warning",
            },
            owner=owner,
            fake=provider.fake,
            digests=digests,
        )


@pytest.fixture
async def workers(fleet: Fleet) -> AsyncIterator[list[Service]]:
    """They find nothing to do until a test lets something come due."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(running("worker", **fleet.settings)) for _ in range(WORKERS)]


class TestWorkers:
    @pytest.mark.usefixtures("workers")
    async def test_check_each_key_exactly_once_a_period(self, fleet: Fleet) -> None:
        before = fleet.asked()

        await fleet.let_come_due("revalidate")
        await until(fleet.is_nothing_left, "every check has ended")

        assert fleet.asked() - before == dict.fromkeys(fleet.digests.values(), 1)

    async def test_lose_nothing_when_one_is_killed(self, fleet: Fleet, workers: list[Service]) -> None:
        victim, *others = workers
        before = fleet.asked()

        await fleet.let_come_due("revalidate")
        await until(lambda: len(fleet.fake.journal) > before.total() + KEYS // 3, "a third is under way")
        await victim.kill()
        await until(fleet.is_nothing_due, "the others have taken the rest")
        for worker in others:
            await worker.stop()
        left, by_now = await fleet.left(), fleet.asked() - before

        assert 0 < len(left) <= AT_ONCE
        assert by_now.keys() >= set(fleet.digests.values()) - set(left)
        assert max(by_now.values()) == 1

        async with running("worker", **fleet.settings):
            await fleet.let_come_due("settle_validation")
            await until(fleet.is_nothing_pending, "what the dead one was about to record is given up")
            await _cut_short(fleet)
            await until(fleet.is_nothing_left, "what the dead one had taken is checked")

        assert fleet.asked() - before - by_now == dict.fromkeys(left, 1)


async def _cut_short(fleet: Fleet) -> None:
    """Let the minute pass for which items stay with whoever took them."""
    await change(fleet.owner, LEFT.replace("SELECT id FROM job_queue", "UPDATE job_queue SET due_at = now()"))


async def _plant(
    url: sa.URL, owner: AsyncEngine, keys: list[str], data_dir: Path, *, messages_url: str
) -> dict[UUID, str]:
    """Credentials that were found valid, as rows and sealed secrets; their checks are a day off."""
    planted = {new_id(): key for key in keys}
    rows = [
        {
            "organization_id": f"org_{number % ORGANIZATIONS}",
            "id": credential_id,
            "intent_id": new_id(),
            "now": now(),
            "messages_url": messages_url,
        }
        for number, credential_id in enumerate(planted)
    ]
    database = Database(DatabaseLogin(url=url, set_role=True))
    store = EmbeddedSecretStore(database, Keyset.load_or_create(data_dir / "secret-store" / "keyset.json"))
    planting = asyncio.Semaphore(10)

    async def seal(row: dict[str, Any]) -> None:
        ref = SecretRef(organization_id=row["organization_id"], credential_id=row["id"])
        async with planting:
            await store.write(ref, ApiKey(planted[row["id"]]), intent_id=row["intent_id"], expected_version=0)

    await asyncio.gather(*map(seal, rows))
    await database.close()
    async with owner.begin() as connection:
        for statement in PLANT:
            await connection.execute(sa.text(statement), rows)
    return {credential_id: digest(key) for credential_id, key in planted.items()}
