"""Rewrapping in Vault while the service runs: no key is lost, and none stays under an old transit key."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import cast
from uuid import uuid4

import pytest

from app.auth.principal import Caller
from app.composition.reconciler import Reconciler
from app.core.clock import new_id
from app.core.errors import ByokError, Unavailable
from app.core.services import Services
from app.credentials.deletion import DeletionService
from app.credentials.rotations import MAX_STORE_VERSIONS
from app.rotation.rollback import RollbackService
from app.rotation.service import RotationService
from app.secret_maintenance.progress import OperationRefused
from app.secret_maintenance.rewrap_command import RewrapCommand, RewrappingStore
from app.secret_store.port import SecretKind, SecretRef
from app.secret_store.vault.store import VaultSecretStore
from app.validation.service import ValidationService
from app.webhooks.service import WebhookService
from tests.support.credentials.operations import new_key
from tests.support.credentials.organization_harness import make_key
from tests.support.database.rows import change, make_due
from tests.support.fault_injection import (
    Crash,
    FaultInjectingUnitsOfWork,
    FaultSchedule,
    Step,
    crash,
    fault_injecting_store,
    outage,
    sampled_steps,
)
from tests.support.secret_maintenance.installation import READABLE_STATES, Installation
from tests.support.secret_maintenance.webhook_deliveries import receives_valid_delivery
from tests.support.vault.prepared import PreparedVault

FEWEST_STEPS, MOST_STEPS = 60, 300
CHECKED_VERSIONS = 8  # the last ones: more than one run writes


@pytest.fixture
async def vault(any_vault: PreparedVault) -> AsyncIterator[VaultSecretStore]:
    """A store in which each role has its own login."""
    async with any_vault.store(await any_vault.logins()) as store:
        yield store


@pytest.fixture
async def vault_installation(installation: Installation, vault: VaultSecretStore) -> Installation:
    """An installation with its secrets in Vault."""
    await installation.reset()
    await installation.fill(vault)
    return installation


def rewrap_command(
    installation: Installation, vault: VaultSecretStore, faults: FaultSchedule | None = None
) -> RewrapCommand:
    if faults is None:
        return RewrapCommand(installation.units, vault, installation.progress_lines.append)
    return RewrapCommand(
        FaultInjectingUnitsOfWork(installation.database, faults),
        cast("RewrappingStore", fault_injecting_store(vault, faults)),
        installation.progress_lines.append,
    )


async def is_interrupted(work: Awaitable[None]) -> bool:
    try:
        await work
    except (Crash, Unavailable):
        return True
    return False


async def assert_rewrapped(installation: Installation, vault: VaultSecretStore) -> None:
    await installation.assert_readable(vault)
    for ref, number in await installation.readable_secrets():
        assert not await vault.is_outdated(ref, number)
    await assert_no_orphan(installation, vault)
    kinds = {row["kind"] for row in await installation.rows("job_queue")}
    assert kinds.isdisjoint({"rewrap_secrets", "rotate_transit_key", "settle_rewrap"})


async def assert_no_orphan(installation: Installation, vault: VaultSecretStore) -> None:
    """Assert that Vault holds the secrets that rows reference, and no others."""
    assert await installation.rows("secret_rewrap") == []
    referenced = await installation.readable_secrets()
    for ref in [*installation.refs, *installation.secrets]:
        last = await vault.current_version(ref)
        for number in range(max(1, last - CHECKED_VERSIONS), last + 1):
            exists = await vault.intent_at(ref, number) is not None
            assert exists == ((ref, number) in referenced), f"{ref} {number}"


async def readable_versions(installation: Installation) -> list[dict[str, object]]:
    return [row for row in await installation.rows("credential_version") if row["state"] in READABLE_STATES]


def _ref(row: dict[str, object]) -> SecretRef:
    return SecretRef(organization_id=str(row["organization_id"]), credential_id=row["credential_id"])  # type: ignore[arg-type]  # a UUID of the driver


def caller_of(ref: SecretRef) -> Caller:
    return Caller(subject="ada", organization_id=ref.organization_id, request_id="req")


async def reconcile(installation: Installation, vault: VaultSecretStore) -> None:
    await change(
        installation.superuser,
        "UPDATE job_queue SET due_at = now() - interval '1 second' WHERE kind IN ('settle_rewrap', 'settle_intent', 'settle_webhook')",
    )
    await installation.services(vault)[Reconciler].run()


class TestRewrapSecrets:
    async def test_rotates_the_keys_and_rewraps_every_version(
        self, vault_installation: Installation, vault: VaultSecretStore, any_vault: PreparedVault
    ) -> None:
        await rewrap_command(vault_installation, vault).run(rotate_keys=True)

        await assert_rewrapped(vault_installation, vault)
        for ref, number in await vault_installation.readable_secrets():
            path_segment = "creds" if ref.kind is SecretKind.PROVIDER_KEY else "webhooks"
            path = f"orgs/{ref.organization_id}/{path_segment}/{ref.credential_id}"
            content = await any_vault.get(path, number)
            assert content["ct"].startswith("vault:v2:")
        assert sorted(await vault_installation.actions()) == [
            *["secret.rewrapped"] * 7,
            *["secret_store.transit_key_rotated"] * 3,
        ]

    async def test_without_a_new_key_changes_nothing(
        self, vault_installation: Installation, vault: VaultSecretStore
    ) -> None:
        before = await vault_installation.rows("credential_version")

        await rewrap_command(vault_installation, vault).run(rotate_keys=False)

        assert await vault_installation.rows("credential_version") == before
        assert await vault_installation.actions() == []

    async def test_survives_a_crash_at_every_step(
        self, installation: Installation, prepared_fake: PreparedVault
    ) -> None:
        async with prepared_fake.store() as vault:
            await installation.reset()
            await installation.fill(vault)
            for at in sampled_steps(MOST_STEPS, stride=9):
                faults = crash(at)
                was_interrupted = await is_interrupted(
                    rewrap_command(installation, vault, faults).run(rotate_keys=True)
                )
                if was_interrupted:
                    await rewrap_command(installation, vault).run(rotate_keys=True)
                await assert_rewrapped(installation, vault)
                if not was_interrupted:
                    break

        assert FEWEST_STEPS < faults.steps < MOST_STEPS
        assert faults.never_fired

    async def test_is_reconciled_if_it_is_never_run_again(
        self, vault_installation: Installation, vault: VaultSecretStore
    ) -> None:
        for at in sampled_steps(MOST_STEPS, start=3, stride=11):
            if not await is_interrupted(
                rewrap_command(vault_installation, vault, crash(at)).run(rotate_keys=True)
            ):
                break

            await reconcile(vault_installation, vault)

            await vault_installation.assert_readable(vault)
            await assert_no_orphan(vault_installation, vault)
        await assert_rewrapped(vault_installation, vault)

    async def test_survives_outages(self, vault_installation: Installation, vault: VaultSecretStore) -> None:
        for at in sampled_steps(MOST_STEPS, start=5, stride=13):
            if not await is_interrupted(
                rewrap_command(vault_installation, vault, outage(at, lasts=False)).run(rotate_keys=True)
            ):
                break

        await assert_rewrapped(vault_installation, vault)

    async def test_refuses_to_push_out_a_kept_key(
        self, vault_installation: Installation, vault: VaultSecretStore
    ) -> None:
        ref = vault_installation.refs[0]
        for number in range(1, MAX_STORE_VERSIONS):
            await vault.tombstone(ref, intent_id=uuid4(), expected_version=number)

        with pytest.raises(OperationRefused, match=rf"too many versions.*{ref.credential_id}"):
            await rewrap_command(vault_installation, vault).run(rotate_keys=True)

        await vault_installation.assert_readable(vault)
        assert await vault.current_version(ref) == MAX_STORE_VERSIONS


Operation = Callable[[Services, SecretRef], Awaitable[object]]
OPERATIONS: dict[str, Operation] = {
    "rotate": lambda services, ref: services[RotationService].rotate(
        caller_of(ref), ref.credential_id, new_key(make_key()), rotation_id=new_id()
    ),
    "roll back": lambda services, ref: services[RollbackService].roll_back(caller_of(ref), ref.credential_id),
    "destroy": lambda services, ref: services[DeletionService].destroy_version(
        caller_of(ref), ref.credential_id, 1
    ),
    "delete": lambda services, ref: services[DeletionService].delete(
        caller_of(ref), ref.credential_id, force=False
    ),
}


class TestConcurrentOperations:
    @pytest.mark.sampled(stride=2)
    @pytest.mark.parametrize("operation", OPERATIONS)
    async def test_succeed_at_every_step(
        self, installation: Installation, prepared_fake: PreparedVault, operation: str
    ) -> None:
        async with prepared_fake.store() as vault:
            for at in sampled_steps(MOST_STEPS, stride=29):
                await installation.reset()
                await installation.fill(vault)
                services, ref = installation.services(vault), installation.refs[1]
                completed: list[str] = []

                async def run_operation(
                    step: Step,
                    services: Services = services,
                    ref: SecretRef = ref,
                    completed: list[str] = completed,
                ) -> None:
                    if not step.holds_locks:
                        with suppress(ByokError):
                            await OPERATIONS[operation](services, ref)
                            completed.append(operation)

                faults = FaultSchedule(at, run_operation)
                with suppress(OperationRefused, ByokError):
                    await rewrap_command(installation, vault, faults).run(rotate_keys=True)
                await reconcile(installation, vault)
                await rewrap_command(installation, vault).run(rotate_keys=False)

                await assert_no_orphan(installation, vault)
                for row in await readable_versions(installation):
                    key = await vault.read(_ref(row), int(str(row["store_version"])))
                    assert await vault.fingerprint(str(row["organization_id"]), key) == row["fingerprint"]
                    assert not await vault.is_outdated(_ref(row), int(str(row["store_version"])))
                states = [
                    row["state"]
                    for row in await installation.rows("credential_version")
                    if row["credential_id"] == ref.credential_id
                ]
                assert states.count("active") == (0 if "delete" in completed else 1)
                if faults.never_fired:
                    return
        pytest.fail("not enough steps to complete a run")

    async def test_delete_an_endpoint_at_every_step(
        self, installation: Installation, prepared_fake: PreparedVault
    ) -> None:
        async with prepared_fake.store() as vault:
            for at in sampled_steps(MOST_STEPS, stride=29):
                await installation.reset()
                await installation.fill(vault)
                services, ref = installation.services(vault), next(iter(installation.secrets))

                async def delete(step: Step, services: Services = services, ref: SecretRef = ref) -> None:
                    if not step.holds_locks:
                        await services[WebhookService].delete(caller_of(ref), ref.credential_id)

                faults = FaultSchedule(at, delete)
                with suppress(OperationRefused):
                    await rewrap_command(installation, vault, faults).run(rotate_keys=True)
                await reconcile(installation, vault)
                await rewrap_command(installation, vault).run(rotate_keys=False)

                await assert_no_orphan(installation, vault)
                if ref not in {readable_ref for readable_ref, _ in await installation.readable_secrets()}:
                    del installation.secrets[ref]
                await assert_rewrapped(installation, vault)
                if faults.never_fired:
                    return
        pytest.fail("not enough steps to complete a run")

    async def test_sign_with_a_secret_that_is_rewrapped_after_its_row_was_read(
        self, vault_installation: Installation, vault: VaultSecretStore
    ) -> None:
        async def rewrap(_step: Step) -> None:
            await rewrap_command(vault_installation, vault).run(rotate_keys=True)

        for at in range(1, 10):
            faults = FaultSchedule(at, rewrap)
            for ref in vault_installation.secrets:
                assert await receives_valid_delivery(
                    vault_installation, fault_injecting_store(vault, faults), ref
                )
            if faults.never_fired:
                return
        pytest.fail("not enough steps to complete a run")

    async def test_validate_a_key_that_is_rewrapped_after_its_row_was_read(
        self, vault_installation: Installation, vault: VaultSecretStore
    ) -> None:
        ref = vault_installation.refs[0]

        async def rewrap(_step: Step) -> None:
            await rewrap_command(vault_installation, vault).run(rotate_keys=True)

        for at in range(1, 30):
            faults = FaultSchedule(at, rewrap)
            services = vault_installation.services(fault_injecting_store(vault, faults))
            record = await services[ValidationService].request(
                caller_of(ref), ref.credential_id, validation_id=new_id()
            )
            assert record.result.status == "valid"
            if faults.never_fired:
                break
        for organization_id in {ref.organization_id for ref in vault_installation.refs}:
            await make_due(vault_installation.superuser, organization_id)
        await vault_installation.services(vault)[Reconciler].run()
