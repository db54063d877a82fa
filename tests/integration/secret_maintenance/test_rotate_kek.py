"""Rotation of the KEK: no key is lost and no old KEK is left, after crashes at any step and concurrent writes."""

import asyncio
import shutil
from pathlib import Path
from uuid import uuid4

import pytest

from app.core.errors import SecretStoreUnavailable
from app.secret_maintenance.progress import OperationRefused
from app.secret_maintenance.rotate_kek import RotateKek
from app.secret_store.binding import lock_binding_shared, require_kek
from app.secret_store.embedded import envelope
from app.secret_store.embedded.keyring import Keyring
from app.secret_store.embedded.keyset import Keyset
from app.secret_store.port import SecretCorrupt
from tests.support.credentials.organization_harness import make_key
from tests.support.database.rows import fetch
from tests.support.fault_injection import (
    Crash,
    Dependency,
    FaultInjectingUnitsOfWork,
    FaultSchedule,
    Step,
    crash,
    sampled_steps,
)
from tests.support.polling import until
from tests.support.secret_maintenance.installation import Installation

FEWEST_STEPS, MOST_STEPS = 15, 60


class InterruptedKeyring(Keyring):
    """A keyset file with a step before and after it is replaced."""

    def __init__(self, keys: Keyring, path: Path, faults: FaultSchedule) -> None:
        super().__init__(keys.keyset, path)
        self._faults = faults

    def replace(self, keyset: Keyset) -> None:
        _reach(self._faults)
        super().replace(keyset)
        _reach(self._faults)


def _reach(faults: FaultSchedule) -> None:
    """Reach a step from synchronous code. The only fault here is a crash, which never awaits."""
    with pytest.raises(StopIteration):
        faults.reach(Step(Dependency.STORE)).__await__().__next__()


def rotate_command(installation: Installation, faults: FaultSchedule | None = None) -> RotateKek:
    keys = Keyring.load(installation.keyset_path)
    if faults is None:
        return RotateKek(installation.units, keys, installation.encrypted, installation.progress_lines.append)
    units = FaultInjectingUnitsOfWork(installation.database, faults)
    interrupted = InterruptedKeyring(keys, installation.keyset_path, faults)
    return RotateKek(units, interrupted, installation.encrypted, installation.progress_lines.append)


async def kek_ids_in_use(installation: Installation) -> set[str]:
    return {envelope.kek_id(row["sealed"]) for row in await installation.encrypted_rows()}


async def assert_rotated(installation: Installation, old: Keyset) -> None:
    keyset = Keyset.load(installation.keyset_path)
    assert list(keyset.keks) == [keyset.primary_kek_id] != [old.primary_kek_id]
    assert keyset.identity == old.identity
    assert await kek_ids_in_use(installation) == {keyset.primary_kek_id}
    await installation.assert_readable(installation.embedded())


class TestRotateKek:
    async def test_rewraps_everything_and_removes_the_old_kek(self, installation: Installation) -> None:
        old = Keyset.load(installation.keyset_path)

        await rotate_command(installation).run()

        await assert_rotated(installation, old)
        assert installation.progress_lines[-1].startswith(f"removed key-encryption key {old.primary_kek_id}")

    async def test_does_not_decrypt_payloads(self, installation: Installation) -> None:
        payloads = {row["sealed"][-60:] for row in await installation.encrypted_rows()}

        await rotate_command(installation).run()

        after = [row["sealed"] for row in await installation.encrypted_rows()]
        assert {blob[-60:] for blob in after} == payloads

    async def test_is_in_the_audit_logs_of_the_organizations_and_the_operator(
        self, installation: Installation
    ) -> None:
        await rotate_command(installation).run()

        assert sorted(await installation.actions()) == [
            *["secret.rewrapped"] * 5,
            "secret_store.root_rotated",
            "secret_store.root_rotation_started",
        ]
        named = [
            (row["credential_id"], row["details"].get("webhook_endpoint_id"))
            for row in await installation.rows("audit_event", "action = 'secret.rewrapped'")
        ]
        assert {id_ for id_, _ in named if id_} == {ref.credential_id for ref in installation.refs[:3]}
        assert {id_ for _, id_ in named if id_} == {str(ref.credential_id) for ref in installation.secrets}

    async def test_survives_a_crash_at_every_step(self, installation: Installation) -> None:
        for at in sampled_steps(MOST_STEPS, stride=2):
            old = Keyset.load(installation.keyset_path)
            faults = crash(at)
            if was_interrupted := await _is_interrupted(installation, faults):
                await rotate_command(installation).run()
            await assert_rotated(installation, old)
            if not was_interrupted:
                break

        assert faults.never_fired
        assert FEWEST_STEPS < faults.steps < MOST_STEPS

    async def test_survives_crashes_of_the_runs_that_continue(self, installation: Installation) -> None:
        old = Keyset.load(installation.keyset_path)
        for at in range(1, MOST_STEPS):
            if not await _is_interrupted(installation, crash(at)):
                break

        await assert_rotated(installation, old)

    async def test_keeps_all_keks_while_a_secret_cannot_be_decrypted(
        self, installation: Installation
    ) -> None:
        old = Keyset.load(installation.keyset_path)
        ref = installation.refs[0]
        await installation.toggle_corruption(ref)

        with pytest.raises(OperationRefused, match=str(ref.credential_id)):
            await rotate_command(installation).run()

        assert Keyset.load(installation.keyset_path).kek(old.primary_kek_id) is not None
        await installation.toggle_corruption(ref)
        await rotate_command(installation).run()
        await assert_rotated(installation, old)


