"""Delivery of the outbox: organizations do not delay each other, and the worker can be stopped."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.principal import Caller
from app.composition.background import run_jobs
from app.core.clock import new_id, now
from app.core.notifications import EventType
from app.core.services import Services
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.egress.resolver import AddressGuard
from app.egress.transport import EgressLimits
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.provider_url.url_policy import OutboundUrl
from app.webhooks.delivery_worker import CONCURRENCY, MAX_PER_ORGANIZATION, DeliveryWorker
from app.webhooks.endpoints import DeliveryState
from app.webhooks.repository import WebhookRepository
from app.webhooks.service import WebhookService
from tests.support.credentials.fixture_types import MakeCaller
from tests.support.database.lock_waiters import lock_waiters
from tests.support.database.rows import change, fetch
from tests.support.fakes import FakeSecretStore
from tests.support.network.scripted_servers import (
    ADDRESS,
    HOST,
    OTHER_ADDRESS,
    FixedResolver,
    LoopbackBackend,
    client,
)
from tests.support.network.webhook_receiver import WebhookReceiver, webhook_receiver
from tests.support.polling import until
from tests.support.requests.webhooks import services_with_webhooks

OTHER_HOST = "other.example.com"
BACKLOG = 300
DELIVERIES = "SELECT id, endpoint_id FROM webhook_delivery WHERE organization_id = :organization"
# Longer than any test, so that hanging attempts end only when a test releases them.
TIMEOUT_SECONDS = 300.0


class Outbox:
    """Deliveries of several organizations, in a separate database without other jobs."""

    def __init__(self, services: Services, database: Database, superuser: AsyncEngine) -> None:
        self.services = services
        self.units = UnitsOfWork(database)
        self._superuser = superuser
        self._running: list[asyncio.Task[int]] = []

    def start(self, stop: asyncio.Event | None = None) -> asyncio.Task[int]:
        """Start a worker."""
        running = asyncio.create_task(self.services[DeliveryWorker].run(stop))
        self._running.append(running)
        return running

    async def add_deliveries(self, caller: Caller, host: str, deliveries: int) -> None:
        """Add due deliveries to a new endpoint on that host, behind the existing ones."""
        endpoint, _ = await self.services[WebhookService].create(
            caller, OutboundUrl(host=host, path="/hooks")
        )
        async with self.units.writing(caller.organization_id) as uow:
            for _ in range(deliveries):
                instant, delivery_id = now(), new_id()
                await uow[WebhookRepository].add_deliveries(
                    {endpoint.id: delivery_id}, kind=EventType.THRESHOLD_CROSSED, body="{}", now=instant
                )
            await uow.commit()

    async def claim(self, at_most: int, *in_progress: str) -> list[str]:
        """Claim items and return their organizations."""
        async with self.units.unscoped(QueueRepository) as (queue, session):
            claimed = await queue.claim_fairly(
                JobKind.DELIVER_WEBHOOK,
                now=now(),
                at_most=at_most,
                visibility_timeout=timedelta(hours=1),
                in_progress=in_progress,
                per_organization=MAX_PER_ORGANIZATION,
            )
            await session.commit()
        return [item.organization_id for item in claimed]

    async def remaining(self) -> int:
        return len(await fetch(self._superuser, "SELECT 1 FROM job_queue WHERE kind = 'deliver_webhook'"))

    async def clear(self) -> None:
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await change(self._superuser, "DELETE FROM job_queue")


def _item(organization_id: str, delivery_id: UUID) -> DueItem:
    return DueItem(organization_id=organization_id, kind=JobKind.DELIVER_WEBHOOK, id=delivery_id)


@pytest.fixture
async def hanging() -> AsyncIterator[WebhookReceiver]:
    """A receiver on `HOST` that does not respond until a test sets its gate."""
    async with webhook_receiver() as found:
        found.gate.clear()
        yield found


@pytest.fixture
async def quick() -> AsyncIterator[WebhookReceiver]:
    """A receiver on `OTHER_HOST` that responds immediately."""
    async with webhook_receiver(host=OTHER_HOST) as found:
        yield found


@pytest.fixture
def resolver() -> FixedResolver:
    return FixedResolver(gw_example_com=[[ADDRESS]], other_example_com=[[OTHER_ADDRESS]])


@pytest.fixture
async def outbox(
    services: Services,
    resolver: FixedResolver,
    own_database: Database,
    own_superuser: AsyncEngine,
    hanging: WebhookReceiver,
    quick: WebhookReceiver,
) -> AsyncIterator[Outbox]:
    backend = LoopbackBackend({ADDRESS: hanging.port, OTHER_ADDRESS: quick.port})
    async with client(resolver, backend, limits=EgressLimits(total_seconds=None)) as http:
        own = services_with_webhooks(
            services,
            UnitsOfWork(own_database),
            FakeSecretStore(),
            http=http,
            guard=AddressGuard(resolver),
            timeout_seconds=TIMEOUT_SECONDS,
        )
        outbox = Outbox(own, own_database, own_superuser)
        yield outbox
        hanging.gate.set()
        for blocked in resolver.blocked.values():
            blocked.set()
        await outbox.clear()


async def wait_for_messages(receiver: WebhookReceiver, is_expected: Callable[[int], bool]) -> int:
    """Wait for the expected number of messages and return it."""

    async def count() -> int:
        return len(receiver.received)

    return await until(count, is_expected)


class TestFairness:
    async def test_hanging_backlog_delays_only_its_own_organization(
        self, outbox: Outbox, hanging: WebhookReceiver, quick: WebhookReceiver, make_caller: MakeCaller
    ) -> None:
        await outbox.add_deliveries(make_caller(), HOST, BACKLOG)
        await outbox.add_deliveries(make_caller(), OTHER_HOST, 1)

        running = outbox.start()
        await wait_for_messages(quick, lambda count: count == 1)
        await until(outbox.remaining, lambda remaining: remaining == BACKLOG)
        hanging_count = await wait_for_messages(hanging, lambda count: count == MAX_PER_ORGANIZATION)

        assert not running.done()
        assert hanging_count == MAX_PER_ORGANIZATION
        hanging.gate.set()
        assert await running == BACKLOG + 1
        assert len({message.headers["webhook-id"] for message in hanging.received}) == BACKLOG
        assert await outbox.remaining() == 0

    async def test_hanging_lookups_delay_only_their_own_organization(
        self,
        outbox: Outbox,
        resolver: FixedResolver,
        quick: WebhookReceiver,
        make_caller: MakeCaller,
    ) -> None:
        await outbox.add_deliveries(make_caller(), HOST, BACKLOG)
        await outbox.add_deliveries(make_caller(), OTHER_HOST, 1)
        resolver.blocked[HOST] = asyncio.Event()  # a name server that never responds
        resolver.queries.clear()

        running = outbox.start()
        await wait_for_messages(quick, lambda count: count == 1)

        assert not running.done()
        assert resolver.queries.count(HOST) <= MAX_PER_ORGANIZATION

    async def test_fast_backlog_does_not_delay_other_organizations(
        self, outbox: Outbox, hanging: WebhookReceiver, quick: WebhookReceiver, make_caller: MakeCaller
    ) -> None:
        await outbox.add_deliveries(make_caller(), OTHER_HOST, BACKLOG)
        await outbox.add_deliveries(make_caller(), HOST, 1)
        hanging.gate.set()
        in_order = hanging.received = quick.received

        await outbox.start()

        assert len(in_order) == BACKLOG + 1
        # The last item in the queue is among the first ones claimed; some others may arrive before it.
        assert HOST in [message.headers["host"] for message in in_order[: BACKLOG // 2]]

    async def test_new_due_delivery_does_not_wait_for_hanging_ones(
        self, outbox: Outbox, hanging: WebhookReceiver, quick: WebhookReceiver, make_caller: MakeCaller
    ) -> None:
        await outbox.add_deliveries(make_caller(), HOST, 1)
        running = outbox.start()
        await wait_for_messages(hanging, lambda count: count == 1)

        await outbox.add_deliveries(make_caller(), OTHER_HOST, 1)

        await wait_for_messages(quick, lambda count: count == 1)
        assert not running.done()
        hanging.gate.set()
        assert await running == 2

    async def test_free_slots_are_used_immediately(
        self, outbox: Outbox, hanging: WebhookReceiver, quick: WebhookReceiver, make_caller: MakeCaller
    ) -> None:
        """One delivery hangs; the worker sends all others in the same run."""
        await outbox.add_deliveries(make_caller(), HOST, 1)
        for _ in range(3):
            await outbox.add_deliveries(make_caller(), OTHER_HOST, 2 * CONCURRENCY)

        running = outbox.start()
        await wait_for_messages(quick, lambda count: count == 3 * 2 * CONCURRENCY)

        assert not running.done()
        hanging.gate.set()
        assert await running == 1 + 3 * 2 * CONCURRENCY


class TestStopping:
    async def test_finishes_running_attempts_and_claims_no_more(
        self, outbox: Outbox, hanging: WebhookReceiver, quick: WebhookReceiver, make_caller: MakeCaller
    ) -> None:
        await outbox.add_deliveries(make_caller(), HOST, BACKLOG)
        stop = asyncio.Event()
        jobs = asyncio.create_task(run_jobs(outbox.services, interval_seconds=60, stop=stop))
        await wait_for_messages(hanging, lambda count: count == MAX_PER_ORGANIZATION)

        stop.set()
        await outbox.add_deliveries(make_caller(), OTHER_HOST, 1)
        hanging.gate.set()
        await jobs

        assert len(hanging.received) == MAX_PER_ORGANIZATION
        assert quick.received == []
        assert await outbox.remaining() == BACKLOG + 1 - MAX_PER_ORGANIZATION

    async def test_loses_nothing(
        self, outbox: Outbox, hanging: WebhookReceiver, make_caller: MakeCaller
    ) -> None:
        await outbox.add_deliveries(make_caller(), HOST, BACKLOG)
        stop = asyncio.Event()
        running = outbox.start(stop)
        await wait_for_messages(hanging, lambda count: count == MAX_PER_ORGANIZATION)
        stop.set()
        hanging.gate.set()

        attempts = await running, await outbox.start()

        assert attempts == (MAX_PER_ORGANIZATION, BACKLOG - MAX_PER_ORGANIZATION)
        assert len({message.headers["webhook-id"] for message in hanging.received}) == BACKLOG
        assert await outbox.remaining() == 0


class TestClaiming:
    async def test_no_organization_exceeds_its_quota(self, outbox: Outbox, make_caller: MakeCaller) -> None:
        first, second = make_caller(), make_caller()
        await outbox.add_deliveries(first, HOST, BACKLOG)
        await outbox.add_deliveries(second, OTHER_HOST, BACKLOG)
        one, other = first.organization_id, second.organization_id

        first_claim = await outbox.claim(CONCURRENCY)
        with_in_progress = await outbox.claim(CONCURRENCY, one, other, one, one)
        second_claim = await outbox.claim(CONCURRENCY, *first_claim)
        at_quota = await outbox.claim(CONCURRENCY, *[one, other] * MAX_PER_ORGANIZATION)

        assert first_claim == [one] * MAX_PER_ORGANIZATION
        assert with_in_progress == [one] * (MAX_PER_ORGANIZATION - 3)
        assert second_claim == [other] * MAX_PER_ORGANIZATION
        assert at_quota == []

    async def test_items_beyond_the_quota_are_left_for_the_next_claim(
        self, outbox: Outbox, make_caller: MakeCaller
    ) -> None:
        caller = make_caller()
        await outbox.add_deliveries(caller, HOST, 2 * MAX_PER_ORGANIZATION + 1)

        claimed = [len(await outbox.claim(CONCURRENCY)) for _ in range(4)]

        assert claimed == [MAX_PER_ORGANIZATION, MAX_PER_ORGANIZATION, 1, 0]


class TestDeletion:
    async def test_waits_for_an_attempt_that_is_being_recorded(
        self, outbox: Outbox, own_superuser: AsyncEngine, make_caller: MakeCaller
    ) -> None:
        """An attempt locks its delivery before its queue item. With the other order, the two would deadlock."""
        caller = make_caller()
        await outbox.add_deliveries(caller, HOST, 2)
        organization = {"organization": caller.organization_id}
        (delivery, _) = await fetch(own_superuser, DELIVERIES, **organization)

        async with asyncio.timeout(30), outbox.units.writing(caller.organization_id) as attempt:
            assert await attempt[WebhookRepository].record_attempt(
                delivery["id"], attempts=1, state=DeliveryState.PENDING, outcome="timeout", ended_at=None
            )
            deleting = asyncio.create_task(
                outbox.services[WebhookService].delete(caller, delivery["endpoint_id"])
            )
            await until(lambda: lock_waiters(own_superuser), bool)
            item = _item(caller.organization_id, delivery["id"])
            await attempt[QueueRepository].schedule(item, due_at=now())
            await attempt.commit()
            await deleting

        assert await outbox.remaining() == 0
        assert await fetch(own_superuser, DELIVERIES, **organization) == []
