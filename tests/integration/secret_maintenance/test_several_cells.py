"""The operator's commands on secrets of organizations that live in different cells."""

from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from app.admin_commands import rotate_root
from app.cell_commands import move as move_organization
from app.composition.database_access import DatabaseAccess
from app.core.errors import Unavailable
from app.core.services import Services
from app.database.cells.directory import in_cell
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.jobs.queue import JobKind, QueueRepository
from app.secret_maintenance.move_to_vault import MoveToVault
from app.secret_maintenance.progress import OperationRefused
from app.secret_maintenance.rewrap_command import RewrapCommand, RewrappingStore
from app.secret_maintenance.rotate_kek import RotateKek
from app.secret_store.binding import VAULT, bind_store
from app.secret_store.embedded import envelope
from app.secret_store.embedded.keyring import Keyring
from app.secret_store.embedded.keyset import Keyset
from app.secret_store.port import SecretStore
from app.secret_store.vault.store import VaultSecretStore
from app.settings.settings import Settings
from tests.support.database.own_database import DatabaseRoles, copied_database, run_as_superuser
from tests.support.fault_injection import (
    Crash,
    FaultInjectingUnitsOfWork,
    crash,
    fault_injecting_store,
    sampled_steps,
)
from tests.support.secret_maintenance.celled_installation import CELLS, CelledInstallation
from tests.support.vault.prepared import PreparedVault

_STEPS = 400


@pytest.fixture
async def roles(template_with_cells: DatabaseRoles, in_first_cell: None) -> AsyncIterator[DatabaseRoles]:
    async with copied_database(template_with_cells) as roles:
        await run_as_superuser(roles, "UPDATE cells.cell SET takes_new = (name = 'public')")
        yield roles


@pytest.fixture
async def installation(
    roles: DatabaseRoles, services: Services, tmp_path: Path
) -> AsyncIterator[CelledInstallation]:
    superuser = create_async_engine(roles.superuser)
    database = Database(roles.login)
    installation = CelledInstallation(
        base_services=services,
        database=database,
        superuser=superuser,
        keyset_path=tmp_path / "secret-store" / "keyset.json",
        owner=roles.owner,
    )
    await installation.reset()
    yield installation
    await database.close()
    await superuser.dispose()


@pytest.fixture
async def vault(any_vault: PreparedVault) -> AsyncIterator[VaultSecretStore]:
    async with any_vault.store(await any_vault.logins()) as store:
        yield store


async def _is_interrupted(work: Awaitable[None]) -> bool:
    try:
        await work
    except (Crash, Unavailable):
        return True
    return False


class TestRotateRoot:
    def _command(self, installation: CelledInstallation, units: UnitsOfWork | None = None) -> RotateKek:
        keys = Keyring.load(installation.keyset_path)
        return RotateKek(
            units or installation.units, keys, installation.encrypted, installation.progress_lines.append
        )

    async def _assert_rotated(self, installation: CelledInstallation, old: Keyset) -> None:
        keyset = Keyset.load(installation.keyset_path)
        assert list(keyset.keks) == [keyset.primary_kek_id] != [old.primary_kek_id]
        assert {envelope.kek_id(row["sealed"]) for row in await installation.encrypted_rows()} == {
            keyset.primary_kek_id
        }
        await installation.assert_readable(installation.embedded())

    async def test_rewraps_the_secrets_of_every_cell(self, installation: CelledInstallation) -> None:
        await installation.fill()
        old = Keyset.load(installation.keyset_path)

        await self._command(installation).run()

        await self._assert_rotated(installation, old)
        assert "credentials and endpoints rewrapped: 5 of 5" in installation.progress_lines

    async def test_continues_after_a_crash(self, installation: CelledInstallation) -> None:
        await installation.fill()
        for at in sampled_steps(60, stride=6):
            old = Keyset.load(installation.keyset_path)
            faults = crash(at)
            units = FaultInjectingUnitsOfWork(installation.database, faults)
            if await _is_interrupted(self._command(installation, units).run()):
                await self._command(installation).run()
            await self._assert_rotated(installation, old)

    async def test_is_refused_while_a_stopped_move_has_left_secrets(
        self,
        installation: CelledInstallation,
        roles: DatabaseRoles,
        settings: Settings,
        tmp_path: Path,
    ) -> None:
        await installation.fill()
        await installation.copy_secrets("public", "cell_2")
        old = Keyset.load(installation.keyset_path)
        organization = installation.refs[0].organization_id
        here = settings.model_copy(update={"data_dir": tmp_path})
        access = DatabaseAccess(owner=roles.owner, login=roles.login)
        with pytest.raises(OperationRefused, match=f"byok cells move {organization} public"):
            await rotate_root(here, access, installation.progress_lines.append, only_prepare=False)
        assert list(Keyset.load(installation.keyset_path).keks) == list(old.keks)

        await move_organization(here, access, organization, "public", lambda _: None)

        await rotate_root(here, access, installation.progress_lines.append, only_prepare=False)
        await self._assert_rotated(installation, old)


