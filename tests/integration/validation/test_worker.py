"""Periodic validation: due items run once, the result schedules the next run, unneeded items are removed."""

import asyncio
import contextvars
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import pairwise

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.clock import new_id
from app.core.errors import NotFound
from app.core.event_loop import RequestInProgress
from app.core.services import Services
from app.credentials.deletion import DeletionService
from app.credentials.enablement import EnablementService
from app.credentials.service import CredentialService
from app.credentials.validation_results import Reason, ValidationStatus
from app.credentials.validator import RESPONSE_SECONDS
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.jobs.fair_runner import START_SECONDS, FairConcurrency, FairRunner
from app.jobs.queue import DueItem, JobKind
from app.validation.runner import MIN_PROBE_SECONDS, _seconds_left
from app.validation.service import ValidationService
from app.validation.worker import BUSY_HOST_DELAY, ValidationWorker
from tests.support.credentials.fixture_types import MakeCaller
from tests.support.credentials.periodic_validation import DAY, PeriodicValidationHarness
from tests.support.polling import until

CONCURRENCY = 16  # as `assemble` sets it
PER_HOST = 4  # as `assemble` sets it
PER_ORGANIZATION = 4  # the default
HANGING = 30


@pytest.fixture
async def harness(
    services: Services, own_database: Database, own_superuser: AsyncEngine
) -> AsyncIterator[PeriodicValidationHarness]:
    harness = PeriodicValidationHarness(services, own_database, own_superuser)
    yield harness
    harness.prober.gate.set()
    await harness.clear()


def about(interval: timedelta) -> tuple[timedelta, timedelta]:
    """Return the bounds of the 10 % jitter, with 5 seconds for the runtime of the test."""
    return interval * 0.9 - timedelta(seconds=5), interval * 1.1


class TestStart:
    async def test_items_start_one_after_another_beside_short_requests(
        self, harness: PeriodicValidationHarness, own_database: Database
    ) -> None:
        for _ in range(PER_ORGANIZATION):
            await harness.register()
        await harness.make_due()
        started_at: list[float] = []
        short_requests: list[RequestInProgress] = []

        async def work(_: DueItem) -> None:
            started_at.append(asyncio.get_running_loop().time())
            short_requests.append(RequestInProgress())

        runner = FairRunner(
            UnitsOfWork(own_database),
            JobKind.REVALIDATE,
            work,
            concurrency=FairConcurrency(total=CONCURRENCY, per_organization=PER_ORGANIZATION),
            visibility_timeout=DAY,
        )
        short_requests.append(contextvars.copy_context().run(RequestInProgress))
        await runner.run()
        for request in short_requests:
            request.end()

        assert len(started_at) == PER_ORGANIZATION
        assert all(later - earlier >= START_SECONDS / 2 for earlier, later in pairwise(started_at))


