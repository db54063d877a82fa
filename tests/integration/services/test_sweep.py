"""The sweep takes up what is due, once, and lets nothing stand in its way."""

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
from app.secret_store.port import SecretRef
from tests.fakes import FakeSecretStore
from tests.integration.services.conftest import MakeCaller
from tests.integration.services.vessels import Vessel
from tests.integration.services.workplace import Workplace, make_key
from tests.interruptions import Course, Crash, Dependency, Step, crash
from tests.rows import change, fetch, make_due


class PoisonedStore(FakeSecretStore):
    """Fails for one credential in a way that nobody foresaw."""

    def __init__(self) -> None:
        super().__init__()
        self.poison: UUID | None = None

    async def tombstone(self, ref: SecretRef, *, intent_id: UUID, expected_version: int) -> bool:
        if ref.credential_id == self.poison:
            raise RuntimeError("nobody foresaw this")
        return await super().tombstone(ref, intent_id=intent_id, expected_version=expected_version)


@pytest.fixture
def place(
    services: Services,
    database: Database,
    owner: AsyncEngine,
    make_caller: MakeCaller,
    fake_vessel: Vessel,
) -> Workplace:
    return Workplace(
        services=services, database=database, owner=owner, vessel=fake_vessel, caller=make_caller()
    )


async def leave_an_intent(place: Workplace) -> None:
    """A writer that dies with its key on the way to the store."""
    written = False

    async def die(step: Step) -> None:
        nonlocal written
        written = written or (step.dependency is Dependency.STORE and bool(await place.rows("job_queue")))
        if written:
            raise Crash

    with pytest.raises(Crash):
        await place.register(place.interrupted(Course(1, die, lasts=True)), make_key())


class TestAbandonedIntent:
    async def test_is_cleared_away(self, place: Workplace) -> None:
        await leave_an_intent(place)
        assert len(await place.rows("credential_version")) == 1

        await place.sweep()

        for table in ("provider_credential", "credential_version", "fingerprint_claim", "job_queue"):
            assert await place.rows(table) == []

    async def test_is_left_alone_until_its_deadline(self, place: Workplace) -> None:
        await leave_an_intent(place)
        before = await place.rows("credential_version")

        await place.healthy[Reconciler].run()

        assert await place.rows("credential_version") == before
        (queued,) = await place.rows("job_queue")
        assert now() < queued["due_at"] < now() + timedelta(minutes=1)

    async def test_bars_a_write_that_is_still_on_its_way(self, place: Workplace) -> None:
        await leave_an_intent(place)
        (version,) = await place.rows("credential_version")
        await place.sweep()
        ref = SecretRef(organization_id=place.organization, credential_id=version["credential_id"])

        assert await place.vessel.store.current_version(ref) == version["expected_store_version"] + 1
        assert await place.vessel.secrets(place.organization) == set()

    async def test_waits_while_the_store_is_down(self, place: Workplace) -> None:
        await leave_an_intent(place)
        assert isinstance(place.vessel.store, FakeSecretStore)
        place.vessel.store.unavailable = True

        await place.sweep()

        place.vessel.store.unavailable = False
        assert {row["state"] for row in await place.rows("credential_version")} == {"abandoned"}
        (queued,) = await place.rows("job_queue")
        assert queued["due_at"] > now()
        await place.sweep()
        assert await place.rows("credential_version") == []

    async def test_frees_its_key_even_while_the_store_is_down(self, place: Workplace) -> None:
        await leave_an_intent(place)
        assert isinstance(place.vessel.store, FakeSecretStore)
        place.vessel.store.unavailable = True

        await place.sweep()

        place.vessel.store.unavailable = False
        assert await place.rows("fingerprint_claim") == []
        await place.sweep()


