"""The embedded PostgreSQL starts after any crash, signals no other process, and stops with its last user."""

import fcntl
import os
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from app.database import migrations
from app.database.embedded import cluster, server
from app.database.embedded.server import EmbeddedPostgresFailed
from app.database.embedded.server import embedded_postgres as run_embedded_postgres
from tests.support.database.embedded_clusters import (
    copy_of,
    fetch_as,
    postmaster_of,
    stop_if_running,
    unrelated_process,
    user_process,
    write_as_server,
)
from tests.support.polling import until
from tests.support.processes.commands import private_directory

SECONDS = 15  # of wall time, on a busy machine; it takes less than one


@pytest.fixture(scope="module")
def created() -> Iterator[Path]:
    """A data directory that was created and is not in use."""
    with private_directory() as directory:
        data_dir = directory / "data"
        with run_embedded_postgres(data_dir):
            pass
        yield data_dir


@pytest.fixture
def data_dir(created: Path) -> Iterator[Path]:
    with private_directory() as directory:
        data_dir = copy_of(created, directory / "data")
        yield data_dir
        with suppress(EmbeddedPostgresFailed):
            stop_if_running(data_dir)


@pytest.fixture
def pid_file(data_dir: Path) -> Path:
    return data_dir / "postgres" / "postmaster.pid"


async def works(data_dir: Path) -> bool:
    """Start the server, ask it for the name of its service login, and stop it."""
    begin = time.monotonic()
    with run_embedded_postgres(data_dir) as logins:
        assert time.monotonic() - begin < SECONDS
        found = await fetch_as(logins.service, "SELECT current_user::text")
    assert postmaster_of(data_dir) is None
    return found == [("byok_app",)]


def kill(data_dir: Path) -> None:
    """Kill the server, as the out-of-memory killer does."""
    postmaster = postmaster_of(data_dir)
    assert postmaster is not None
    postmaster.process.kill()


