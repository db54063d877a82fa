"""Tests that database and store agree after reconciliation, whatever interrupts a creation at any step."""

from contextlib import suppress
from uuid import UUID

import pytest

from app.core.errors import ByokError, SecretStoreUnavailable
from app.credentials.records import CredentialRecord
from app.credentials.service import CredentialService
from app.secret_store.port import CasMismatch
from tests.support.credentials.fixture_types import MakeHarness
from tests.support.credentials.interrupted_runs import INTERRUPTIONS
from tests.support.credentials.organization_harness import OrganizationHarness, make_key
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

MIN_STEPS = 15  # of a creation; fewer steps mean that the fault injection misses some calls
MAX_STEPS = 60
# With BYOK_TEST_CRASHES=all, every step is tested; otherwise every n-th. The two strides of a store have no common factor, so
# that the daily samples together have every pair of steps.
STRIDE = 3
RECONCILIATION_STRIDES = {"memory": 4, "Vault's fake": 7}


async def _create_interrupted(harness: OrganizationHarness, faults: FaultSchedule) -> None:
    """Create a credential under injected faults, reconcile, and check the state."""
    key = make_key()
    record = None
    with suppress(Crash, ByokError):
        record = await harness.register(harness.services_with_faults(faults), key)
    await harness.reconcile()
    ids = await harness.assert_store_and_database_agree(key)
    await _assert_response_still_holds(harness, record, ids)
    await harness.assert_key_can_be_registered(key, ids)
    INTERRUPTIONS[harness.store_variant.name] += not faults.never_fired


async def _assert_response_still_holds(
    harness: OrganizationHarness, record: CredentialRecord | None, ids: list[UUID]
) -> None:
    if record is None:
        return
    assert ids == [record.id]
    found = await harness.healthy_services[CredentialService].read(harness.organization, record.id)
    assert found.active_version.fingerprint == record.active_version.fingerprint


class TestCreate:
    async def test_survives_a_crash_at_every_step(
        self, store_variant: StoreVariant, make_harness: MakeHarness
    ) -> None:
        for at in sampled_steps(MAX_STEPS, stride=STRIDE):
            faults = crash(at)
            await _create_interrupted(make_harness(store_variant), faults)
            if faults.never_fired:
                break

        assert MIN_STEPS < faults.steps < MAX_STEPS
        assert faults.never_fired

    @pytest.mark.parametrize("lasts", [False, True])
    async def test_survives_an_outage_at_every_step(
        self, store_variant: StoreVariant, make_harness: MakeHarness, lasts: bool
    ) -> None:
        for at in sampled_steps(MAX_STEPS, stride=STRIDE):
            faults = outage(at, lasts=lasts)
            await _create_interrupted(make_harness(store_variant), faults)
            if faults.never_fired:
                break

        assert faults.never_fired

    async def test_survives_reconciliation_at_every_step(
        self, store_variant: StoreVariant, make_harness: MakeHarness
    ) -> None:
        for at in sampled_steps(MAX_STEPS, stride=STRIDE):
            harness = make_harness(store_variant)

            async def reconcile(step: Step, harness: OrganizationHarness = harness) -> None:
                if not step.holds_locks:  # reconciliation would wait for the locks until after the commit
                    await harness.reconcile()

            faults = FaultSchedule(at, reconcile)
            await _create_interrupted(harness, faults)
            if faults.never_fired:
                break

        assert faults.never_fired


class TestLateWrite:
    """The write message reaches the store after its sender timed out or crashed."""

    @pytest.mark.parametrize("error", [Crash, SecretStoreUnavailable])
    async def test_after_reconciliation_is_rejected(
        self, store_variant: StoreVariant, make_harness: MakeHarness, error: type[BaseException]
    ) -> None:
        harness, key = make_harness(store_variant), make_key()
        store = DelayedWriteStore(store_variant.store, error)
        with pytest.raises(error):
            await harness.register(harness.services_with_store(store), key)
        await harness.reconcile()

        with pytest.raises(CasMismatch):
            await store.deliver()

        assert await harness.assert_store_and_database_agree(key) == []

    async def test_does_not_prevent_registering_its_key_again(
        self, store_variant: StoreVariant, make_harness: MakeHarness
    ) -> None:
        harness, key = make_harness(store_variant), make_key()
        store = DelayedWriteStore(store_variant.store, SecretStoreUnavailable)
        with pytest.raises(SecretStoreUnavailable):
            await harness.register(harness.services_with_store(store), key)

        record = await harness.register(harness.healthy_services, key)

        await store.deliver()
        await harness.reconcile()
        assert await harness.assert_store_and_database_agree(key) == [record.id]


class TestReconciliation:
    async def test_survives_a_crash_at_every_step_after_a_crash_at_every_step(
        self, in_memory_store_variant: StoreVariant, make_harness: MakeHarness
    ) -> None:
        stride = RECONCILIATION_STRIDES[in_memory_store_variant.name]
        for create_crash_at in sampled_steps(MAX_STEPS, stride=stride):
            faults = crash(create_crash_at)
            is_reconciled = False
            for reconcile_crash_at in sampled_steps(MAX_STEPS, stride=STRIDE):
                harness, key = make_harness(in_memory_store_variant), make_key()
                faults = crash(create_crash_at)
                with suppress(Crash):
                    await harness.register(harness.services_with_faults(faults), key)
                reconcile = crash(reconcile_crash_at)
                with suppress(Crash):
                    await harness.reconcile(harness.services_with_faults(reconcile))

                await harness.reconcile()

                await harness.assert_store_and_database_agree(key)
                is_reconciled = reconcile.never_fired
                if is_reconciled:
                    break
            assert is_reconciled
            if faults.never_fired:
                break

        assert faults.never_fired
