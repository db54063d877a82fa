"""Tests of the write protocol with Vault: requests that are lost, delivered twice or delivered late."""

from contextlib import suppress
from datetime import timedelta

import pytest

from app.core.errors import SecretStoreUnavailable
from app.core.services import Services
from app.credentials.deletion import DeletionService
from app.leases.service import LeaseService
from app.usage_mode.modes import UsageMode
from app.usage_mode.service import ModeSwitch, UsageModeService
from tests.support.credentials.fixture_types import MakeCredentialUnderTest, MakeHarness
from tests.support.credentials.interrupted_runs import (
    MAX_STEPS,
    assert_response_still_holds,
    every_operation,
    report_interruptions,
    run_interrupted,
)
from tests.support.credentials.invariants import LIVE, CredentialUnderTest
from tests.support.credentials.operations import (
    DESTROY_PREVIOUS,
    OPERATIONS,
    Operation,
    OperationResult,
    destroy_version,
    rotation,
)
from tests.support.credentials.organization_harness import make_key
from tests.support.credentials.store_variants import StoreVariant
from tests.support.fault_injection import ALL_CRASHES, Crash, FaultSchedule, crash, sampled_steps
from tests.support.vault.fault_injection import LateWrites, intercepted
from tests.support.vault.in_process import InProcessWire, LostMessage
from tests.support.vault.real_server import is_real_vault_available

# A real server is slow, so only one operation of each kind of write, or all with BYOK_TEST_CRASHES=all.
REAL_VAULT_OPERATIONS = tuple(OPERATIONS) if ALL_CRASHES else ("rotate, destroy the previous key", "delete")
STRIDE = 4


class TestBrokenConnection:
    """The client repeats a request that may have arrived, so that Vault receives it twice."""

    @pytest.mark.sampled(stride=3)
    @pytest.mark.parametrize("lost", LostMessage)
    @every_operation
    async def test_at_any_request_has_no_effect(
        self,
        vault_store_variant: StoreVariant,
        direct_wire: InProcessWire,
        make_credential_under_test: MakeCredentialUnderTest,
        capsys: pytest.CaptureFixture[str],
        name: str,
        lost: LostMessage,
    ) -> None:
        operation, keys = OPERATIONS[name]
        interruptions = 0
        for at in sampled_steps(MAX_STEPS, stride=STRIDE):
            under_test = await make_credential_under_test(vault_store_variant, keys)
            direct_wire.break_connection(at, lost)

            response = await operation(under_test, under_test.harness.healthy_services)

            is_finished = direct_wire.sent < at
            direct_wire.restore()
            await under_test.reconcile_everything()
            await under_test.assert_consistent()
            await assert_response_still_holds(under_test, response)
            if is_finished:
                break
            interruptions += 1

        assert is_finished
        report_interruptions(
            capsys, name, vault_store_variant, interruptions, f"broken connections, {lost} lost"
        )


class TestLateWrite:
    """The request that writes the key arrives while reconciliation abandons its intent."""

    @pytest.mark.parametrize("error", [Crash, None])
    async def test_of_a_creation_leaves_nothing(
        self,
        any_vault_store_variant: StoreVariant,
        make_harness: MakeHarness,
        error: type[BaseException] | None,
    ) -> None:
        for at in sampled_steps(MAX_STEPS, stride=3):
            harness, key, late = make_harness(any_vault_store_variant), make_key(), LateWrites(error)
            with pytest.raises((Crash, SecretStoreUnavailable)):
                await harness.register(
                    harness.services_with_store(intercepted(any_vault_store_variant.store, late)), key
                )
            faults = FaultSchedule(at, late.at_step)

            await harness.reconcile(harness.services_with_faults(faults))

            await harness.reconcile()
            assert await harness.assert_store_and_database_agree(key) == []
            if faults.never_fired:
                break

        assert [response.is_cas_mismatch for response in await late.deliver()] == [True]
        assert await harness.assert_store_and_database_agree(key) == []

    @pytest.mark.parametrize("error", [Crash, None])
    async def test_of_a_rotation_does_not_change_the_active_version(
        self,
        any_vault_store_variant: StoreVariant,
        make_credential_under_test: MakeCredentialUnderTest,
        error: type[BaseException] | None,
    ) -> None:
        for at in sampled_steps(MAX_STEPS, stride=3):
            under_test, late = await make_credential_under_test(any_vault_store_variant, 1), LateWrites(error)
            with pytest.raises((Crash, SecretStoreUnavailable)):
                await rotation()(
                    under_test,
                    under_test.harness.services_with_store(intercepted(any_vault_store_variant.store, late)),
                )
            faults = FaultSchedule(at, late.at_step)

            await under_test.reconcile_everything(under_test.harness.services_with_faults(faults))

            await under_test.reconcile_everything()
            await under_test.assert_no_work_left()
            if faults.never_fired:
                break

        assert [response.is_cas_mismatch for response in await late.deliver()] == [True]
        await under_test.assert_no_work_left()

    async def test_of_a_rotation_does_not_affect_the_next_rotation(
        self, any_vault_store_variant: StoreVariant, make_credential_under_test: MakeCredentialUnderTest
    ) -> None:
        under_test, late = await make_credential_under_test(any_vault_store_variant, 1), LateWrites()
        with pytest.raises(SecretStoreUnavailable):
            await rotation()(
                under_test,
                under_test.harness.services_with_store(intercepted(any_vault_store_variant.store, late)),
            )
        await under_test.reconcile_everything()
        response = await rotation()(under_test, under_test.harness.healthy_services)

        assert [response.is_cas_mismatch for response in await late.deliver()] == [True]

        await under_test.reconcile_everything()
        await under_test.assert_consistent()
        await assert_response_still_holds(under_test, response)


