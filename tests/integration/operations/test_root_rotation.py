"""Another root key: whatever stops the command, and whoever seals meanwhile, no key is lost and no old root is left."""

import asyncio
import shutil
from pathlib import Path
from uuid import uuid4

import pytest

from app.core.errors import SecretStoreUnavailable
from app.secret_maintenance.progress import OperationRefused
from app.secret_maintenance.rotate_root_key import RotateRootKey
from app.secret_store.binding import allow_root, hold_binding
from app.secret_store.embedded import envelope
from app.secret_store.embedded.keyring import Keyring
from app.secret_store.embedded.keyset import Keyset
from app.secret_store.port import SecretCorrupt
from tests.integration.operations.installation import Installation
from tests.integration.services.workplace import make_key
from tests.interruptions import Course, Crash, Dependency, InterruptedUnits, Step, crash, steps
from tests.rows import change, fetch
from tests.waiting import until

FEWEST_STEPS, MOST_STEPS = 15, 60


class InterruptedKeyring(Keyring):
    """A keyset file with a step before and after it is replaced."""

    def __init__(self, keys: Keyring, path: Path, course: Course) -> None:
        super().__init__(keys.keyset, path)
        self._course = course

    def replace(self, keyset: Keyset) -> None:
        _reach(self._course)
        super().replace(keyset)
        _reach(self._course)


def _reach(course: Course) -> None:
    """A crash is all that comes here, and it waits for nothing."""
    with pytest.raises(StopIteration):
        course.reach(Step(Dependency.STORE)).__await__().__next__()


def rotation(installation: Installation, course: Course | None = None) -> RotateRootKey:
    keys = Keyring.load(installation.keyset_path)
    if course is None:
        return RotateRootKey(installation.units, keys, installation.sealed, installation.told.append)
    units = InterruptedUnits(installation.database, course)
    interrupted = InterruptedKeyring(keys, installation.keyset_path, course)
    return RotateRootKey(units, interrupted, installation.sealed, installation.told.append)


async def roots_in_use(installation: Installation) -> set[str]:
    return {
        envelope.root_id(row["sealed"]) for row in await installation.rows("sealed_secret") if row["sealed"]
    }


async def assert_rotated(installation: Installation, old: Keyset) -> None:
    keyset = Keyset.load(installation.keyset_path)
    assert list(keyset.roots) == [keyset.primary_id] != [old.primary_id]
    assert keyset.identity == old.identity
    assert await roots_in_use(installation) == {keyset.primary_id}
    await installation.assert_readable(installation.embedded())


class TestRotateRoot:
    async def test_wraps_everything_anew_and_drops_the_old_root(self, installation: Installation) -> None:
        old = Keyset.load(installation.keyset_path)

        await rotation(installation).run()

        await assert_rotated(installation, old)
        assert installation.told[-1].startswith(f"dropped root key {old.primary_id}")

    async def test_opens_no_payload(self, installation: Installation) -> None:
        payloads = {row["sealed"][-60:] for row in await installation.rows("sealed_secret") if row["sealed"]}

        await rotation(installation).run()

        after = [row["sealed"] for row in await installation.rows("sealed_secret") if row["sealed"]]
        assert {blob[-60:] for blob in after} == payloads

    async def test_is_in_the_trail_of_each_organization_and_of_the_operator(
        self, installation: Installation
    ) -> None:
        await rotation(installation).run()

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
        for at in steps(MOST_STEPS, stride=2):
            old = Keyset.load(installation.keyset_path)
            course = crash(at)
            if course_ended := await _stopped(installation, course):
                await rotation(installation).run()
            await assert_rotated(installation, old)
            if not course_ended:
                break

        assert course.got_through
        assert FEWEST_STEPS < course.steps < MOST_STEPS

    async def test_survives_a_crash_of_the_run_that_goes_on(self, installation: Installation) -> None:
        old = Keyset.load(installation.keyset_path)
        for at in range(1, MOST_STEPS):
            if not await _stopped(installation, crash(at)):
                break

        await assert_rotated(installation, old)

    async def test_drops_nothing_while_a_secret_cannot_be_opened(self, installation: Installation) -> None:
        old = Keyset.load(installation.keyset_path)
        ref = installation.refs[0]
        broken = "UPDATE sealed_secret SET sealed = set_byte(sealed, 60, 255 - get_byte(sealed, 60)) WHERE credential_id = :id"
        await change(installation.owner, broken, id=ref.credential_id)

        with pytest.raises(OperationRefused, match=str(ref.credential_id)):
            await rotation(installation).run()

        assert Keyset.load(installation.keyset_path).root(old.primary_id) is not None
        await change(installation.owner, broken, id=ref.credential_id)
        await rotation(installation).run()
        await assert_rotated(installation, old)


