"""Cells: an organization's transactions run in its cell, also while it moves."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa

from app.cell_commands import move
from app.composition.database_access import DatabaseAccess
from app.core.clock import now
from app.database.cells.directory import in_cell
from app.database.cells.moves import MoveRefused, move_organization
from app.database.engine import Database
from app.database.statements import Query
from app.database.unit_of_work import UnitsOfWork
from app.jobs.queue import JobKind, QueueRepository
from app.relay.ending.lost_call_worker import LostCallWorker
from app.secret_maintenance.progress import OperationRefused
from app.settings.settings import Settings
from app.usage.service import IngestionService
from app.usage_reports.rollup_worker import RollupWorker
from tests.support.database.celled import Celled, ingest
from tests.support.database.own_database import run_as_superuser
from tests.support.database.pooler import pooler_before
from tests.support.requests.usage_events import event
from tests.support.requirements import needs_pooler
from tests.support.tenant import Tenant

_SEARCH_PATH = Query(sa.text("SELECT current_setting('search_path') AS path"))


def at_line(start: str, action: Callable[[], Coroutine[Any, Any, object]]) -> Callable[[str], object]:
    """A progress that runs the action when a line begins like this, before the move continues."""

    def progress(line: str) -> None:
        if line.startswith(start):
            with ThreadPoolExecutor(1) as thread:
                thread.submit(lambda: asyncio.run(action())).result()

    return progress


def place_lock(tenant: Tenant, kind: str = "") -> str:
    return f"SELECT pg_advisory_xact_lock{kind}(hashtext('byok.cell'), hashtext('{tenant.organization}'))"


class TestEnter:
    async def test_lists_a_new_organization_when_it_first_writes(self, celled: Celled) -> None:
        tenant = celled.tenant()
        assert (await tenant.get(f"{tenant.path}/readiness")).status_code == 200
        assert await celled.cell_of(tenant) is None

        assert (await ingest(tenant, event())).status_code == 200

        assert await celled.cell_of(tenant) == "cell_1"
        assert await celled.count("cell_1", "usage_event", tenant) == 1
        assert await celled.count("public", "usage_event", tenant) == 0

    @pytest.mark.parametrize("organization", ["_operator", "_services", "_x"])
    async def test_lists_a_reserved_organization_in_the_first_cell(
        self, celled: Celled, organization: str
    ) -> None:
        assert await celled.rows("SELECT FROM cells.cell WHERE name = 'public' AND NOT takes_new")
        tenant = Tenant(http=celled.http, organization=organization, token=celled.token)
        # The start may have listed it.
        await run_as_superuser(
            celled.roles, f"DELETE FROM cells.organization_cell WHERE organization_id = '{organization}'"
        )
        database = Database(celled.roles.login)
        async with database.session(organization) as session:
            assert (await session.one(_SEARCH_PATH))["path"] == "public"
            await session.commit()
        await database.close()

        assert await celled.cell_of(tenant) == "public"

    async def test_corrects_what_another_process_knew(self, celled: Celled) -> None:
        tenant, other = celled.tenant(), Database(celled.roles.login)
        await ingest(tenant, event())
        for cell in ("cell_1", "cell_2"):
            await celled.move(tenant, cell)
            async with other.session(tenant.organization) as session:
                assert (await session.one(_SEARCH_PATH))["path"] == cell
        await other.close()

    async def test_jobs_run_in_every_cell(self, celled: Celled) -> None:
        tenant = celled.tenant()
        await ingest(tenant, event())
        assert await celled.services[RollupWorker].run() == 0
        with in_cell("cell_1"):
            assert await celled.services[RollupWorker].run() == 1


class TestMove:
    async def test_moves_every_row_and_deletes_the_old_ones(self, celled: Celled) -> None:
        tenant = celled.tenant()
        await ingest(tenant, event(), event())
        before = (await tenant.get(f"{tenant.path}/usage-events")).json()["data"]

        moved = await celled.move(tenant, "cell_2")

        assert (moved.source, moved.target) == ("cell_1", "cell_2")
        assert (await tenant.get(f"{tenant.path}/usage-events")).json()["data"] == before
        assert await celled.count("cell_1", "usage_event", tenant) == 0
        assert await celled.count("cell_2", "usage_event_key", tenant) == 2
        assert (await celled.move(tenant, "cell_2")).rows == 0

    async def test_counts_each_event_once_while_the_organization_moves(self, celled: Celled) -> None:
        tenant, stop = celled.tenant(), asyncio.Event()
        sent = 1
        await ingest(tenant, first := event())

        async def client() -> None:
            nonlocal sent
            while not stop.is_set():
                new = event()
                sent += 1
                # On a slow machine a move takes longer than the timeout of a request.
                while (response := await ingest(tenant, new, first)).status_code == 503:
                    pass
                assert response.status_code == 200, response.text

        async def roll_up() -> None:
            while not stop.is_set():
                for cell in ("public", "cell_1", "cell_2"):
                    with in_cell(cell):
                        await celled.services[RollupWorker].run(stop)

        tasks = [asyncio.create_task(it) for it in (client(), client(), client(), roll_up())]
        try:
            for cell in ("public", "cell_2"):
                await celled.move(tenant, cell)
        finally:
            stop.set()
            await asyncio.gather(*tasks)

        assert await celled.count("cell_2", "usage_event", tenant) == sent
        rolled_up = await celled.rows(
            "SELECT coalesce(sum(requests), 0) AS n FROM cell_2.usage_day WHERE organization_id = $1",
            tenant.organization,
        )
        waiting = await celled.rows(
            "SELECT count(*) AS n FROM cell_2.usage_event WHERE organization_id = $1 AND ingest_xid >= coalesce("
            "(SELECT folded_before FROM cell_2.usage_fold WHERE organization_id = $1), 0)",
            tenant.organization,
        )
        assert rolled_up[0]["n"] + waiting[0]["n"] == sent
        for cell in ("public", "cell_1"):
            assert await celled.count(cell, "usage_event", tenant) == 0

    @pytest.mark.parametrize("line", [1, 20, 35])
    async def test_may_be_repeated_after_kill_9(self, celled: Celled, line: int) -> None:
        tenant = celled.tenant()
        await ingest(tenant, event(), event())
        program = (
            "import asyncio, sys, sqlalchemy as sa\nfrom app.database.cells.moves import move_organization\n"
            "asyncio.run(move_organization(sa.make_url(sys.argv[1]), sys.argv[2], 'cell_2',"
            " lambda line: print(line, flush=True) or sys.stdin.readline()))"
        )
        owner = celled.roles.owner.render_as_string(hide_password=False)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, owner, tenant.organization),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[3],
        )
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(line):
            if number:
                process.stdin.write(b"\n")
            await process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        await process.wait()

        await celled.move(tenant, "cell_2")

        assert await celled.cell_of(tenant) == "cell_2"
        assert await celled.count("cell_2", "usage_event", tenant) == 2
        assert await celled.count("cell_1", "usage_event", tenant) == 0

    async def test_refuses_what_does_not_exist(
        self, celled: Celled, cell_access: DatabaseAccess, settings: Settings
    ) -> None:
        assert await celled.rows("SELECT FROM cells.cell")
        with pytest.raises(OperationRefused, match="no such cell"):
            await move(settings, cell_access, "org_a", "cell_9", lambda _: None)
        with pytest.raises(OperationRefused, match="no rows"):
            await move(settings, cell_access, "org_a", "cell_2", lambda _: None)


class TestConcurrentWork:
    """What other commands, jobs and requests do while an organization moves."""

    async def test_another_move_loses_no_row(self, celled: Celled) -> None:
        tenant = celled.tenant()
        await ingest(tenant, event(), event())

        with pytest.raises(MoveRefused, match="third cell"):
            await celled.move(tenant, "cell_2", at_line("Deleting", lambda: celled.move(tenant, "public")))

        assert await celled.cell_of(tenant) == "public"
        assert [await celled.count(it, "usage_event", tenant) for it in ("public", "cell_1", "cell_2")] == [
            2,
            0,
            0,
        ]

    async def test_another_command_has_to_wait(
        self, celled: Celled, cell_access: DatabaseAccess, settings: Settings
    ) -> None:
        tenant = celled.tenant()
        await ingest(tenant, event())

        async def move_again() -> None:
            with pytest.raises(OperationRefused, match="Another maintenance command"):
                await move(settings, cell_access, tenant.organization, "public", lambda _: None)

        progress = at_line("Deleting", move_again)
        assert (await move(settings, cell_access, tenant.organization, "cell_2", progress)).rows

    @needs_pooler
    async def test_needs_a_session_of_the_server(self, celled: Celled) -> None:
        tenant = celled.tenant()
        await ingest(tenant, event())

        with pooler_before(celled.roles.owner) as pooler, pytest.raises(MoveRefused, match="pooler"):
            await move_organization(
                pooler.url(celled.roles.owner), tenant.organization, "cell_2", lambda _: None
            )

        assert await celled.cell_of(tenant) == "cell_1"

    async def test_calls_in_progress_are_not_lost(self, celled: Celled) -> None:
        tenant = celled.tenant()
        await ingest(tenant, event())
        await celled.add_calls(tenant, "cell_1")

        await celled.move(tenant, "cell_2")

        with in_cell("cell_2"):
            assert await celled.services[LostCallWorker].run() == 0
        found = await celled.rows(
            "SELECT last_seen_at > now() - interval '1 minute' AS recent FROM cell_2.spend_reservation"
            " WHERE organization_id = $1 ORDER BY last_seen_at",
            tenant.organization,
        )
        assert [row["recent"] for row in found] == [True, None]

    async def test_lost_calls_of_others_end(self, celled: Celled) -> None:
        tenants = [celled.tenant() for _ in range(3)]
        for tenant in tenants:
            await ingest(tenant, event())
            await celled.add_calls(tenant, "cell_1")
        database = Database(celled.roles.login, timeout_seconds=0.5)
        worker = LostCallWorker(UnitsOfWork(database), celled.services[IngestionService])

        async with celled.transaction(place_lock(tenants[0])):
            with in_cell("cell_1"):
                assert await worker.run() == 2
        with in_cell("cell_1"):
            assert await worker.run() == 1
        await database.close()

    async def test_no_job_is_left_behind(self, celled: Celled) -> None:
        tenant, counts = celled.tenant(), list[int]()
        await ingest(tenant, event())

        async def count_jobs() -> None:
            counts.extend([await celled.count(cell, "job_queue", tenant) for cell in ("cell_1", "cell_2")])

        await celled.move(tenant, "cell_2", at_line("Deleting", count_jobs))

        assert counts == [0, 1]

    async def test_jobs_do_not_change_what_is_copied(self, celled: Celled) -> None:
        tenant, claimed = celled.tenant(), list[str]()
        await ingest(tenant, event())
        await celled.add_calls(tenant, "cell_1")

        async def work() -> None:
            database = Database(celled.roles.login)
            with in_cell("cell_1"):
                async with UnitsOfWork(database).unscoped(QueueRepository) as (queue, session):
                    claimed.extend(
                        item.organization_id for item in await queue.claim(JobKind.FOLD_USAGE, now=now())
                    )
                    await session.commit()
            await database.close()
            await run_as_superuser(
                celled.roles,
                f"DELETE FROM cell_1.spend_reservation WHERE organization_id = '{tenant.organization}'",
            )

        await celled.move(tenant, "cell_2", at_line("Copying job_queue", work))

        assert claimed == []
        assert await celled.count("cell_2", "spend_reservation", tenant) == 2

    async def test_a_claim_at_the_beginning_lets_it_copy_again(self, celled: Celled) -> None:
        tenant = celled.tenant()
        await ingest(tenant, event())

        async with celled.transaction("UPDATE cell_1.job_queue SET due_at = '2000-01-01Z'"):
            moving = asyncio.create_task(celled.move(tenant, "cell_2"))
            await celled.until_waits()
        await moving

        found = await celled.rows(
            "SELECT extract(year FROM due_at)::int AS year FROM cell_2.job_queue WHERE organization_id = $1",
            tenant.organization,
        )
        assert [row["year"] for row in found] == [2000]

    async def test_a_migration_hides_no_column(self, celled: Celled) -> None:
        tenant = celled.tenant()
        await ingest(tenant, event())

        async with celled.transaction(place_lock(tenant, "_shared")):
            moving = asyncio.create_task(celled.move(tenant, "cell_2"))
            await celled.until_waits()
            for cell in ("public", "cell_1", "cell_2"):
                await run_as_superuser(
                    celled.roles,
                    f"ALTER TABLE {cell}.usage_event_key ADD COLUMN note text",
                    f"UPDATE {cell}.usage_event_key SET note = 'kept'",
                )
        await moving

        found = await celled.rows(
            "SELECT note FROM cell_2.usage_event_key WHERE organization_id = $1", tenant.organization
        )
        assert [row["note"] for row in found] == ["kept"]

    async def test_a_migration_waits(self, celled: Celled) -> None:
        tenant, refused = celled.tenant(), list[str]()
        await ingest(tenant, event())

        async def change_revision() -> None:
            for cell in ("cell_1", "cell_2"):
                try:
                    async with celled.transaction("SET LOCAL lock_timeout = '50ms'") as connection:
                        await connection.execute(f"UPDATE {cell}.alembic_version SET version_num = 'x'")
                except asyncpg.LockNotAvailableError:
                    refused.append(cell)

        await celled.move(tenant, "cell_2", at_line("Copying job_queue", change_revision))

        assert refused == ["cell_1", "cell_2"]
