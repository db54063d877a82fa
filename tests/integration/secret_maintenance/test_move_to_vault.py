"""The move to Vault: after any interruption no key is lost, and audit log, store versions and claims are correct."""

from collections.abc import AsyncIterator
from contextlib import suppress
from uuid import uuid4

import pytest

from app.auth.principal import Caller
from app.composition.reconciler import Reconciler
from app.core.clock import new_id
from app.core.errors import DuplicateKey, SecretStoreUnavailable, Unavailable
from app.credentials.deletion import DeletionService
from app.credentials.service import CredentialService
from app.rotation.rollback import RollbackService
from app.rotation.service import RotationService
from app.secret_maintenance.move_to_vault import MoveToVault
from app.secret_maintenance.progress import OperationRefused
from app.secret_store.binding import VAULT, StoreMismatch, StoreMoving, bind_store
from app.secret_store.embedded.keyring import Keyring
from app.secret_store.port import SecretMissing, SecretStore
from app.secret_store.vault.store import VaultSecretStore
from app.webhooks.service import WebhookService
from app.webhooks.signing_secrets import signing_secret_ref
from tests.support.credentials.operations import new_key
from tests.support.credentials.organization_harness import make_key, new_credential
from tests.support.database.rows import make_due
from tests.support.fault_injection import (
    Crash,
    FaultInjectingUnitsOfWork,
    FaultSchedule,
    crash,
    fault_injecting_store,
    outage,
    sampled_steps,
)
from tests.support.secret_maintenance.installation import Installation
from tests.support.secret_maintenance.webhook_deliveries import receives_valid_delivery
from tests.support.vault.prepared import PreparedVault

FEWEST_STEPS, MOST_STEPS = 60, 400


@pytest.fixture
async def vault(any_vault: PreparedVault) -> AsyncIterator[VaultSecretStore]:
    """A store in which each role has its own login, so that the policies apply."""
    async with any_vault.store(await any_vault.logins()) as store:
        yield store


def move(installation: Installation, vault: SecretStore, faults: FaultSchedule | None = None) -> MoveToVault:
    source = installation.embedded(Keyring.load(installation.keyset_path))
    return MoveToVault(
        installation.units if faults is None else FaultInjectingUnitsOfWork(installation.database, faults),
        source=source if faults is None else fault_injecting_store(source, faults),
        target=vault if faults is None else fault_injecting_store(vault, faults),
        encrypted=installation.encrypted,
        progress=installation.progress_lines.append,
    )


async def is_interrupted(work: MoveToVault) -> bool:
    try:
        await work.run()
    except (Crash, Unavailable):
        return True
    return False


async def assert_moved(installation: Installation, vault: SecretStore) -> None:
    """Assert that Vault has the readable secrets, at the same store versions, and no others, and the embedded store none."""
    await bind_store(installation.database, VAULT)
    await installation.assert_readable(vault)
    assert await installation.encrypted_rows() == []
    readable = await installation.readable_secrets()
    refs = {ref.credential_id: ref for ref, _ in readable}
    for row in await installation.rows("sealed_secret"):
        ref = refs.get(row["credential_id"])
        if ref is None:  # skipped, because Vault's 404 for a missing path is retried with pauses
            continue
        found = await vault.intent_at(ref, row["store_version"])
        assert found == readable.pop((ref, row["store_version"]), None), "an orphaned or lost secret"
    assert readable == {}


