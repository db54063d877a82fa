"""All keys in Vault under the newest transit keys, while others work: no key lost, none left under an old one."""

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
from app.credentials.rotations import MOST_STORE_VERSIONS
from app.rotation.rollback import RollbackService
from app.rotation.service import RotationService
from app.secret_maintenance.progress import OperationRefused
from app.secret_maintenance.rewrap_command import RewrapCommand, RewrappingStore
from app.secret_store.port import SecretKind, SecretRef
from app.secret_store.vault.store import VaultSecretStore
from app.validation.service import ValidationService
from app.webhooks.service import WebhookService
from tests.integration.operations.deliveries import is_told
from tests.integration.operations.installation import HELD, Installation
from tests.integration.secret_store.vaults import Prepared
from tests.integration.services.deeds import new_key
from tests.integration.services.workplace import make_key
from tests.interruptions import Course, Crash, InterruptedUnits, Step, crash, interrupted_store, outage, steps
from tests.rows import change, make_due

FEWEST_STEPS, MOST_STEPS = 60, 300
NUMBERS_LOOKED_AT = 8  # the last ones: more than one run takes


@pytest.fixture
async def vault(any_vault: Prepared) -> AsyncIterator[VaultSecretStore]:
    """Each role with its own log-in."""
    async with any_vault.store(await any_vault.logins()) as store:
        yield store


@pytest.fixture
async def in_vault(installation: Installation, vault: VaultSecretStore) -> Installation:
    """The same, with its keys in Vault."""
    await installation.empty()
    await installation.fill(vault)
    return installation


def rewrapping(
    installation: Installation, vault: VaultSecretStore, course: Course | None = None
) -> RewrapCommand:
    if course is None:
        return RewrapCommand(installation.units, vault, installation.told.append)
    return RewrapCommand(
        InterruptedUnits(installation.database, course),
        cast("RewrappingStore", interrupted_store(vault, course)),
        installation.told.append,
    )


async def stopped(work: Awaitable[None]) -> bool:
    try:
        await work
    except (Crash, Unavailable):
        return True
    return False


async def assert_rewrapped(installation: Installation, vault: VaultSecretStore) -> None:
    await installation.assert_readable(vault)
    for ref, number in await installation.held():
        assert not await vault.is_outdated(ref, number)
    await assert_no_orphan(installation, vault)
    kinds = {row["kind"] for row in await installation.rows("job_queue")}
    assert kinds.isdisjoint({"rewrap_secrets", "rotate_transit_key", "settle_rewrap"})


async def assert_no_orphan(installation: Installation, vault: VaultSecretStore) -> None:
    """Vault holds what the rows point to, and nothing else."""
    assert await installation.rows("secret_rewrap") == []
    pointed_at = await installation.held()
    for ref in [*installation.refs, *installation.secrets]:
        last = await vault.current_version(ref)
        for number in range(max(1, last - NUMBERS_LOOKED_AT), last + 1):
            is_there = await vault.intent_at(ref, number) is not None
            assert is_there == ((ref, number) in pointed_at), f"{ref} {number}"


async def held(installation: Installation) -> list[dict[str, object]]:
    return [row for row in await installation.rows("credential_version") if row["state"] in HELD]


def _ref(row: dict[str, object]) -> SecretRef:
    return SecretRef(organization_id=str(row["organization_id"]), credential_id=row["credential_id"])  # type: ignore[arg-type]  # an UUID, as the driver has it


def caller_of(ref: SecretRef) -> Caller:
    return Caller(subject="ada", organization_id=ref.organization_id, request_id="req")


async def sweep(installation: Installation, vault: VaultSecretStore) -> None:
    await change(
        installation.owner,
        "UPDATE job_queue SET due_at = now() - interval '1 second' WHERE kind IN ('settle_rewrap', 'settle_intent', 'settle_webhook')",
    )
    await installation.services(vault)[Reconciler].run()


class TestRewrapSecrets:
    async def test_rotates_the_keys_and_rewraps_every_version(
        self, in_vault: Installation, vault: VaultSecretStore, any_vault: Prepared
    ) -> None:
        await rewrapping(in_vault, vault).run(rotate_keys=True)

        await assert_rewrapped(in_vault, vault)
        for ref, number in await in_vault.held():
            folder = "creds" if ref.kind is SecretKind.PROVIDER_KEY else "webhooks"
            path = f"orgs/{ref.organization_id}/{folder}/{ref.credential_id}"
            content = await any_vault.get(path, number)
            assert content["ct"].startswith("vault:v2:")
        assert sorted(await in_vault.actions()) == [
            *["secret.rewrapped"] * 7,
            *["secret_store.transit_key_rotated"] * 3,
        ]

    async def test_without_a_new_key_changes_nothing(
        self, in_vault: Installation, vault: VaultSecretStore
    ) -> None:
        before = await in_vault.rows("credential_version")

        await rewrapping(in_vault, vault).run(rotate_keys=False)

        assert await in_vault.rows("credential_version") == before
        assert await in_vault.actions() == []

    async def test_survives_a_crash_at_every_step(
        self, installation: Installation, prepared_fake: Prepared
    ) -> None:
        async with prepared_fake.store() as vault:
            await installation.empty()
            await installation.fill(vault)
            for at in steps(MOST_STEPS, stride=9):
                course = crash(at)
                is_stopped = await stopped(rewrapping(installation, vault, course).run(rotate_keys=True))
                if is_stopped:
                    await rewrapping(installation, vault).run(rotate_keys=True)
                await assert_rewrapped(installation, vault)
                if not is_stopped:
                    break

        assert FEWEST_STEPS < course.steps < MOST_STEPS
        assert course.got_through

    async def test_that_is_never_run_again_is_cleared_away_by_the_sweep(
        self, in_vault: Installation, vault: VaultSecretStore
    ) -> None:
        for at in steps(MOST_STEPS, start=3, stride=11):
            if not await stopped(rewrapping(in_vault, vault, crash(at)).run(rotate_keys=True)):
                break

            await sweep(in_vault, vault)

            await in_vault.assert_readable(vault)
            await assert_no_orphan(in_vault, vault)
        await assert_rewrapped(in_vault, vault)

    async def test_survives_outages(self, in_vault: Installation, vault: VaultSecretStore) -> None:
        for at in steps(MOST_STEPS, start=5, stride=13):
            if not await stopped(rewrapping(in_vault, vault, outage(at, lasts=False)).run(rotate_keys=True)):
                break

        await assert_rewrapped(in_vault, vault)

    async def test_refuses_what_would_push_out_a_key_that_is_kept(
        self, in_vault: Installation, vault: VaultSecretStore
    ) -> None:
        ref = in_vault.refs[0]
        for number in range(1, MOST_STORE_VERSIONS):
            await vault.tombstone(ref, intent_id=uuid4(), expected_version=number)

        with pytest.raises(OperationRefused, match=rf"too many versions.*{ref.credential_id}"):
            await rewrapping(in_vault, vault).run(rotate_keys=True)

        await in_vault.assert_readable(vault)
        assert await vault.current_version(ref) == MOST_STORE_VERSIONS


