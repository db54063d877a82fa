"""The outbox is emptied fairly and can be stopped: no organization's backlog or slow receiver is another's delay."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.principal import Caller
from app.composition.background import run_jobs
from app.core.clock import new_id, now
from app.core.services import Services
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.egress.resolver import AddressGuard
from app.egress.transport import EgressLimits
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.provider_url.url_policy import OutboundUrl
from app.webhooks.delivery_worker import AT_ONCE, PER_ORGANIZATION, DeliveryWorker
from app.webhooks.endpoints import EventType
from app.webhooks.repository import WebhookRepository
from app.webhooks.service import WebhookService
from tests.api.telling import services_of
from tests.fakes import FakeSecretStore
from tests.integration.egress.far_side import ADDRESS, HOST, OTHER_ADDRESS, Detour, FixedResolver, client
from tests.integration.egress.receiver import Receiver, receiver
from tests.integration.services.conftest import MakeCaller
from tests.rows import change, fetch
from tests.waiting import until

OTHER_HOST = "other.example.com"
BACKLOG = 300
# Longer than any test lasts: what hangs hangs until it is released.
PATIENCE_SECONDS = 300.0


class Outbox:
    """Deliveries of several organizations, in a database where nobody else has work to do."""

    def __init__(self, services: Services, database: Database, owner: AsyncEngine) -> None:
        self.services = services
        self.units = UnitsOfWork(database)
        self._owner = owner
        self._running: list[asyncio.Task[int]] = []

    def start(self, stop: asyncio.Event | None = None) -> asyncio.Task[int]:
        """Begin to empty it."""
        running = asyncio.create_task(self.services[DeliveryWorker].run(stop))
        self._running.append(running)
        return running

    async def fill(self, caller: Caller, host: str, deliveries: int) -> None:
        """So many to a new endpoint on that host, all due, later than those that are there."""
        endpoint, _ = await self.services[WebhookService].add(caller, OutboundUrl(host=host, path="/hooks"))
        async with self.units.writing(caller.organization_id) as uow:
            for _ in range(deliveries):
                instant, delivery_id = now(), new_id()
                await uow[WebhookRepository].add_delivery(
                    delivery_id, endpoint.id, kind=EventType.THRESHOLD_CROSSED, body="{}", now=instant
                )
                await uow[QueueRepository].add(_item(caller.organization_id, delivery_id), due_at=instant)
            await uow.commit()

    async def take(self, at_most: int, *under_way: str) -> list[str]:
        """The organizations of what a taker is given."""
        async with self.units.across(QueueRepository) as (queue, session):
            taken = await queue.take_fairly(
                JobKind.DELIVER_WEBHOOK,
                now=now(),
                at_most=at_most,
                again_after=timedelta(hours=1),
                under_way=under_way,
                share=PER_ORGANIZATION,
            )
            await session.commit()
        return [item.organization_id for item in taken]

    async def left(self) -> int:
        return len(await fetch(self._owner, "SELECT 1 FROM job_queue WHERE kind = 'deliver_webhook'"))

    async def clear(self) -> None:
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await change(self._owner, "DELETE FROM job_queue")


def _item(organization_id: str, delivery_id: UUID) -> DueItem:
    return DueItem(organization_id=organization_id, kind=JobKind.DELIVER_WEBHOOK, id=delivery_id)


@pytest.fixture
async def hanging() -> AsyncIterator[Receiver]:
    """A receiver on `HOST` that takes messages in and does not answer until it is released."""
    async with receiver() as found:
        found.gate.clear()
        yield found


@pytest.fixture
async def quick() -> AsyncIterator[Receiver]:
    """A receiver on `OTHER_HOST` that answers at once."""
    async with receiver(host=OTHER_HOST) as found:
        yield found


@pytest.fixture
async def outbox(
    services: Services, own_database: Database, own_engine: AsyncEngine, hanging: Receiver, quick: Receiver
) -> AsyncIterator[Outbox]:
    resolver = FixedResolver(gw_example_com=[[ADDRESS]], other_example_com=[[OTHER_ADDRESS]])
    detour = Detour({ADDRESS: hanging.port, OTHER_ADDRESS: quick.port})
    async with client(resolver, detour, limits=EgressLimits(total_seconds=None)) as http:
        own = services_of(
            services,
            UnitsOfWork(own_database),
            FakeSecretStore(),
            http=http,
            guard=AddressGuard(resolver),
            timeout_seconds=PATIENCE_SECONDS,
        )
        outbox = Outbox(own, own_database, own_engine)
        yield outbox
        hanging.gate.set()
        await outbox.clear()


async def received(by: Receiver, holds: Callable[[int], bool]) -> int:
    """How many messages there are, once there are as many as there should be."""

    async def count() -> int:
        return len(by.received)

    return await until(count, holds)


class TestFairness:
    async def test_a_backlog_that_hangs_holds_up_its_own_organization_alone(
        self, outbox: Outbox, hanging: Receiver, quick: Receiver, make_caller: MakeCaller
    ) -> None:
        await outbox.fill(make_caller(), HOST, BACKLOG)
        await outbox.fill(make_caller(), OTHER_HOST, 1)

        running = outbox.start()
        await received(quick, lambda count: count == 1)
        await until(outbox.left, lambda left: left == BACKLOG)
        hang = await received(hanging, lambda count: count == PER_ORGANIZATION)

        assert not running.done()
        assert hang == PER_ORGANIZATION
        hanging.gate.set()
        assert await running == BACKLOG + 1
        assert len({message.headers["webhook-id"] for message in hanging.received}) == BACKLOG
        assert await outbox.left() == 0

    async def test_a_backlog_that_is_told_quickly_does_not_go_before_others_either(
        self, outbox: Outbox, hanging: Receiver, quick: Receiver, make_caller: MakeCaller
    ) -> None:
        await outbox.fill(make_caller(), OTHER_HOST, BACKLOG)
        await outbox.fill(make_caller(), HOST, 1)
        hanging.gate.set()
        in_order = hanging.received = quick.received

        await outbox.start()

        assert len(in_order) == BACKLOG + 1
        # The last one in the queue is among the first to be taken; on the way some may overtake it.
        assert HOST in [message.headers["host"] for message in in_order[: BACKLOG // 2]]

    async def test_what_becomes_due_while_others_hang_does_not_wait_for_them(
        self, outbox: Outbox, hanging: Receiver, quick: Receiver, make_caller: MakeCaller
    ) -> None:
        await outbox.fill(make_caller(), HOST, 1)
        running = outbox.start()
        await received(hanging, lambda count: count == 1)

        await outbox.fill(make_caller(), OTHER_HOST, 1)

        await received(quick, lambda count: count == 1)
        assert not running.done()
        hanging.gate.set()
        assert await running == 2

    async def test_places_are_filled_as_they_become_free(
        self, outbox: Outbox, hanging: Receiver, quick: Receiver, make_caller: MakeCaller
    ) -> None:
        """One delivery hangs; all others of the same run are made."""
        await outbox.fill(make_caller(), HOST, 1)
        for _ in range(3):
            await outbox.fill(make_caller(), OTHER_HOST, 2 * AT_ONCE)

        running = outbox.start()
        await received(quick, lambda count: count == 3 * 2 * AT_ONCE)

        assert not running.done()
        hanging.gate.set()
        assert await running == 1 + 3 * 2 * AT_ONCE


class TestStopping:
    async def test_finishes_what_is_under_way_and_takes_nothing_more_of_a_full_outbox(
        self, outbox: Outbox, hanging: Receiver, quick: Receiver, make_caller: MakeCaller
    ) -> None:
        await outbox.fill(make_caller(), HOST, BACKLOG)
        stop = asyncio.Event()
        jobs = asyncio.create_task(run_jobs(outbox.services, interval_seconds=60, stop=stop))
        await received(hanging, lambda count: count == PER_ORGANIZATION)

        stop.set()
        await outbox.fill(make_caller(), OTHER_HOST, 1)
        hanging.gate.set()
        await jobs

        assert len(hanging.received) == PER_ORGANIZATION
        assert quick.received == []
        assert await outbox.left() == BACKLOG + 1 - PER_ORGANIZATION

    async def test_loses_nothing(self, outbox: Outbox, hanging: Receiver, make_caller: MakeCaller) -> None:
        await outbox.fill(make_caller(), HOST, BACKLOG)
        stop = asyncio.Event()
        running = outbox.start(stop)
        await received(hanging, lambda count: count == PER_ORGANIZATION)
        stop.set()
        hanging.gate.set()

        attempts = await running, await outbox.start()

        assert attempts == (PER_ORGANIZATION, BACKLOG - PER_ORGANIZATION)
        assert len({message.headers["webhook-id"] for message in hanging.received}) == BACKLOG
        assert await outbox.left() == 0


class TestTaking:
    async def test_gives_no_organization_more_than_its_share(
        self, outbox: Outbox, make_caller: MakeCaller
    ) -> None:
        first, second = make_caller(), make_caller()
        await outbox.fill(first, HOST, BACKLOG)
        await outbox.fill(second, OTHER_HOST, BACKLOG)
        one, other = first.organization_id, second.organization_id

        alone = await outbox.take(AT_ONCE)
        with_some_under_way = await outbox.take(AT_ONCE, one, other, one, one)
        behind = await outbox.take(AT_ONCE, *alone)
        neither = await outbox.take(AT_ONCE, *[one, other] * PER_ORGANIZATION)

        assert alone == [one] * PER_ORGANIZATION
        assert with_some_under_way == [one] * (PER_ORGANIZATION - 3)
        assert behind == [other] * PER_ORGANIZATION
        assert neither == []

    async def test_leaves_what_was_beyond_the_share_to_the_next_taker(
        self, outbox: Outbox, make_caller: MakeCaller
    ) -> None:
        caller = make_caller()
        await outbox.fill(caller, HOST, 2 * PER_ORGANIZATION + 1)

        taken = [len(await outbox.take(AT_ONCE)) for _ in range(4)]

        assert taken == [PER_ORGANIZATION, PER_ORGANIZATION, 1, 0]