class TestSweeps:
    async def test_side_by_side_settle_each_item_once(
        self,
        services: Services,
        database: Database,
        owner: AsyncEngine,
        make_caller: MakeCaller,
        fake_vessel: Vessel,
    ) -> None:
        places = [
            Workplace(
                services=services, database=database, owner=owner, vessel=fake_vessel, caller=make_caller()
            )
            for _ in range(5)
        ]
        for place in places:
            await leave_an_intent(place)
            await make_due(owner, place.organization)

        await asyncio.gather(*(places[0].healthy[Reconciler].run() for _ in range(4)))

        assert isinstance(fake_vessel.store, FakeSecretStore)
        barred = [
            call.ref.organization_id
            for call in fake_vessel.store.calls
            if call.method == "tombstone" and call.ref
        ]
        assert [barred.count(place.organization) for place in places] == [1] * len(places)
        assert [await place.rows("job_queue") for place in places] == [[]] * len(places)

    async def test_that_die_over_an_item_leave_it_for_the_next(self, place: Workplace) -> None:
        await leave_an_intent(place)

        with pytest.raises(Crash):
            await place.sweep(place.interrupted(crash(2)))

        assert len(await place.rows("job_queue")) == 1
        await place.sweep()
        assert await place.rows("job_queue") == []

    async def test_go_on_past_an_item_that_fails(
        self, services: Services, database: Database, owner: AsyncEngine, make_caller: MakeCaller
    ) -> None:
        store = PoisonedStore()

        async def secrets(_organization_id: str) -> set[tuple[UUID, int]]:
            return set()

        vessel = Vessel(name="poisoned", store=store, secrets=secrets)
        places = [
            Workplace(services=services, database=database, owner=owner, vessel=vessel, caller=make_caller())
            for _ in range(3)
        ]
        for place in places:
            await leave_an_intent(place)
            await make_due(owner, place.organization)
        (poisoned,) = await places[0].rows("credential_version")
        store.poison = poisoned["credential_id"]

        try:
            await places[0].healthy[Reconciler].run()

            left = [len(await place.rows("job_queue")) for place in places]
            assert left == [1, 0, 0]
        finally:
            store.poison = None
            for place in places:
                await place.sweep()

    async def test_find_nothing_to_do_when_there_is_nothing(self, place: Workplace) -> None:
        await place.register(place.healthy, make_key())

        before = await place.rows("credential_version")
        await place.sweep()

        assert await place.rows("credential_version") == before

    async def test_pass_over_an_item_whose_work_is_gone(self, place: Workplace, owner: AsyncEngine) -> None:
        for kind in ("settle_intent", "settle_validation"):
            await change(
                owner,
                "INSERT INTO job_queue VALUES (:organization, :kind, :id, now())",
                organization=place.organization,
                kind=kind,
                id=uuid4(),
            )

        await place.sweep()

        assert await place.rows("job_queue") == []


class TestPurge:
    async def test_drops_what_expired_and_nothing_else(self, place: Workplace, owner: AsyncEngine) -> None:
        await change(
            owner,
            "INSERT INTO idempotency_key"
            " (organization_id, key_digest, request_digest, holder_id, held_until, resource_id, expires_at)"
            " SELECT :organization, age::text::bytea, '', gen_random_uuid(), now(), gen_random_uuid(),"
            " now() + age * interval '1 hour' FROM unnest(ARRAY[-1, 1]) age",
            organization=place.organization,
        )
        await change(
            owner,
            "INSERT INTO rate_counter SELECT :organization, 'credential_writes', now() - age * interval '1 minute', 1"
            " FROM unnest(ARRAY[0, 60]) age",
            organization=place.organization,
        )

        await place.healthy[Reconciler].purge()

        kept = "SELECT expires_at > now() AS fresh FROM idempotency_key WHERE organization_id = :organization"
        counted = "SELECT minute > now() - interval '5 minutes' AS fresh FROM rate_counter WHERE organization_id = :organization"
        for statement in (kept, counted):
            assert await fetch(owner, statement, organization=place.organization) == [{"fresh": True}]


class TestStoreThatAnswersTooLate:
    async def test_its_write_is_undone_and_the_caller_told(self, place: Workplace) -> None:
        """The sweep takes a writer for dead that lives: its write comes before the tombstone."""

        async def sweep_after_the_write(step: Step) -> None:
            if step.dependency is Dependency.STORE and await place.vessel.secrets(place.organization):
                await place.sweep()

        key = make_key()

        with pytest.raises(SecretStoreUnavailable):
            await place.register(place.interrupted(Course(1, sweep_after_the_write, lasts=True)), key)

        assert await place.assert_in_step(key) == []