class TestMigrateSecrets:
    async def test_moves_every_secret_with_its_store_version_and_destroys_the_originals(
        self, installation: Installation, vault: VaultSecretStore
    ) -> None:
        before = {
            row["intent_id"]: row["store_version"] for row in await installation.rows("credential_version")
        }

        await move(installation, vault).run()

        await assert_moved(installation, vault)
        after = {
            row["intent_id"]: row["store_version"] for row in await installation.rows("credential_version")
        }
        assert after == before
        assert sorted(await installation.actions()) == [
            *["secret.moved"] * 5,
            "secret_store.move_started",
            "secret_store.moved",
        ]

    async def test_survives_a_crash_at_every_step(
        self, installation: Installation, prepared_fake: PreparedVault
    ) -> None:
        async with prepared_fake.store() as vault:
            for at in sampled_steps(MOST_STEPS, stride=13):
                await installation.reset()
                await installation.fill()
                faults = crash(at)
                if not await is_interrupted(move(installation, vault, faults)):
                    break
                await move(installation, vault).run()
                await assert_moved(installation, vault)

        assert FEWEST_STEPS < faults.steps < MOST_STEPS

    async def test_completes_when_each_run_gets_one_step_further(
        self, installation: Installation, vault: VaultSecretStore
    ) -> None:
        for at in sampled_steps(MOST_STEPS, stride=2):
            if not await is_interrupted(move(installation, vault, crash(at))):
                break

        await assert_moved(installation, vault)

    async def test_survives_outages(self, installation: Installation, vault: VaultSecretStore) -> None:
        for at in sampled_steps(MOST_STEPS, start=3, stride=8):
            if not await is_interrupted(move(installation, vault, outage(at, lasts=True))):
                break

        await assert_moved(installation, vault)

    async def test_reconciles_interrupted_saves(
        self, installation: Installation, vault: VaultSecretStore
    ) -> None:
        caller = Caller(subject="ada", organization_id=f"org_{uuid4().hex}", request_id="req")
        services = installation.services(fault_injecting_store(installation.embedded(), crash(4)))
        with suppress(Crash):
            await services[CredentialService].register(
                caller, new_credential(make_key()), credential_id=new_id()
            )
        assert await installation.rows("credential_version", "state = 'intent'")

        await move(installation, vault).run()

        assert await installation.rows("credential_version", "state = 'intent'") == []
        await assert_moved(installation, vault)

    @pytest.mark.parametrize("is_deletion", [False, True])
    async def test_reconciles_interrupted_endpoint_writes(
        self, installation: Installation, vault: VaultSecretStore, is_deletion: bool
    ) -> None:
        caller = Caller(subject="ada", organization_id=f"org_{uuid4().hex}", request_id="req")
        embedded = installation.embedded()
        if is_deletion:
            ref = await installation.add_endpoint(installation.services(embedded), caller)
            del installation.secrets[ref]
            cut_off = installation.services(fault_injecting_store(embedded, outage(1, lasts=True)))
            await cut_off[WebhookService].delete(caller, ref.credential_id)
        else:
            with suppress(Crash):
                await installation.add_endpoint(
                    installation.services(fault_injecting_store(embedded, crash(2))), caller
                )
        (dying,) = await installation.rows("webhook_endpoint", "state <> 'active'")
        ref = signing_secret_ref(caller.organization_id, dying["id"])
        assert await embedded.intent_at(ref, 1) == dying["intent_id"]

        await move(installation, vault).run()

        assert await installation.rows("webhook_endpoint", "state <> 'active'") == []
        assert await installation.rows("job_queue", "kind = 'settle_webhook'") == []
        with pytest.raises(SecretMissing):
            await vault.read_signing_secret(ref, 1)
        await assert_moved(installation, vault)

    async def test_endpoints_keep_working_in_vault(
        self, installation: Installation, vault: VaultSecretStore
    ) -> None:
        await move(installation, vault).run()

        for ref in installation.secrets:
            assert await receives_valid_delivery(installation, vault, ref)
            caller = Caller(subject="ada", organization_id=ref.organization_id, request_id="req")
            await installation.services(vault)[WebhookService].delete(caller, ref.credential_id)
            with pytest.raises(SecretMissing):
                await vault.read_signing_secret(ref, 1)

    async def test_credentials_keep_working_in_vault(
        self, installation: Installation, vault: VaultSecretStore
    ) -> None:
        await move(installation, vault).run()
        services = installation.services(vault)
        ref, other = installation.refs[0], installation.refs[1]
        caller = Caller(subject="ada", organization_id=ref.organization_id, request_id="req")

        with pytest.raises(DuplicateKey) as duplicate:
            await services[CredentialService].register(
                caller, new_credential(installation.keys[other.credential_id, 3]), credential_id=new_id()
            )
        await services[RotationService].rotate(
            caller, ref.credential_id, new_key(make_key()), rotation_id=new_id()
        )
        rolled_back = await services[RollbackService].roll_back(caller, other.credential_id)
        await services[DeletionService].delete(caller, ref.credential_id, force=False)

        assert duplicate.value.credential_id == other.credential_id
        assert rolled_back.active_version.key_version == 1
        with pytest.raises(SecretMissing):
            await vault.read(ref, 2)

    async def test_repeated_changes_nothing(
        self, installation: Installation, vault: VaultSecretStore
    ) -> None:
        await move(installation, vault).run()
        rows = await installation.rows("credential_version")

        await move(installation, vault).run()

        assert await installation.rows("credential_version") == rows


class TestUnmovableSecrets:
    async def test_undecryptable_keys_keep_all_secrets_in_the_embedded_store(
        self, installation: Installation, vault: VaultSecretStore
    ) -> None:
        ref = installation.refs[0]
        await installation.toggle_corruption(ref)

        with pytest.raises(OperationRefused, match="cannot be decrypted"):
            await move(installation, vault).run()

        assert len(await installation.encrypted_rows()) == 7
        await installation.toggle_corruption(ref)
        await move(installation, vault).run()
        await assert_moved(installation, vault)

    async def test_existing_versions_in_vault_are_not_overwritten(
        self, installation: Installation, vault: VaultSecretStore
    ) -> None:
        foreign = make_key()
        await vault.write(installation.refs[0], foreign, intent_id=uuid4(), expected_version=0)

        with pytest.raises(OperationRefused, match="Vault holds other secrets"):
            await move(installation, vault).run()

        assert await vault.read(installation.refs[0], 1) == foreign