class TestStart:
    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(
                "{pid}\n{directory}\n1700000000\n5432\n{directory}\n\n  1 2\nready   \n", id="complete"
            ),
            pytest.param("{pid}\n", id="only the number"),
        ],
    )
    async def test_does_not_signal_a_process_that_got_the_number_of_a_crashed_server(
        self, data_dir: Path, pid_file: Path, content: str
    ) -> None:
        with unrelated_process(data_dir) as process:
            text = content.format(pid=process.pid, directory=data_dir / "postgres")
            write_as_server(pid_file, text.encode())
            write_as_server(data_dir / "postgres" / ".s.PGSQL.5432.lock", text.encode())
            write_as_server(data_dir / "postgres" / ".s.PGSQL.5432", b"")

            assert await works(data_dir)

            assert process.poll() is None

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\n",
            b"garbage\n",
            b"\xff\xfe\x00",
            b"-1\n",
            b"0\n",
            b"99999999999999999999\n",
            b"1\n2\n3\n4\n5\n6\n7\n8\n",
        ],
        ids=["empty", "newline", "text", "bytes", "negative", "zero", "huge", "init"],
    )
    async def test_ignores_a_damaged_pid_file(self, data_dir: Path, pid_file: Path, content: bytes) -> None:
        write_as_server(pid_file, content)

        assert await works(data_dir)

    async def test_recovers_after_a_kill(self, data_dir: Path, pid_file: Path) -> None:
        with run_embedded_postgres(data_dir) as logins:
            await fetch_as(logins.owner, "CREATE TABLE kept AS SELECT 1 AS id")
            kill(data_dir)
        assert pid_file.exists()

        with run_embedded_postgres(data_dir) as logins:
            assert await fetch_as(logins.owner, "SELECT id FROM kept") == [(1,)]

    async def test_uses_a_server_that_a_killed_process_left_running(self, data_dir: Path) -> None:
        process = user_process(data_dir)
        left_running = postmaster_of(data_dir)
        process.kill()
        process.communicate()

        with run_embedded_postgres(data_dir) as logins:
            assert await fetch_as(logins.service, "SELECT 1") == [(1,)]
            assert left_running is not None
            assert postmaster_of(data_dir) == left_running
        assert postmaster_of(data_dir) is None

    @pytest.mark.parametrize("content", [None, b"", b"garbage"], ids=["missing", "empty", "damaged"])
    async def test_restarts_a_server_that_lost_its_pid_file(
        self, data_dir: Path, pid_file: Path, content: bytes | None
    ) -> None:
        process = user_process(data_dir)
        process.kill()
        process.communicate()
        lost = postmaster_of(data_dir)
        assert lost is not None
        pid_file.unlink()
        if content is not None:
            write_as_server(pid_file, content)

        assert await works(data_dir)

        assert not lost.is_running()

    async def test_does_not_take_a_server_on_another_directory_for_its_own(
        self, data_dir: Path, pid_file: Path, created: Path
    ) -> None:
        with private_directory() as other:
            other_dir = copy_of(created, other / "data")
            with run_embedded_postgres(other_dir):
                running = postmaster_of(other_dir)
                assert running is not None
                write_as_server(pid_file, (other_dir / "postgres" / "postmaster.pid").read_bytes())

                assert await works(data_dir)

                assert postmaster_of(other_dir) == running

    async def test_ignores_variables_of_other_installations(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in {"PGPORT": "5999", "PGDATA": "/nonexistent", "PGHOST": "db.internal"}.items():
            monkeypatch.setenv(name, value)

        assert await works(data_dir)

    async def test_puts_the_socket_of_a_long_path_into_a_private_directory(self, created: Path) -> None:
        with private_directory() as directory:
            parent = directory / ("long" * 25)
            parent.mkdir(mode=0o711)
            data_dir = copy_of(created, parent / "data")
            with run_embedded_postgres(data_dir) as logins:
                assert await fetch_as(logins.service, "SELECT 1") == [(1,)]
                socket_directory = Path(str(logins.service.query["host"]))
                assert socket_directory != data_dir / "postgres"
                assert stat.S_IMODE(socket_directory.stat().st_mode) == 0o700
            socket_directory.rmdir()

    def test_reports_a_process_that_holds_the_lock(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server, "_LOCK_SECONDS", 0.1)
        with (data_dir / "postgres.lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.truncate()
            lock.write("4711")
            lock.flush()

            with pytest.raises(EmbeddedPostgresFailed, match="number 4711"):
                stop_if_running(data_dir)

        stop_if_running(data_dir)


class TestCreation:
    async def test_continues_after_an_interruption(self) -> None:
        with private_directory() as directory:
            unfinished = directory / "data" / "postgres.new-abc"
            (unfinished / "base").mkdir(parents=True)
            (unfinished / "PG_VERSION").write_text("18\n")

            assert await works(directory / "data")

            assert not unfinished.exists()

    async def test_sets_a_directory_aside_that_an_earlier_version_did_not_finish(self) -> None:
        with private_directory() as directory:
            incomplete = directory / "data" / "postgres"
            (incomplete / "global").mkdir(parents=True)
            (incomplete / "PG_VERSION").write_text("18\n")

            assert await works(directory / "data")

            assert (directory / "data" / "postgres.incomplete-1" / "PG_VERSION").exists()

    def test_refuses_data_without_its_control_file(self, data_dir: Path) -> None:
        (data_dir / "postgres" / "global" / "pg_control").unlink()

        with pytest.raises(EmbeddedPostgresFailed, match="pg_control is missing; restore"):
            stop_if_running(data_dir)

    async def test_runs_an_older_directory_with_its_own_version(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with private_directory() as directory:
            with monkeypatch.context() as patched:
                patched.setattr(cluster, "NEWEST_VERSION", 16)
                stop_if_running(directory / "data")

            with run_embedded_postgres(directory / "data") as logins:
                await migrations.migrate(logins.owner)
                ((version,),) = await fetch_as(logins.service, "SHOW server_version_num")

            assert str(version).startswith("16")

    def test_refuses_a_version_that_it_does_not_have(self, data_dir: Path) -> None:
        (data_dir / "postgres" / "PG_VERSION").write_text("17\n")

        with pytest.raises(EmbeddedPostgresFailed) as refused:
            stop_if_running(data_dir)

        assert (
            "its data is of PostgreSQL 17, and this version of the service has PostgreSQL 16 and 18"
            in str(refused.value)
        )
        (data_dir / "postgres" / "PG_VERSION").write_text("18\n")


class TestStop:
    def test_of_the_first_of_two_users_keeps_the_server(self, data_dir: Path) -> None:
        with run_embedded_postgres(data_dir):
            with run_embedded_postgres(data_dir):
                pass

            assert postmaster_of(data_dir) is not None
        assert postmaster_of(data_dir) is None

    @pytest.mark.parametrize("killed", [0, 2], ids=["all end", "two were killed before"])
    async def test_of_all_users_at_once_leaves_no_server(self, data_dir: Path, killed: int) -> None:
        for _ in range(2):
            users = [user_process(data_dir) for _ in range(4)]
            assert postmaster_of(data_dir) is not None

            for user in users[:killed]:
                user.kill()
                user.communicate()
            for user in users[killed:]:
                user.send_signal(signal.SIGTERM)
            for user in users[killed:]:
                user.communicate()

            assert postmaster_of(data_dir) is None

    async def test_does_not_signal_a_process_that_got_the_number_of_a_crashed_server(
        self, data_dir: Path, pid_file: Path
    ) -> None:
        with unrelated_process(data_dir) as process:
            with run_embedded_postgres(data_dir):
                kill(data_dir)
                write_as_server(
                    pid_file, f"{process.pid}\n{data_dir}/postgres\n1\n5432\n\n\n\nready\n".encode()
                )

            assert process.poll() is None

    async def test_leaves_no_process_behind(self, data_dir: Path) -> None:
        with run_embedded_postgres(data_dir):
            pass

        async def processes() -> list[int]:
            return [
                it.pid
                for it in psutil.process_iter(["cmdline"])
                if str(data_dir) in " ".join(it.info["cmdline"] or ()) and it.pid != os.getpid()
            ]

        assert await until(processes, lambda found: not found) == []


class TestRoles:
    async def test_are_those_of_production(self, data_dir: Path) -> None:
        with run_embedded_postgres(data_dir) as logins:
            found = await fetch_as(
                logins.superuser,
                "SELECT rolname::text, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolcanlogin FROM pg_roles"
                " WHERE rolname LIKE 'byok%' ORDER BY 1",
            )
            ((owner,),) = await fetch_as(
                logins.superuser, "SELECT datdba::regrole::text FROM pg_database WHERE datname = 'byok'"
            )

        assert found == [
            ("byok_app", False, False, False, False, True),
            ("byok_owner", False, False, False, False, True),
            ("byok_service", False, False, False, False, False),
        ]
        assert owner == "byok_owner"

    async def test_get_the_tables_of_a_directory_that_a_superuser_migrated(self, data_dir: Path) -> None:
        """As before there was an owner: everything belongs to the superuser, and the roles do not exist."""
        with run_embedded_postgres(data_dir) as logins:
            postgres = logins.superuser.set(database="postgres")
            await fetch_as(postgres, "DROP DATABASE byok")
            for role in ("byok_app", "byok_owner", "byok_service"):
                await fetch_as(postgres, f"DROP ROLE {role}")
            await fetch_as(postgres, "CREATE DATABASE byok")
            await migrations.migrate(logins.superuser, "4e8a61c0d95b")
            await fetch_as(logins.superuser, "ALTER FUNCTION has_unfolded_usage(name) SET byok.org = ''")
            await fetch_as(
                logins.superuser,
                "INSERT INTO job_queue VALUES ('org_acme', 'kept', gen_random_uuid(), now())",
            )

        for _ in range(2):
            with run_embedded_postgres(data_dir) as logins:
                await migrations.migrate(logins.owner)
                owners = await fetch_as(
                    logins.superuser,
                    "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relnamespace = 'public'::regnamespace"
                    " UNION SELECT DISTINCT proowner::regrole::text FROM pg_proc"
                    " WHERE pronamespace = 'public'::regnamespace",
                )
                kept = await fetch_as(logins.service, "SELECT kind FROM job_queue")

                assert owners == [("byok_owner",)]
                assert kept == [("kept",)]