async def _stopped(installation: Installation, course: Course) -> bool:
    try:
        await rotation(installation, course).run()
    except Crash:
        return True
    return False


class TestInstancesMeanwhile:
    async def test_read_and_write_at_every_step(self, installation: Installation) -> None:
        for at in steps(MOST_STEPS, stride=4):
            running = installation.embedded()
            old = Keyset.load(installation.keyset_path)
            stopped = await _stopped(installation, crash(at))

            await installation.assert_readable(running)
            ref, key = installation.refs[0], make_key()
            number = await running.current_version(ref)
            await running.write(ref, key, intent_id=uuid4(), expected_version=number)
            assert await running.read(ref, number + 1) == key
            await running.destroy(ref, number + 1)

            if stopped:
                await rotation(installation).run()
            await installation.assert_readable(running)
            await assert_rotated(installation, old)
            if not stopped:
                return
        pytest.fail("did not get through")

    async def test_that_have_another_file_cannot_seal_under_the_old_root(
        self, installation: Installation
    ) -> None:
        elsewhere = installation.embedded(Keyring(Keyset.load(installation.keyset_path)))
        await rotation(installation).run()
        ref = installation.refs[0]

        with pytest.raises(SecretStoreUnavailable):
            await elsewhere.write(ref, make_key(), intent_id=uuid4(), expected_version=1)
        with pytest.raises(SecretCorrupt):
            await elsewhere.read(ref, 1)

        assert await installation.embedded().current_version(ref) == 1
        await elsewhere.tombstone(ref, intent_id=uuid4(), expected_version=1)
        assert await elsewhere.current_version(ref) == 2

    async def test_that_are_sealing_are_waited_for(self, installation: Installation) -> None:
        new = Keyset.load(installation.keyset_path).with_new_primary()

        async def allow() -> None:
            async with installation.database.session(None) as session:
                await allow_root(session, new.primary_id)
                await session.commit()

        async def waiting() -> int:
            found = await fetch(
                installation.owner,
                "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database()"
                " AND wait_event_type = 'Lock'",
            )
            return int(found[0]["n"])

        async with installation.database.session("org_a") as session:
            await hold_binding(session)
            allowing = asyncio.create_task(allow())
            await until(waiting, lambda n: n == 1)
            assert not allowing.done()
            await session.commit()
        await allowing

    async def test_keep_their_keyset_where_another_one_takes_the_files_place(
        self, installation: Installation
    ) -> None:
        running = installation.embedded()

        Keyset.generate().save(installation.keyset_path)

        await installation.assert_readable(running)
        ref = installation.refs[0]
        await running.write(ref, make_key(), intent_id=uuid4(), expected_version=1)
        Keyset.load(installation.keyset_path)


class TestPrepare:
    async def test_lets_the_file_be_copied_first(self, installation: Installation, tmp_path: Path) -> None:
        old = Keyset.load(installation.keyset_path)

        await rotation(installation).prepare()
        shutil.copy(installation.keyset_path, tmp_path / "copy.json")
        elsewhere = installation.embedded(Keyring.load(tmp_path / "copy.json"))
        before = await elsewhere.read(installation.refs[0], 1)
        assert await roots_in_use(installation) == {old.primary_id}
        await rotation(installation).run()

        assert await elsewhere.read(installation.refs[0], 1) == before
        await assert_rotated(installation, old)

    async def test_is_refused_a_second_time(self, installation: Installation) -> None:
        await rotation(installation).prepare()

        with pytest.raises(OperationRefused, match="copy the file"):
            await rotation(installation).prepare()