class TestRun:
    async def test_skips_items_that_are_not_due(self, harness: PeriodicValidationHarness) -> None:
        await harness.register()

        await harness.instance[ValidationWorker].run()

        assert not harness.prober.probes_by_key

    async def test_validates_due_keys_once_and_reschedules_them(
        self, harness: PeriodicValidationHarness
    ) -> None:
        _, key = await harness.register()

        await harness.run()

        (interval,) = await harness.due_in()
        assert harness.prober.probes_by_key == {key: 1}
        assert about(DAY)[0] < interval < about(DAY)[1]
        assert (await harness.checks())[-1] == {
            "trigger": "schedule",
            "requested_by": "system",
            "status": "valid",
        }

    async def test_two_instances_validate_each_key_once(self, harness: PeriodicValidationHarness) -> None:
        keys = [(await harness.register())[1] for _ in range(20)]
        other = harness.new_instance()
        await harness.make_due()

        await asyncio.gather(harness.instance[ValidationWorker].run(), other[ValidationWorker].run())

        assert harness.prober.probes_by_key == dict.fromkeys(keys, 1)

    async def test_interval_grows_with_each_indeterminate_result(
        self, harness: PeriodicValidationHarness
    ) -> None:
        await harness.register()
        harness.prober.reason = Reason.OVERLOADED
        due_in: list[timedelta] = []

        for _ in range(6):
            await harness.run()
            due_in += await harness.due_in()
        harness.prober.reason = Reason.OK
        await harness.run()
        due_in += await harness.due_in()

        for interval, expected in zip(due_in, [1, 2, 5, 15, 60, 60, 24 * 60], strict=True):
            earliest, latest = about(timedelta(minutes=expected))
            assert earliest < interval < latest

    async def test_indeterminate_result_does_not_replace_the_definite_one(
        self, harness: PeriodicValidationHarness
    ) -> None:
        credential_id, _ = await harness.register()
        harness.prober.reason = Reason.TIMEOUT

        await harness.run()

        current = (
            await harness.instance[CredentialService].read(harness.caller.organization_id, credential_id)
        ).active_version
        assert (current.result.status, current.latest.reason) == (ValidationStatus.VALID, Reason.TIMEOUT)


class TestPerHost:
    async def test_slow_host_delays_only_its_own_validations(
        self, harness: PeriodicValidationHarness
    ) -> None:
        harness.instance = harness.new_instance(per_organization=CONCURRENCY)
        slow = [(await harness.register(base_url="https://slow.example.com"))[1] for _ in range(PER_HOST + 3)]
        _, elsewhere = await harness.register()
        harness.prober.gate.clear()

        running = asyncio.create_task(harness.run())
        due_in = await until(harness.due_in, lambda due_in: due_in[2] < BUSY_HOST_DELAY < due_in[3])
        await until(
            lambda: _current(harness.prober.probes_by_key),
            lambda probes_by_key: (
                probes_by_key[elsewhere] == 1 and sum(probes_by_key[key] for key in slow) == PER_HOST
            ),
        )
        harness.prober.gate.set()
        await running
        await harness.make_due(within=2 * BUSY_HOST_DELAY)
        await harness.instance[ValidationWorker].run()

        assert due_in[0] > timedelta(0)
        assert harness.prober.probes_by_key == dict.fromkeys([*slow, elsewhere], 1)

    async def test_each_host_has_its_own_limit(self, harness: PeriodicValidationHarness) -> None:
        harness.instance = harness.new_instance(per_organization=CONCURRENCY)
        for host in ("one", "two"):
            for _ in range(PER_HOST):
                await harness.register(base_url=f"https://{host}.example.com")
        harness.prober.gate.clear()

        running = asyncio.create_task(harness.run())

        await until(
            lambda: _current(harness.prober.probes_by_key),
            lambda probes_by_key: probes_by_key.total() == 2 * PER_HOST,
        )
        harness.prober.gate.set()
        await running


class TestPerOrganization:
    async def test_hanging_hosts_delay_only_the_validations_of_their_organization(
        self, harness: PeriodicValidationHarness, make_caller: MakeCaller
    ) -> None:
        for number in range(HANGING):
            await harness.register(base_url=f"https://host-{number}.example.com")
        other = make_caller()
        _, elsewhere = await harness.register(caller=other)
        harness.prober.gate.clear()

        running = asyncio.create_task(harness.run())
        probes_by_key = await until(
            lambda: _current(harness.prober.probes_by_key), lambda probes: probes[elsewhere] == 1
        )

        # The last item in the queue did not wait for the probes of the other organization, which all hang.
        assert probes_by_key.total() <= PER_ORGANIZATION + 1
        harness.prober.gate.set()
        await running
        assert harness.prober.probes_by_key.total() == HANGING + 1

    async def test_item_that_becomes_due_does_not_wait_for_hanging_ones(
        self, harness: PeriodicValidationHarness, make_caller: MakeCaller
    ) -> None:
        for number in range(PER_ORGANIZATION):
            await harness.register(base_url=f"https://host-{number}.example.com")
        harness.prober.gate.clear()
        running = asyncio.create_task(harness.run())
        await until(
            lambda: _current(harness.prober.probes_by_key),
            lambda probes: probes.total() == PER_ORGANIZATION,
        )
        before = harness.prober.probes_by_key.copy()

        credential_id, elsewhere = await harness.register(caller=(other := make_caller()))
        await harness.instance[ValidationService].revalidate_soon(other.organization_id, credential_id)

        await until(lambda: _current(harness.prober.probes_by_key), lambda probes: probes[elsewhere] == 1)
        assert not running.done()
        assert before.total() == PER_ORGANIZATION
        harness.prober.gate.set()
        await running


