"""Tests that database and store agree after reconciliation, whatever interrupts an operation at any step."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from app.core.clock import new_id
from app.core.errors import ByokError, NoPreviousVersion, TooManyVersions, Unavailable
from app.credentials.rotations import MAX_STORE_VERSIONS
from app.secret_store.port import SecretRef
from tests.support.credentials.fixture_types import MakeCredentialUnderTest
from tests.support.credentials.interrupted_runs import (
    MAX_STEPS,
    every_operation,
    report_interruptions,
    run_interrupted,
)
from tests.support.credentials.invariants import CredentialUnderTest
from tests.support.credentials.operations import OPERATIONS, roll_back, rotate_and_cancel, rotation
from tests.support.credentials.store_variants import StoreVariant
from tests.support.fault_injection import (
    Crash,
    FaultSchedule,
    Step,
    crash,
    outage,
    sampled_steps,
)

# With BYOK_TEST_CRASHES=all, every step of every operation is tested; otherwise every n-th step of every m-th case. The strides
# of one test have no common factor, so that the daily samples together have every step of each case.
STRIDE = 4
RECONCILIATION_STRIDES = {"memory": 7, "Vault's fake": 10}
RECONCILIATION_STEP_STRIDE = 3


class TestCrash:
    @pytest.mark.sampled(stride=3)
    @every_operation
    async def test_at_every_step_is_reconciled(
        self,
        store_variant: StoreVariant,
        make_credential_under_test: MakeCredentialUnderTest,
        capsys: pytest.CaptureFixture[str],
        name: str,
    ) -> None:
        operation, keys = OPERATIONS[name]
        interruptions = 0
        for at in sampled_steps(MAX_STEPS, stride=STRIDE):
            faults = crash(at)
            await run_interrupted(await make_credential_under_test(store_variant, keys), operation, faults)
            if faults.never_fired:
                break
            interruptions += 1

        assert faults.never_fired
        report_interruptions(capsys, name, store_variant, interruptions, "crash points")

    @pytest.mark.sampled(stride=11)
    @every_operation
    async def test_at_every_step_of_the_reconciliation_is_reconciled(
        self,
        in_memory_store_variant: StoreVariant,
        make_credential_under_test: MakeCredentialUnderTest,
        capsys: pytest.CaptureFixture[str],
        name: str,
    ) -> None:
        """The operation crashes at a step, and the reconciliation after it crashes at every step."""
        operation, keys = OPERATIONS[name]
        faults = FaultSchedule(MAX_STEPS, _no_fault)
        await operation(
            under_test := await make_credential_under_test(in_memory_store_variant, keys),
            under_test.harness.services_with_faults(faults),
        )
        stride = RECONCILIATION_STRIDES[in_memory_store_variant.name]
        interruptions = 0
        for crash_at in sampled_steps(faults.steps + 1, stride=stride):
            for reconcile_crash_at in sampled_steps(MAX_STEPS, stride=RECONCILIATION_STEP_STRIDE):
                under_test = await make_credential_under_test(in_memory_store_variant, keys)
                with suppress(Crash):
                    await operation(under_test, under_test.harness.services_with_faults(crash(crash_at)))
                reconcile = crash(reconcile_crash_at)
                with suppress(Crash):
                    await under_test.reconcile_everything(under_test.harness.services_with_faults(reconcile))
                await under_test.reconcile_everything()
                await under_test.assert_consistent()
                interruptions += 1
                if reconcile.never_fired:
                    break

        report_interruptions(capsys, name, in_memory_store_variant, interruptions, "pairs of crash points")


class TestOutage:
    @pytest.mark.sampled(stride=5)
    @pytest.mark.parametrize("lasts", [False, True])
    @every_operation
    async def test_at_every_step_is_reconciled(
        self,
        in_memory_store_variant: StoreVariant,
        make_credential_under_test: MakeCredentialUnderTest,
        capsys: pytest.CaptureFixture[str],
        name: str,
        lasts: bool,
    ) -> None:
        operation, keys = OPERATIONS[name]
        interruptions = 0
        for at in sampled_steps(MAX_STEPS, stride=STRIDE):
            faults = outage(at, lasts=lasts)
            await run_interrupted(
                await make_credential_under_test(in_memory_store_variant, keys), operation, faults
            )
            if faults.never_fired:
                break
            interruptions += 1

        assert faults.never_fired
        report_interruptions(
            capsys, name, in_memory_store_variant, interruptions, "lasting outages" if lasts else "outages"
        )


OTHER_OPERATIONS = {
    **{
        name: OPERATIONS[name][0]
        for name in ("rotate", "rotate immediately", "roll back", "destroy a version", "delete")
    },
    "rotate and cancel": rotate_and_cancel,
}


@contextmanager
def _conflicts_are_allowed() -> Iterator[None]:
    """Allow errors, except those that say that a dependency is down: nothing is."""
    try:
        yield
    except Unavailable:
        raise
    except ByokError:
        pass


class TestConcurrentOperation:
    """At every step of an operation, another operation runs completely."""

    @pytest.mark.sampled(stride=7)
    @pytest.mark.parametrize("other", OTHER_OPERATIONS)
    @every_operation
    async def test_at_every_step_keeps_the_invariants(
        self,
        fake_store_variant: StoreVariant,
        make_credential_under_test: MakeCredentialUnderTest,
        name: str,
        other: str,
    ) -> None:
        (operation, keys), other_operation = OPERATIONS[name], OTHER_OPERATIONS[other]
        for at in sampled_steps(MAX_STEPS, stride=STRIDE):
            under_test = await make_credential_under_test(fake_store_variant, keys)

            async def interfere(step: Step, under_test: CredentialUnderTest = under_test) -> None:
                if not step.holds_locks:
                    with _conflicts_are_allowed():
                        await other_operation(under_test, under_test.harness.healthy_services)

            faults = FaultSchedule(at, interfere)
            with _conflicts_are_allowed():
                await operation(under_test, under_test.harness.services_with_faults(faults))
            await under_test.reconcile_everything()
            await under_test.assert_consistent()
            await under_test.expire_retention()
            await under_test.assert_no_work_left()
            if faults.never_fired:
                break

        assert faults.never_fired

    async def test_reconciliation_at_every_step_keeps_the_invariants(
        self, fake_store_variant: StoreVariant, make_credential_under_test: MakeCredentialUnderTest
    ) -> None:
        for at in sampled_steps(MAX_STEPS, stride=STRIDE):
            under_test = await make_credential_under_test(fake_store_variant, 1)

            async def reconcile(step: Step, under_test: CredentialUnderTest = under_test) -> None:
                if not step.holds_locks:
                    await under_test.harness.reconcile()

            faults = FaultSchedule(at, reconcile)
            await run_interrupted(under_test, rotation(), faults)
            if faults.never_fired:
                break

        assert faults.never_fired

    async def test_rollback_to_an_expired_version_during_its_destruction(
        self, fake_store_variant: StoreVariant, make_credential_under_test: MakeCredentialUnderTest
    ) -> None:
        for at in range(1, MAX_STEPS):
            under_test = await make_credential_under_test(fake_store_variant, 2)

            async def roll_back_and_rotate(step: Step, under_test: CredentialUnderTest = under_test) -> None:
                if not step.holds_locks:
                    await under_test.harness.extend_retention()
                    with suppress(NoPreviousVersion):
                        await roll_back(under_test, under_test.harness.healthy_services)
                        await rotation()(under_test, under_test.harness.healthy_services)

            faults = FaultSchedule(at, roll_back_and_rotate)
            await under_test.harness.reconcile(under_test.harness.services_with_faults(faults))

            await under_test.reconcile_everything()
            await under_test.assert_consistent()
            (first, *_) = await under_test.versions()
            assert first["state"] == ("previous" if at == 1 else "destroyed")
            if faults.never_fired:
                break

        assert faults.never_fired


class TestRejectedOperation:
    async def test_rollback_without_a_previous_version_changes_nothing(
        self, store_variant: StoreVariant, make_credential_under_test: MakeCredentialUnderTest
    ) -> None:
        under_test = await make_credential_under_test(store_variant, 1)

        with pytest.raises(NoPreviousVersion):
            await roll_back(under_test, under_test.harness.healthy_services)

        await under_test.assert_no_work_left()

    async def test_rotation_that_would_remove_a_kept_version_from_the_store_is_rejected(
        self, store_variant: StoreVariant, make_credential_under_test: MakeCredentialUnderTest
    ) -> None:
        under_test = await make_credential_under_test(store_variant, 1)
        ref = SecretRef(
            organization_id=under_test.harness.organization, credential_id=under_test.credential_id
        )
        for number in range(1, MAX_STORE_VERSIONS - 1):
            await store_variant.store.tombstone(ref, intent_id=new_id(), expected_version=number)

        await rotation()(
            under_test, under_test.harness.healthy_services
        )  # store version 100: the first one is still kept
        with pytest.raises(TooManyVersions):
            await rotation()(under_test, under_test.harness.healthy_services)

        await under_test.assert_consistent()
        await under_test.expire_retention()
        await rotation()(under_test, under_test.harness.healthy_services)


async def _no_fault(_step: Step) -> None:
    """Injects nothing. The schedule only counts the steps."""
