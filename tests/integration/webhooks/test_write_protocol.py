"""Interrupted creation and deletion of webhook endpoints: after reconciliation, the row and the secret agree."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.errors import ByokError, SecretStoreUnavailable
from app.core.keys.signing_secret import SigningSecret
from app.core.services import Services
from app.database.engine import Database
from app.provider_url.url_policy import OutboundUrl
from app.secret_store.port import CasMismatch
from app.webhooks.endpoints import WebhookEndpoint
from app.webhooks.service import WebhookService
from app.webhooks.signing_secrets import FIRST_VERSION, signing_secret_ref
from tests.support.credentials.fixture_types import MakeCaller
from tests.support.credentials.organization_harness import OrganizationHarness
from tests.support.credentials.store_variants import StoreVariant
from tests.support.fault_injection import (
    Crash,
    DelayedWriteStore,
    FaultSchedule,
    Step,
    crash,
    outage,
    sampled_steps,
)

URL = OutboundUrl(host="hooks.example.com", path="/in")
FEWEST_STEPS, MAX_STEPS = 8, 40

MakeHarness = Callable[[StoreVariant], OrganizationHarness]
Interrupt = Callable[[OrganizationHarness, FaultSchedule], Awaitable[None]]


@pytest.fixture
def make_harness(
    services: Services, database: Database, superuser: AsyncEngine, make_caller: MakeCaller
) -> MakeHarness:
    return lambda store_variant: OrganizationHarness(
        services=services,
        database=database,
        superuser=superuser,
        store_variant=store_variant,
        caller=make_caller(),
    )


async def create(harness: OrganizationHarness, services: Services) -> tuple[WebhookEndpoint, SigningSecret]:
    return await services[WebhookService].create(harness.caller, URL)


async def assert_store_and_database_agree(harness: OrganizationHarness) -> list[WebhookEndpoint]:
    """Assert that no job is left, every row is active, and every secret in the store belongs to a row."""
    assert await harness.rows("job_queue") == [], "jobs are left"
    assert {row["state"] for row in await harness.rows("webhook_endpoint")} <= {"active"}, (
        "an endpoint is stuck"
    )
    endpoints = await harness.healthy_services[WebhookService].page(
        harness.organization, at_most=10, before=None
    )
    referenced = {(endpoint.id, FIRST_VERSION) for endpoint in endpoints}
    assert await harness.store_variant.secrets(harness.organization) == referenced, (
        "an orphaned secret or a row without secret"
    )
    return list(endpoints)


async def interrupt_creation(harness: OrganizationHarness, faults: FaultSchedule) -> None:
    created = None
    with suppress(Crash, ByokError):
        created = await create(harness, harness.services_with_faults(faults))
    await harness.reconcile()
    endpoints = await assert_store_and_database_agree(harness)
    if created is None:
        return
    endpoint, secret = created
    assert [found.id for found in endpoints] == [endpoint.id]
    ref = signing_secret_ref(harness.organization, endpoint.id)
    assert await harness.store_variant.store.read_signing_secret(ref, FIRST_VERSION) == secret


async def interrupt_deletion(harness: OrganizationHarness, faults: FaultSchedule) -> None:
    endpoint, _ = await create(harness, harness.healthy_services)
    deleted = None
    with suppress(Crash, ByokError):
        deleted = await harness.services_with_faults(faults)[WebhookService].delete(
            harness.caller, endpoint.id
        )
    await harness.reconcile()
    endpoints = await assert_store_and_database_agree(harness)
    if deleted is not None:
        assert endpoints == []


interruptions = pytest.mark.parametrize("interrupt", [interrupt_creation, interrupt_deletion])


@interruptions
class TestEveryStep:
    async def test_survives_a_crash(
        self, store_variant: StoreVariant, make_harness: MakeHarness, interrupt: Interrupt
    ) -> None:
        for at in sampled_steps(MAX_STEPS, stride=4):
            faults = crash(at)
            await interrupt(make_harness(store_variant), faults)
            if faults.never_fired:
                break

        assert faults.never_fired
        assert FEWEST_STEPS <= faults.steps < MAX_STEPS

    @pytest.mark.parametrize("is_lasting", [False, True])
    async def test_survives_an_outage(
        self, store_variant: StoreVariant, make_harness: MakeHarness, interrupt: Interrupt, is_lasting: bool
    ) -> None:
        for at in sampled_steps(MAX_STEPS, stride=4):
            faults = outage(at, lasts=is_lasting)
            await interrupt(make_harness(store_variant), faults)
            if faults.never_fired:
                break

        assert faults.never_fired

    async def test_survives_a_reconciliation_that_runs_concurrently(
        self, store_variant: StoreVariant, make_harness: MakeHarness, interrupt: Interrupt
    ) -> None:
        for at in sampled_steps(MAX_STEPS, stride=4):
            harness = make_harness(store_variant)

            async def reconcile(step: Step, harness: OrganizationHarness = harness) -> None:
                if (
                    not step.holds_locks
                ):  # the reconciler waits for these locks and continues after the commit
                    await harness.reconcile()

            faults = FaultSchedule(at, reconcile)
            await interrupt(harness, faults)
            if faults.never_fired:
                break

        assert faults.never_fired


class TestLateWrite:
    @pytest.mark.parametrize("error", [Crash, SecretStoreUnavailable])
    async def test_after_reconciliation_fails(
        self, store_variant: StoreVariant, make_harness: MakeHarness, error: type[BaseException]
    ) -> None:
        harness = make_harness(store_variant)
        store = DelayedWriteStore(store_variant.store, error)
        with pytest.raises(error):
            await create(harness, harness.services_with_store(store))
        await harness.reconcile()

        with pytest.raises(CasMismatch):
            await store.deliver()

        assert await assert_store_and_database_agree(harness) == []