async def _current(probes_by_key: Counter[str]) -> Counter[str]:
    return probes_by_key


class TestRevalidateSoon:
    async def test_makes_the_periodic_validation_due_now(self, harness: PeriodicValidationHarness) -> None:
        credential_id, key = await harness.register()
        harness.prober.reason = Reason.INVALID_KEY

        await harness.instance[ValidationService].revalidate_soon(
            harness.caller.organization_id, credential_id
        )
        await harness.instance[ValidationWorker].run()

        (interval,) = await harness.due_in()
        assert harness.prober.probes_by_key == {key: 1}
        assert about(DAY)[0] < interval < about(DAY)[1]
        assert [check["status"] for check in await harness.checks()] == ["valid", "invalid"]

    async def test_unknown_credential_is_not_found(self, harness: PeriodicValidationHarness) -> None:
        with pytest.raises(NotFound):
            await harness.instance[ValidationService].revalidate_soon(
                harness.caller.organization_id, new_id()
            )

        assert await harness.due_in() == []

    async def test_validates_once_if_periodic_validation_is_disabled(
        self, harness: PeriodicValidationHarness
    ) -> None:
        credential_id, key = await harness.register()
        harness.instance = harness.new_instance(every=None)

        await harness.instance[ValidationService].revalidate_soon(
            harness.caller.organization_id, credential_id
        )
        await harness.instance[ValidationWorker].run()

        assert harness.prober.probes_by_key == {key: 1}
        assert await harness.due_in() == []


class TestUnneededValidations:
    async def test_disabled_credential_is_not_validated_until_enabled(
        self, harness: PeriodicValidationHarness
    ) -> None:
        credential_id, key = await harness.register()
        await harness.instance[EnablementService].disable(harness.caller, credential_id)

        await harness.run()

        assert not harness.prober.probes_by_key
        assert await harness.due_in() == []
        await harness.instance[EnablementService].enable(harness.caller, credential_id)
        await harness.instance[ValidationWorker].run()
        assert harness.prober.probes_by_key == {key: 1}

    async def test_deleted_credential_is_not_validated_and_its_item_is_removed(
        self, harness: PeriodicValidationHarness
    ) -> None:
        credential_id, _ = await harness.register()
        await harness.instance[DeletionService].delete(harness.caller, credential_id, force=False)

        await harness.run()

        assert not harness.prober.probes_by_key
        assert await harness.due_in() == []


class TestProbeTimeout:
    async def test_is_the_remaining_time_if_a_client_waits(self, harness: PeriodicValidationHarness) -> None:
        await harness.register()

        (probe_timeout,) = harness.prober.timeouts

        assert probe_timeout is not None
        assert 0 < probe_timeout <= RESPONSE_SECONDS

    async def test_is_the_default_if_no_client_waits(self, harness: PeriodicValidationHarness) -> None:
        await harness.register()
        harness.prober.timeouts.clear()

        await harness.run()

        assert harness.prober.timeouts == [None]

    async def test_has_a_minimum(self) -> None:
        past_deadline = asyncio.get_running_loop().time() - RESPONSE_SECONDS

        assert _seconds_left(past_deadline) == MIN_PROBE_SECONDS