class TestLease:
    """The unused wrapping token of a lease."""

    @pytest.mark.parametrize("name", ["delete", "destroy a version", "rotate, destroy the previous key"])
    async def test_is_revoked_with_its_key_whatever_is_interrupted(
        self,
        vault_store_variant: StoreVariant,
        make_credential_under_test: MakeCredentialUnderTest,
        name: str,
    ) -> None:
        for at in sampled_steps(MAX_STEPS, stride=STRIDE):
            under_test = await make_credential_under_test(vault_store_variant, 1)
            token = await create_lease(under_test)
            if name == "destroy a version":
                await rotation()(under_test, under_test.harness.healthy_services)
            faults = crash(at)

            with suppress(Crash):
                await KEY_DESTROYING_OPERATIONS[name](
                    under_test, under_test.harness.services_with_faults(faults)
                )

            await under_test.reconcile_everything()
            await under_test.assert_consistent()
            (first, *_) = await under_test.versions()
            assert vault_store_variant.opens_token is not None
            assert await vault_store_variant.opens_token(token) is (first["state"] in LIVE)
            if faults.never_fired:
                break

        assert faults.never_fired
        assert first["state"] == "destroyed"


@pytest.mark.skipif(not is_real_vault_available(), reason="needs a real Vault or OpenBao")
class TestRealServer:
    @pytest.mark.parametrize("name", REAL_VAULT_OPERATIONS)
    async def test_crash_at_every_step_is_reconciled(
        self,
        real_vault_store_variant: StoreVariant,
        make_credential_under_test: MakeCredentialUnderTest,
        capsys: pytest.CaptureFixture[str],
        name: str,
    ) -> None:
        operation, keys = OPERATIONS[name]
        interruptions = 0
        for at in sampled_steps(MAX_STEPS, stride=STRIDE):
            faults = crash(at)
            await run_interrupted(
                await make_credential_under_test(real_vault_store_variant, keys), operation, faults
            )
            if faults.never_fired:
                break
            interruptions += 1

        assert faults.never_fired
        report_interruptions(capsys, name, real_vault_store_variant, interruptions, "crash points")


async def create_lease(under_test: CredentialUnderTest) -> str:
    """Create a lease of the active key. Returns its wrapping token."""
    harness = under_test.harness
    switch = ModeSwitch(mode=UsageMode.BYO, credential_id=under_test.credential_id, effective_at=None)
    await harness.healthy_services[UsageModeService].switch(harness.caller, switch)
    return (
        await harness.healthy_services[LeaseService].create(harness.caller, ttl=timedelta(minutes=5))
    ).wrapping_token


async def delete_active_credential(under_test: CredentialUnderTest, services: Services) -> OperationResult:
    return await services[DeletionService].delete(
        under_test.harness.caller, under_test.credential_id, force=True
    )


KEY_DESTROYING_OPERATIONS: dict[str, Operation] = {
    "delete": delete_active_credential,
    "destroy a version": destroy_version,
    "rotate, destroy the previous key": rotation(destroy_previous=DESTROY_PREVIOUS),
}
