"""All keys to Vault: whatever stops the command, none is lost, and the trail, numbers and claims are right after."""

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
from app.webhooks.signing_secrets import ref_of
from tests.integration.operations.deliveries import is_told
from tests.integration.operations.installation import Installation
from tests.integration.secret_store.vaults import Prepared
from tests.integration.services.deeds import new_key
from tests.integration.services.workplace import make_key, new_credential
from tests.interruptions import Course, Crash, InterruptedUnits, crash, interrupted_store, outage, steps
from tests.rows import change, make_due

FEWEST_STEPS, MOST_STEPS = 60, 400


@pytest.fixture
async def vault(any_vault: Prepared) -> AsyncIterator[VaultSecretStore]:
    """Each role with its own log-in: what the policies allow must do."""
    async with any_vault.store(await any_vault.logins()) as store:
        yield store


def move(installation: Installation, vault: SecretStore, course: Course | None = None) -> MoveToVault:
    source = installation.embedded(Keyring.load(installation.keyset_path))
    return MoveToVault(
        installation.units if course is None else InterruptedUnits(installation.database, course),
        source=source if course is None else interrupted_store(source, course),
        target=vault if course is None else interrupted_store(vault, course),
        sealed=installation.sealed,
        progress=installation.told.append,
    )


async def stopped(work: MoveToVault) -> bool:
    try:
        await work.run()
    except (Crash, Unavailable):
        return True
    return False


async def assert_moved(installation: Installation, vault: SecretStore) -> None:
    """Vault has what may be used again, at the same numbers, and nothing else; the embedded store has nothing."""
    await bind_store(installation.database, VAULT)
    await installation.assert_readable(vault)
    assert await installation.rows("sealed_secret", "sealed IS NOT NULL") == []
    held = await installation.held()
    refs = {ref.credential_id: ref for ref, _ in held}
    for row in await installation.rows("sealed_secret"):
        ref = refs.get(row["credential_id"])
        if ref is None:  # Vault is slow to say that there is nothing at all
            continue
        found = await vault.intent_at(ref, row["store_version"])
        assert found == held.pop((ref, row["store_version"]), None), "an orphan, or a secret lost"
    assert held == {}


