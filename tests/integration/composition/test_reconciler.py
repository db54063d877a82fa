"""The reconciler runs each due job once, and a failing job does not stop the others."""

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.composition.reconciler import Reconciler
from app.core.clock import now
from app.core.errors import SecretStoreUnavailable
from app.core.services import Services
from app.database.engine import Database
from app.jobs.retention import ExpiredRowsWorker
from app.secret_store.port import SecretRef
from tests.support.credentials.fixture_types import MakeCaller
from tests.support.credentials.organization_harness import OrganizationHarness, make_key
from tests.support.credentials.store_variants import StoreVariant
from tests.support.database.rows import change, fetch, make_due
from tests.support.fakes import FakeSecretStore
from tests.support.fault_injection import Crash, Dependency, FaultSchedule, Step, crash


class StoreFailingForOneCredential(FakeSecretStore):
    """Raises an unexpected error for one credential."""

    def __init__(self) -> None:
        super().__init__()
        self.failing_credential: UUID | None = None

    async def tombstone(self, ref: SecretRef, *, intent_id: UUID, expected_version: int) -> bool:
        if ref.credential_id == self.failing_credential:
            raise RuntimeError("unexpected")
        return await super().tombstone(ref, intent_id=intent_id, expected_version=expected_version)


@pytest.fixture
def harness(
    services: Services,
    database: Database,
    superuser: AsyncEngine,
    make_caller: MakeCaller,
    fake_store_variant: StoreVariant,
) -> OrganizationHarness:
    return OrganizationHarness(
        services=services,
        database=database,
        superuser=superuser,
        store_variant=fake_store_variant,
        caller=make_caller(),
    )


async def leave_interrupted_write(harness: OrganizationHarness) -> None:
    """Crash a writer while it sends its key to the store."""
    is_written = False

    async def crash_while_writing(step: Step) -> None:
        nonlocal is_written
        is_written = is_written or (
            step.dependency is Dependency.STORE and bool(await harness.rows("job_queue"))
        )
        if is_written:
            raise Crash

    with pytest.raises(Crash):
        await harness.register(
            harness.services_with_faults(FaultSchedule(1, crash_while_writing, lasts=True)), make_key()
        )


class TestInterruptedWrite:
    async def test_is_removed(self, harness: OrganizationHarness) -> None:
        await leave_interrupted_write(harness)
        assert len(await harness.rows("credential_version")) == 1

        await harness.reconcile()

        for table in ("provider_credential", "credential_version", "fingerprint_claim", "job_queue"):
            assert await harness.rows(table) == []

    async def test_is_kept_until_its_deadline(self, harness: OrganizationHarness) -> None:
        await leave_interrupted_write(harness)
        before = await harness.rows("credential_version")

        await harness.healthy_services[Reconciler].run()

        assert await harness.rows("credential_version") == before
        (queued,) = await harness.rows("job_queue")
        assert now() < queued["due_at"] < now() + timedelta(minutes=1)

    async def test_blocks_a_write_that_arrives_later(self, harness: OrganizationHarness) -> None:
        await leave_interrupted_write(harness)
        (version,) = await harness.rows("credential_version")
        await harness.reconcile()
        ref = SecretRef(organization_id=harness.organization, credential_id=version["credential_id"])

        assert await harness.store_variant.store.current_version(ref) == version["expected_store_version"] + 1
        assert await harness.store_variant.secrets(harness.organization) == set()

    async def test_is_postponed_while_the_store_is_down(self, harness: OrganizationHarness) -> None:
        await leave_interrupted_write(harness)
        assert isinstance(harness.store_variant.store, FakeSecretStore)
        harness.store_variant.store.unavailable = True

        await harness.reconcile()

        harness.store_variant.store.unavailable = False
        assert {row["state"] for row in await harness.rows("credential_version")} == {"abandoned"}
        (queued,) = await harness.rows("job_queue")
        assert queued["due_at"] > now()
        await harness.reconcile()
        assert await harness.rows("credential_version") == []

    async def test_releases_the_key_even_if_the_store_is_down(self, harness: OrganizationHarness) -> None:
        await leave_interrupted_write(harness)
        assert isinstance(harness.store_variant.store, FakeSecretStore)
        harness.store_variant.store.unavailable = True

        await harness.reconcile()

        harness.store_variant.store.unavailable = False
        assert await harness.rows("fingerprint_claim") == []
        await harness.reconcile()