class TestOtherInstances:
    async def test_cannot_start_or_write_during_the_move(
        self, installation: Installation, vault: VaultSecretStore
    ) -> None:
        old_instance = installation.embedded()
        assert await is_interrupted(move(installation, vault, crash(40)))
        ref = installation.refs[0]

        for identity in (installation.keyring().keyset.identity, VAULT):
            with pytest.raises(StoreMoving, match="migrate-secrets"):
                await bind_store(installation.database, identity)
        for write in (
            old_instance.write(ref, make_key(), intent_id=uuid4(), expected_version=1),
            old_instance.tombstone(ref, intent_id=uuid4(), expected_version=1),
            old_instance.destroy(ref, 1),
            old_instance.destroy_all(ref),
        ):
            with pytest.raises(SecretStoreUnavailable):
                await write

        await move(installation, vault).run()
        await assert_moved(installation, vault)

    async def test_cannot_write_or_start_with_the_embedded_store_after_the_move(
        self, installation: Installation, vault: VaultSecretStore
    ) -> None:
        old_instance = installation.embedded()
        await move(installation, vault).run()

        with pytest.raises(SecretStoreUnavailable):
            await old_instance.write(installation.refs[0], make_key(), intent_id=uuid4(), expected_version=1)
        with pytest.raises(StoreMismatch):
            await bind_store(installation.database, installation.keyring().keyset.identity)


class TestCancel:
    async def test_restores_everything_at_every_step(
        self, installation: Installation, vault: VaultSecretStore
    ) -> None:
        for at in sampled_steps(MOST_STEPS, start=20, stride=17):
            await is_interrupted(move(installation, vault, crash(at)))
            if (await installation.rows("sealing_keyset"))[0]["identity"] == VAULT:
                break

            await move(installation, vault).cancel()

            await bind_store(installation.database, installation.keyring().keyset.identity)
            await installation.assert_readable(installation.embedded())
        else:
            pytest.fail("not enough steps to complete a run")

        await move(installation, vault).run()
        await assert_moved(installation, vault)

    async def test_then_a_later_move_removes_copies_of_destroyed_secrets(
        self, installation: Installation, vault: VaultSecretStore
    ) -> None:
        deleted, rotated = installation.refs[0], installation.refs[1]
        endpoint = next(iter(installation.secrets))
        caller = Caller(subject="ada", organization_id=deleted.organization_id, request_id="req")
        with suppress(OperationRefused):
            await installation.toggle_corruption(installation.refs[2])
            await move(installation, vault).run()
        assert await vault.intent_at(deleted, 1) is not None
        assert await vault.intent_at(endpoint, 1) is not None
        await move(installation, vault).cancel()
        services = installation.services()
        await services[DeletionService].delete(caller, deleted.credential_id, force=False)
        await services[WebhookService].delete(caller, endpoint.credential_id)
        await services[DeletionService].destroy_version(caller, rotated.credential_id, 1)
        await services[DeletionService].delete(
            Caller(subject="ada", organization_id=installation.refs[2].organization_id, request_id="req"),
            installation.refs[2].credential_id,
            force=False,
        )

        await move(installation, vault).run()

        assert await vault.intent_at(deleted, 1) is None
        assert await vault.intent_at(endpoint, 1) is None
        assert await vault.intent_at(rotated, 1) is None
        assert await vault.read(rotated, 3) == installation.keys[rotated.credential_id, 3]

    async def test_is_refused_before_and_after_a_move(
        self, installation: Installation, vault: VaultSecretStore
    ) -> None:
        with pytest.raises(OperationRefused, match="cannot cancel"):
            await move(installation, vault).cancel()

        await move(installation, vault).run()

        with pytest.raises(OperationRefused, match="cannot cancel"):
            await move(installation, vault).cancel()


class TestPendingWork:
    async def test_is_completed_in_vault(self, installation: Installation, vault: VaultSecretStore) -> None:
        await move(installation, vault).run()

        for organization_id in {ref.organization_id for ref in installation.refs}:
            await make_due(installation.superuser, organization_id)
        await installation.services(vault)[Reconciler].run()

        previous = installation.refs[1]
        with pytest.raises(SecretMissing):
            await vault.read(previous, 1)
        (pending,) = await installation.rows("credential_version", "key_version = 2 AND state = 'active'")
        ref = installation.refs[2]
        assert await vault.read(ref, pending["store_version"]) == installation.keys[ref.credential_id, 2]
