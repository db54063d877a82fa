"""Three workers validate hundreds of due keys: each key exactly once, even if a worker is killed."""

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

from app.core.clock import new_id, now
from app.core.keys.api_key import ApiKey
from app.database.engine import Database
from app.secret_store.embedded.keyset import Keyset
from app.secret_store.embedded.store import EmbeddedSecretStore
from app.secret_store.port import SecretRef
from tests.support.database.own_database import DatabaseRoles, copied_database
from tests.support.database.rows import change, fetch
from tests.support.fault_injection import ALL_CRASHES
from tests.support.processes.service import Service, running, until
from tests.support.provider.fake_anthropic import FakeAnthropic, digest, make_key, serve

pytestmark = pytest.mark.slow

# Both numbers are many times what the workers claim at the same time.
KEYS = 2000 if ALL_CRASHES else 200
ORGANIZATIONS = 40
WORKERS = 3
CONCURRENCY = 16  # concurrent validations of one worker: the default
# A finished validation postpones its item by hours. A claimed item is postponed only by a minute.
INSERT_CREDENTIAL = (
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

UNFINISHED = "SELECT id FROM job_queue WHERE kind = 'revalidate' AND due_at < now() + interval '1 hour'"


@dataclass(frozen=True, kw_only=True)
class DueKeys:
    """Stored keys, the provider that validates them, and the settings of workers."""

    settings: dict[str, str]
    superuser: AsyncEngine
    fake: FakeAnthropic
    digests: dict[UUID, str]

    def probes_by_key(self) -> Counter[str]:
        """The number of probes of each key."""
        return Counter(entry.credential_digest for entry in self.fake.journal if entry.credential_digest)

    async def unfinished(self) -> list[str]:
        """The digests of keys whose validation has not finished."""
        return [self.digests[row["id"]] for row in await fetch(self.superuser, UNFINISHED)]

    async def make_due(self, kind: str) -> None:
        await change(self.superuser, "UPDATE job_queue SET due_at = now() WHERE kind = :kind", kind=kind)

    async def none_due(self) -> bool:
        return not await fetch(
            self.superuser, "SELECT id FROM job_queue WHERE kind = 'revalidate' AND due_at <= now() LIMIT 1"
        )

    async def none_unfinished(self) -> bool:
        return not await fetch(self.superuser, f"{UNFINISHED} LIMIT 1")

    async def none_pending(self) -> bool:
        return not await fetch(
            self.superuser, "SELECT id FROM credential_validation WHERE status = 'pending' LIMIT 1"
        )


@pytest.fixture(scope="module")
async def due_keys(
    template_database: DatabaseRoles, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[DueKeys]:
    data_dir = tmp_path_factory.mktemp("data")
    async with AsyncExitStack() as stack:
        roles = await stack.enter_async_context(copied_database(template_database))
        provider = await stack.enter_async_context(serve())
        superuser = create_async_engine(roles.superuser)
        stack.push_async_callback(superuser.dispose)
        keys = [make_key() for _ in range(KEYS)]
        digests = await _insert_credentials(
            roles, superuser, keys, data_dir, messages_url=f"{provider.base_url}/v1/messages"
        )
        yield DueKeys(
            settings=roles.settings
            | {
                "DATA_DIR": str(data_dir),
                "PROVIDER__DEFAULT_BASE_URL": provider.base_url,
                "JOBS__INTERVAL": "1s",
                "LOG_LEVEL": "warning",
            },
            superuser=superuser,
            fake=provider.fake,
            digests=digests,
        )


@pytest.fixture(scope="module")
async def workers(due_keys: DueKeys) -> AsyncIterator[list[Service]]:
    """Running workers, of which the last test kills one. They have no jobs until a test makes items due."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(running("worker", **due_keys.settings)) for _ in range(WORKERS)
        ]


class TestWorkers:
    @pytest.mark.usefixtures("workers")
    async def test_validate_each_key_exactly_once_per_period(self, due_keys: DueKeys) -> None:
        before = due_keys.probes_by_key()

        await due_keys.make_due("revalidate")
        await until(due_keys.none_unfinished, "all validations finished")

        assert due_keys.probes_by_key() - before == dict.fromkeys(due_keys.digests.values(), 1)

    async def test_killed_worker_loses_no_key(self, due_keys: DueKeys, workers: list[Service]) -> None:
        killed, *others = workers
        before = due_keys.probes_by_key()

        await due_keys.make_due("revalidate")
        await until(
            lambda: len(due_keys.fake.journal) > before.total() + KEYS // 6, "a sixth of the keys was probed"
        )
        await killed.kill()
        await until(due_keys.none_due, "the other workers claimed the rest")
        for worker in others:
            await worker.stop()
        unfinished, validated = await due_keys.unfinished(), due_keys.probes_by_key() - before

        assert 0 < len(unfinished) <= CONCURRENCY
        assert validated.keys() >= set(due_keys.digests.values()) - set(unfinished)
        assert max(validated.values()) == 1

        async with running("worker", **due_keys.settings):
            await due_keys.make_due("settle_validation")
            await until(due_keys.none_pending, "pending validations of the killed worker are interrupted")
            await _expire_visibility_timeout(due_keys)
            await until(due_keys.none_unfinished, "items of the killed worker are validated")

        assert due_keys.probes_by_key() - before - validated == dict.fromkeys(unfinished, 1)


async def _expire_visibility_timeout(due_keys: DueKeys) -> None:
    """Make claimed items visible again now."""
    await change(
        due_keys.superuser,
        UNFINISHED.replace("SELECT id FROM job_queue", "UPDATE job_queue SET due_at = now()"),
    )


async def _insert_credentials(
    roles: DatabaseRoles, superuser: AsyncEngine, keys: list[str], data_dir: Path, *, messages_url: str
) -> dict[UUID, str]:
    """Insert valid credentials as rows and encrypted secrets. Their next validation is due in a day."""
    keys_by_id = {new_id(): key for key in keys}
    rows = [
        {
            "organization_id": f"org_{number % ORGANIZATIONS}",
            "id": credential_id,
            "intent_id": new_id(),
            "now": now(),
            "messages_url": messages_url,
        }
        for number, credential_id in enumerate(keys_by_id)
    ]
    database = Database(roles.login)
    store = EmbeddedSecretStore(database, Keyset.load_or_create(data_dir / "secret-store" / "keyset.json"))
    concurrency = asyncio.Semaphore(10)

    async def write_secret(row: dict[str, Any]) -> None:
        ref = SecretRef(organization_id=row["organization_id"], credential_id=row["id"])
        async with concurrency:
            await store.write(
                ref, ApiKey(keys_by_id[row["id"]]), intent_id=row["intent_id"], expected_version=0
            )

    await asyncio.gather(*map(write_secret, rows))
    await database.close()
    async with superuser.begin() as connection:
        for statement in INSERT_CREDENTIAL:
            await connection.execute(sa.text(statement), rows)
    return {credential_id: digest(key) for credential_id, key in keys_by_id.items()}