async def _is_interrupted(installation: Installation, faults: FaultSchedule) -> bool:
    try:
        await rotate_command(installation, faults).run()
    except Crash:
        return True
    return False


class TestRunningInstances:
    async def test_read_and_write_at_every_step(self, installation: Installation) -> None:
        for at in sampled_steps(MOST_STEPS, stride=4):
            running = installation.embedded()
            old = Keyset.load(installation.keyset_path)
            was_interrupted = await _is_interrupted(installation, crash(at))

            await installation.assert_readable(running)
            ref, key = installation.refs[0], make_key()
            number = await running.current_version(ref)
            await running.write(ref, key, intent_id=uuid4(), expected_version=number)
            assert await running.read(ref, number + 1) == key
            await running.destroy(ref, number + 1)

            if was_interrupted:
                await rotate_command(installation).run()
            await installation.assert_readable(running)
            await assert_rotated(installation, old)
            if not was_interrupted:
                return
        pytest.fail("not enough steps to complete a run")

    async def test_with_an_outdated_file_cannot_encrypt_under_the_old_kek(
        self, installation: Installation
    ) -> None:
        other_instance = installation.embedded(Keyring(Keyset.load(installation.keyset_path)))
        await rotate_command(installation).run()
        ref = installation.refs[0]

        with pytest.raises(SecretStoreUnavailable):
            await other_instance.write(ref, make_key(), intent_id=uuid4(), expected_version=1)
        with pytest.raises(SecretCorrupt):
            await other_instance.read(ref, 1)

        assert await installation.embedded().current_version(ref) == 1
        await other_instance.tombstone(ref, intent_id=uuid4(), expected_version=1)
        assert await other_instance.current_version(ref) == 2

    async def test_finish_their_writes_first(self, installation: Installation) -> None:
        new = Keyset.load(installation.keyset_path).with_new_primary_kek()

        async def require() -> None:
            async with installation.database.session(None) as session:
                await require_kek(session, new.primary_kek_id)
                await session.commit()

        async def waiting_sessions() -> int:
            found = await fetch(
                installation.superuser,
                "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database()"
                " AND wait_event_type = 'Lock'",
            )
            return int(found[0]["n"])

        async with installation.database.session("org_a") as session:
            await lock_binding_shared(session)
            requiring = asyncio.create_task(require())
            await until(waiting_sessions, lambda n: n == 1)
            assert not requiring.done()
            await session.commit()
        await requiring

    async def test_keep_their_keyset_if_the_file_is_replaced_by_another_keyset(
        self, installation: Installation
    ) -> None:
        running = installation.embedded()

        Keyset.generate().save(installation.keyset_path)

        await installation.assert_readable(running)
        ref = installation.refs[0]
        await running.write(ref, make_key(), intent_id=uuid4(), expected_version=1)
        Keyset.load(installation.keyset_path)


class TestPrepare:
    async def test_allows_copying_the_file_first(self, installation: Installation, tmp_path: Path) -> None:
        old = Keyset.load(installation.keyset_path)

        await rotate_command(installation).prepare()
        shutil.copy(installation.keyset_path, tmp_path / "copy.json")
        other_instance = installation.embedded(Keyring.load(tmp_path / "copy.json"))
        before = await other_instance.read(installation.refs[0], 1)
        assert await kek_ids_in_use(installation) == {old.primary_kek_id}
        await rotate_command(installation).run()

        assert await other_instance.read(installation.refs[0], 1) == before
        await assert_rotated(installation, old)

    async def test_is_refused_if_already_prepared(self, installation: Installation) -> None:
        await rotate_command(installation).prepare()

        with pytest.raises(OperationRefused, match="copy the file"):
            await rotate_command(installation).prepare()