class TestMigrateSecrets:
    def _command(
        self, installation: CelledInstallation, vault: SecretStore, units: UnitsOfWork | None = None
    ) -> MoveToVault:
        return MoveToVault(
            units or installation.units,
            source=installation.embedded(Keyring.load(installation.keyset_path)),
            target=vault,
            encrypted=installation.encrypted,
            progress=installation.progress_lines.append,
        )

    async def _assert_moved(self, installation: CelledInstallation, vault: SecretStore) -> None:
        await bind_store(installation.database, VAULT)
        await installation.assert_readable(vault)
        assert await installation.encrypted_rows() == []

    async def test_moves_the_secrets_of_every_cell(
        self, installation: CelledInstallation, vault: VaultSecretStore
    ) -> None:
        await installation.fill()

        await self._command(installation, vault).run()

        await self._assert_moved(installation, vault)
        assert "credentials and endpoints moved: 5 of 5" in installation.progress_lines

    async def test_continues_after_crashes(
        self, installation: CelledInstallation, prepared_fake: PreparedVault
    ) -> None:
        await installation.fill()
        async with prepared_fake.store() as vault:
            for at in sampled_steps(_STEPS, stride=5):
                faults = crash(at)
                units = FaultInjectingUnitsOfWork(installation.database, faults)
                command = self._command(installation, fault_injecting_store(vault, faults), units)
                if not await _is_interrupted(command.run()):
                    break
            await self._assert_moved(installation, vault)

    async def test_can_be_cancelled(
        self, installation: CelledInstallation, prepared_fake: PreparedVault
    ) -> None:
        await installation.fill()
        async with prepared_fake.store() as vault:
            faults = crash(25)
            units = FaultInjectingUnitsOfWork(installation.database, faults)
            command = self._command(installation, fault_injecting_store(vault, faults), units)
            assert await _is_interrupted(command.run())
            await self._command(installation, vault).cancel()
        await installation.assert_readable(installation.embedded())


class TestRewrapSecrets:
    def _command(
        self, installation: CelledInstallation, vault: SecretStore, units: UnitsOfWork | None = None
    ) -> RewrapCommand:
        return RewrapCommand(
            units or installation.units, cast("RewrappingStore", vault), installation.progress_lines.append
        )

    async def _assert_rewrapped(self, installation: CelledInstallation, vault: VaultSecretStore) -> None:
        await installation.assert_readable(vault)
        for ref, number in await installation.readable_secrets():
            assert not await vault.is_outdated(ref, number)
        kinds = {row["kind"] for row in await installation.rows("job_queue")}
        assert kinds.isdisjoint({"rewrap_secrets", "rotate_transit_key", "settle_rewrap"})

    async def test_rewraps_the_secrets_of_every_cell(
        self, installation: CelledInstallation, vault: VaultSecretStore
    ) -> None:
        await installation.fill(vault)

        await self._command(installation, vault).run(rotate_keys=True)

        await self._assert_rewrapped(installation, vault)
        assert "transit keys rotated: 3 of 3" in installation.progress_lines

    async def test_continues_after_crashes_with_the_work_of_all_cells(
        self, installation: CelledInstallation, prepared_fake: PreparedVault
    ) -> None:
        async with prepared_fake.store() as vault:
            await installation.fill(vault)
            assert await self._is_killed(installation, vault, at=1)
            queued = [await self._queued(installation, cell) for cell in CELLS]
            assert all(queued), queued
            for at in sampled_steps(_STEPS, start=2, stride=7):
                if not await self._is_killed(installation, vault, at=at):
                    break
            await self._assert_rewrapped(installation, vault)

    async def _is_killed(self, installation: CelledInstallation, vault: SecretStore, *, at: int) -> bool:
        faults = crash(at)
        units = FaultInjectingUnitsOfWork(installation.database, faults)
        command = self._command(installation, fault_injecting_store(vault, faults), units)
        return await _is_interrupted(command.run(rotate_keys=True))

    async def _queued(self, installation: CelledInstallation, cell: str) -> int:
        with in_cell(cell):
            async with installation.units.unscoped(QueueRepository) as (queue, _):
                return await queue.count(JobKind.REWRAP_SECRETS)