class TestMigrateSecrets:
    async def test_moves_every_key_with_its_number_and_destroys_the_old_ones(
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
        self, installation: Installation, prepared_fake: Prepared
    ) -> None:
        async with prepared_fake.store() as vault:
            for at in steps(MOST_STEPS, stride=13):
                await installation.empty()
                await installation.fill()
                course = crash(at)
                if not await stopped(move(installation, vault, course)):
                    break
                await move(installation, vault).run()
                await assert_moved(installation, vault)

        assert FEWEST_STEPS < course.steps < MOST_STEPS

    async def test_gets_through_when_every_run_goes_a_step_further(
        self, installation: Installation, vault: VaultSecretStore
    ) -> None:
        for at in steps(MOST_STEPS, stride=2):
            if not await stopped(move(installation, vault, crash(at))):
                break

        await assert_moved(installation, vault)

    async def test_survives_outages(self, installation: Installation, vault: VaultSecretStore) -> None:
        for at in steps(MOST_STEPS, start=3, stride=8):
            if not await stopped(move(installation, vault, outage(at, lasts=True))):
                break

        await assert_moved(installation, vault)

    async def test_settles_saves_that_died(self, installation: Installation, vault: VaultSecretStore) -> None:
        caller = Caller(subject="ada", organization_id=f"org_{uuid4().hex}", request_id="req")
        services = installation.services(interrupted_store(installation.embedded(), crash(4)))
        with suppress(Crash):
            await services[CredentialService].register(
                caller, new_credential(make_key()), credential_id=new_id()
            )
        assert await installation.rows("credential_version", "state = 'intent'")

        await move(installation, vault).run()

        assert await installation.rows("credential_version", "state = 'intent'") == []
        await assert_moved(installation, vault)

    @pytest.mark.parametrize("is_deleting", [False, True])
    async def test_settles_endpoints_that_died(
        self, installation: Installation, vault: VaultSecretStore, is_deleting: bool
    ) -> None:
        caller = Caller(subject="ada", organization_id=f"org_{uuid4().hex}", request_id="req")
        embedded = installation.embedded()
        if is_deleting:
            ref = await installation.add_endpoint(installation.services(embedded), caller)
            del installation.secrets[ref]
            cut_off = installation.services(interrupted_store(embedded, outage(1, lasts=True)))
            await cut_off[WebhookService].delete(caller, ref.credential_id)
        else:
            with suppress(Crash):
                await installation.add_endpoint(
                    installation.services(interrupted_store(embedded, crash(2))), caller
                )
        (dying,) = await installation.rows("webhook_endpoint", "state <> 'active'")
        ref = ref_of(caller.organization_id, dying["id"])
        assert await embedded.intent_at(ref, 1) == dying["intent_id"]

        await move(installation, vault).run()

        assert await installation.rows("webhook_endpoint", "state <> 'active'") == []
        assert await installation.rows("job_queue", "kind = 'settle_webhook'") == []
        with pytest.raises(SecretMissing):
            await vault.read_signing_secret(ref, 1)
        await assert_moved(installation, vault)

    async def test_lets_endpoints_live_on_in_vault(
        self, installation: Installation, vault: VaultSecretStore
    ) -> None:
        await move(installation, vault).run()

        for ref in installation.secrets:
            assert await is_told(installation, vault, ref)
            caller = Caller(subject="ada", organization_id=ref.organization_id, request_id="req")
            await installation.services(vault)[WebhookService].delete(caller, ref.credential_id)
            with pytest.raises(SecretMissing):
                await vault.read_signing_secret(ref, 1)

    async def test_lets_life_go_on_in_vault(
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
        assert rolled_back.current.key_version == 1
        with pytest.raises(SecretMissing):
            await vault.read(ref, 2)

    async def test_repeated_changes_nothing(
        self, installation: Installation, vault: VaultSecretStore
    ) -> None:
        await move(installation, vault).run()
        rows = await installation.rows("credential_version")

        await move(installation, vault).run()

        assert await installation.rows("credential_version") == rows


class TestStuck:
    async def test_keys_that_cannot_be_opened_keep_all_where_they_are(
        self, installation: Installation, vault: VaultSecretStore
    ) -> None:
        ref = installation.refs[0]
        broken = "UPDATE sealed_secret SET sealed = set_byte(sealed, 60, 255 - get_byte(sealed, 60)) WHERE credential_id = :id"
        await change(installation.owner, broken, id=ref.credential_id)

        with pytest.raises(OperationRefused, match="cannot be opened"):
            await move(installation, vault).run()

        assert len(await installation.rows("sealed_secret", "sealed IS NOT NULL")) == 7
        await change(installation.owner, broken, id=ref.credential_id)
        await move(installation, vault).run()
        await assert_moved(installation, vault)

    async def test_numbers_taken_in_vault_are_not_written_over(
        self, installation: Installation, vault: VaultSecretStore
    ) -> None:
        foreign = make_key()
        await vault.write(installation.refs[0], foreign, intent_id=uuid4(), expected_version=0)

        with pytest.raises(OperationRefused, match="taken in Vault"):
            await move(installation, vault).run()

        assert await vault.read(installation.refs[0], 1) == foreign


class TestMeanwhile:
    async def test_no_instance_starts_and_no_straggler_writes(
        self, installation: Installation, vault: VaultSecretStore
    ) -> None:
        straggler = installation.embedded()
        assert await stopped(move(installation, vault, crash(40)))
        ref = installation.refs[0]

        for identity in (installation.keyring().keyset.identity, VAULT):
            with pytest.raises(StoreMoving, match="migrate-secrets"):
                await bind_store(installation.database, identity)
        for write in (
            straggler.write(ref, make_key(), intent_id=uuid4(), expected_version=1),
            straggler.tombstone(ref, intent_id=uuid4(), expected_version=1),
            straggler.destroy(ref, 1),
            straggler.purge(ref),
        ):
            with pytest.raises(SecretStoreUnavailable):
                await write

        await move(installation, vault).run()
        await assert_moved(installation, vault)

    async def test_after_it_a_straggler_is_refused_and_so_is_a_start_on_the_old_store(
        self, installation: Installation, vault: VaultSecretStore
    ) -> None:
        straggler = installation.embedded()
        await move(installation, vault).run()

        with pytest.raises(SecretStoreUnavailable):
            await straggler.write(installation.refs[0], make_key(), intent_id=uuid4(), expected_version=1)
        with pytest.raises(StoreMismatch):
            await bind_store(installation.database, installation.keyring().keyset.identity)


class TestCancel:
    async def test_puts_everything_back_at_every_step(
        self, installation: Installation, vault: VaultSecretStore
    ) -> None:
        for at in steps(MOST_STEPS, start=20, stride=17):
            await stopped(move(installation, vault, crash(at)))
            if (await installation.rows("sealing_keyset"))[0]["identity"] == VAULT:
                break

            await move(installation, vault).cancel()

            await bind_store(installation.database, installation.keyring().keyset.identity)
            await installation.assert_readable(installation.embedded())
        else:
            pytest.fail("did not get through")

        await move(installation, vault).run()
        await assert_moved(installation, vault)

    async def test_then_a_later_move_leaves_no_copy_of_what_ended_in_between(
        self, installation: Installation, vault: VaultSecretStore
    ) -> None:
        deleted, rotated = installation.refs[0], installation.refs[1]
        endpoint = next(iter(installation.secrets))
        caller = Caller(subject="ada", organization_id=deleted.organization_id, request_id="req")
        with suppress(OperationRefused):
            await change(
                installation.owner,
                "UPDATE sealed_secret SET sealed = set_byte(sealed, 60, 255 - get_byte(sealed, 60))"
                " WHERE credential_id = :id",
                id=installation.refs[2].credential_id,
            )
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

    async def test_is_refused_where_there_is_nothing_to_cancel(
        self, installation: Installation, vault: VaultSecretStore
    ) -> None:
        with pytest.raises(OperationRefused, match="no move to cancel"):
            await move(installation, vault).cancel()

        await move(installation, vault).run()

        with pytest.raises(OperationRefused, match="no move to cancel"):
            await move(installation, vault).cancel()


class TestPendingWork:
    async def test_is_finished_in_vault(self, installation: Installation, vault: VaultSecretStore) -> None:
        await move(installation, vault).run()

        for organization_id in {ref.organization_id for ref in installation.refs}:
            await make_due(installation.owner, organization_id)
        await installation.services(vault)[Reconciler].run()

        previous = installation.refs[1]
        with pytest.raises(SecretMissing):
            await vault.read(previous, 1)
        (pending,) = await installation.rows("credential_version", "key_version = 2 AND state = 'active'")
        ref = installation.refs[2]
        assert await vault.read(ref, pending["store_version"]) == installation.keys[ref.credential_id, 2]