class TestRun:
    async def test_concurrent_runs_process_each_job_once(
        self,
        services: Services,
        database: Database,
        superuser: AsyncEngine,
        make_caller: MakeCaller,
        fake_store_variant: StoreVariant,
    ) -> None:
        harnesses = [
            OrganizationHarness(
                services=services,
                database=database,
                superuser=superuser,
                store_variant=fake_store_variant,
                caller=make_caller(),
            )
            for _ in range(5)
        ]
        for harness in harnesses:
            await leave_interrupted_write(harness)
            await make_due(superuser, harness.organization)

        await asyncio.gather(*(harnesses[0].healthy_services[Reconciler].run() for _ in range(4)))

        assert isinstance(fake_store_variant.store, FakeSecretStore)
        blocked = [
            call.ref.organization_id
            for call in fake_store_variant.store.calls
            if call.method == "tombstone" and call.ref
        ]
        assert [blocked.count(harness.organization) for harness in harnesses] == [1] * len(harnesses)
        assert [await harness.rows("job_queue") for harness in harnesses] == [[]] * len(harnesses)

    async def test_keeps_a_job_after_a_crash(self, harness: OrganizationHarness) -> None:
        await leave_interrupted_write(harness)

        with pytest.raises(Crash):
            await harness.reconcile(harness.services_with_faults(crash(2)))

        assert len(await harness.rows("job_queue")) == 1
        await harness.reconcile()
        assert await harness.rows("job_queue") == []

    async def test_continues_after_a_failing_job(
        self, services: Services, database: Database, superuser: AsyncEngine, make_caller: MakeCaller
    ) -> None:
        store = StoreFailingForOneCredential()

        async def secrets(_organization_id: str) -> set[tuple[UUID, int]]:
            return set()

        store_variant = StoreVariant(name="failing", store=store, secrets=secrets)
        harnesses = [
            OrganizationHarness(
                services=services,
                database=database,
                superuser=superuser,
                store_variant=store_variant,
                caller=make_caller(),
            )
            for _ in range(3)
        ]
        for harness in harnesses:
            await leave_interrupted_write(harness)
            await make_due(superuser, harness.organization)
        (failing,) = await harnesses[0].rows("credential_version")
        store.failing_credential = failing["credential_id"]

        try:
            await harnesses[0].healthy_services[Reconciler].run()

            remaining = [len(await harness.rows("job_queue")) for harness in harnesses]
            assert remaining == [1, 0, 0]
        finally:
            store.failing_credential = None
            for harness in harnesses:
                await harness.reconcile()

    async def test_changes_nothing_without_due_jobs(self, harness: OrganizationHarness) -> None:
        await harness.register(harness.healthy_services, make_key())

        before = await harness.rows("credential_version")
        await harness.reconcile()

        assert await harness.rows("credential_version") == before

    async def test_removes_jobs_whose_work_is_gone(
        self, harness: OrganizationHarness, superuser: AsyncEngine
    ) -> None:
        for kind in ("settle_intent", "settle_validation"):
            await change(
                superuser,
                "INSERT INTO job_queue VALUES (:organization, :kind, :id, now())",
                organization=harness.organization,
                kind=kind,
                id=uuid4(),
            )

        await harness.reconcile()

        assert await harness.rows("job_queue") == []


class TestPurge:
    async def test_deletes_only_expired_rows(
        self, harness: OrganizationHarness, superuser: AsyncEngine
    ) -> None:
        await change(
            superuser,
            "INSERT INTO idempotency_key"
            " (organization_id, key_digest, request_digest, holder_id, held_until, resource_id, expires_at)"
            " SELECT :organization, age::text::bytea, '', gen_random_uuid(), now(), gen_random_uuid(),"
            " now() + age * interval '1 hour' FROM unnest(ARRAY[-1, 1]) age",
            organization=harness.organization,
        )
        await change(
            superuser,
            "INSERT INTO rate_counter SELECT :organization, 'credential_writes', now() - age * interval '1 minute', 1"
            " FROM unnest(ARRAY[0, 60]) age",
            organization=harness.organization,
        )

        await harness.healthy_services[ExpiredRowsWorker].run()

        idempotency_keys = (
            "SELECT expires_at > now() AS fresh FROM idempotency_key WHERE organization_id = :organization"
        )
        rate_counters = "SELECT minute > now() - interval '5 minutes' AS fresh FROM rate_counter WHERE organization_id = :organization"
        for statement in (idempotency_keys, rate_counters):
            assert await fetch(superuser, statement, organization=harness.organization) == [{"fresh": True}]


class TestSlowStore:
    async def test_write_is_undone_and_the_caller_gets_an_error(self, harness: OrganizationHarness) -> None:
        """The reconciler assumes that a slow writer crashed. Its write arrives before the tombstone."""

        async def reconcile_after_the_write(step: Step) -> None:
            if step.dependency is Dependency.STORE and await harness.store_variant.secrets(
                harness.organization
            ):
                await harness.reconcile()

        key = make_key()

        with pytest.raises(SecretStoreUnavailable):
            await harness.register(
                harness.services_with_faults(FaultSchedule(1, reconcile_after_the_write, lasts=True)), key
            )

        assert await harness.assert_store_and_database_agree(key) == []