Deed = Callable[[Services, SecretRef], Awaitable[object]]
DEEDS: dict[str, Deed] = {
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


class TestOthersMeanwhile:
    @pytest.mark.parametrize("deed", DEEDS)
    async def test_may_do_what_they_like_at_every_step(
        self, installation: Installation, prepared_fake: Prepared, deed: str
    ) -> None:
        async with prepared_fake.store() as vault:
            for at in steps(MOST_STEPS, stride=29):
                await installation.empty()
                await installation.fill(vault)
                services, ref = installation.services(vault), installation.refs[1]
                done: list[str] = []

                async def do(
                    step: Step,
                    services: Services = services,
                    ref: SecretRef = ref,
                    done: list[str] = done,
                ) -> None:
                    if not step.holds_locks:
                        with suppress(ByokError):
                            await DEEDS[deed](services, ref)
                            done.append(deed)

                course = Course(at, do)
                with suppress(OperationRefused, ByokError):
                    await rewrapping(installation, vault, course).run(rotate_keys=True)
                await sweep(installation, vault)
                await rewrapping(installation, vault).run(rotate_keys=False)

                await assert_no_orphan(installation, vault)
                for row in await held(installation):
                    key = await vault.read(_ref(row), int(str(row["store_version"])))
                    assert await vault.fingerprint(str(row["organization_id"]), key) == row["fingerprint"]
                    assert not await vault.is_outdated(_ref(row), int(str(row["store_version"])))
                states = [
                    row["state"]
                    for row in await installation.rows("credential_version")
                    if row["credential_id"] == ref.credential_id
                ]
                assert states.count("active") == (0 if "delete" in done else 1)
                if course.got_through:
                    return
        pytest.fail("did not get through")

    async def test_may_delete_an_endpoint_at_every_step(
        self, installation: Installation, prepared_fake: Prepared
    ) -> None:
        async with prepared_fake.store() as vault:
            for at in steps(MOST_STEPS, stride=29):
                await installation.empty()
                await installation.fill(vault)
                services, ref = installation.services(vault), next(iter(installation.secrets))

                async def delete(step: Step, services: Services = services, ref: SecretRef = ref) -> None:
                    if not step.holds_locks:
                        await services[WebhookService].delete(caller_of(ref), ref.credential_id)

                course = Course(at, delete)
                with suppress(OperationRefused):
                    await rewrapping(installation, vault, course).run(rotate_keys=True)
                await sweep(installation, vault)
                await rewrapping(installation, vault).run(rotate_keys=False)

                await assert_no_orphan(installation, vault)
                if ref not in {held_ref for held_ref, _ in await installation.held()}:
                    del installation.secrets[ref]
                await assert_rewrapped(installation, vault)
                if course.got_through:
                    return
        pytest.fail("did not get through")

    async def test_sign_with_a_secret_that_moves_between_two_looks(
        self, in_vault: Installation, vault: VaultSecretStore
    ) -> None:
        async def rewrap(_step: Step) -> None:
            await rewrapping(in_vault, vault).run(rotate_keys=True)

        for at in range(1, 10):
            course = Course(at, rewrap)
            for ref in in_vault.secrets:
                assert await is_told(in_vault, interrupted_store(vault, course), ref)
            if course.got_through:
                return
        pytest.fail("did not get through")

    async def test_find_a_key_that_moves_between_two_looks(
        self, in_vault: Installation, vault: VaultSecretStore
    ) -> None:
        ref = in_vault.refs[0]

        async def rewrap(_step: Step) -> None:
            await rewrapping(in_vault, vault).run(rotate_keys=True)

        for at in range(1, 30):
            course = Course(at, rewrap)
            services = in_vault.services(interrupted_store(vault, course))
            record = await services[ValidationService].request(
                caller_of(ref), ref.credential_id, validation_id=new_id()
            )
            assert record.verdict.status == "valid"
            if course.got_through:
                break
        for organization_id in {ref.organization_id for ref in in_vault.refs}:
            await make_due(in_vault.owner, organization_id)
        await in_vault.services(vault)[Reconciler].run()
