"""When a process reads whether there are cells, and what that costs."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa

from app.core.errors import DatabaseUnavailable
from app.database.engine import Database, DatabaseLogin
from app.database.instance_lock import Lock, share_instance_lock
from app.database.migrations import create_cell
from app.database.statements import Query
from tests.support.database.own_database import DatabaseRoles, copied_database, run_as_superuser
from tests.support.polling import until

_SEARCH_PATH = Query(sa.text("SELECT current_setting('search_path') AS path"))
_REPORTS = 3


@pytest.fixture
async def roles(template_database: DatabaseRoles) -> AsyncIterator[DatabaseRoles]:
    async with copied_database(template_database) as roles:
        yield roles


class TestOneCell:
    async def test_takes_no_connection(self, roles: DatabaseRoles) -> None:
        database = Database(roles.login, pool_size=1, timeout_seconds=1)
        async with database.session(None):
            assert await database.cells() == ["public"]
        await database.close()

    async def test_is_not_assumed_while_the_server_cannot_be_reached(self, roles: DatabaseRoles) -> None:
        url = roles.service.set(host="127.0.0.1", port=1, query={})
        with pytest.raises(DatabaseUnavailable):
            await Database(DatabaseLogin(url=url, set_role=False), timeout_seconds=1).cells()


class TestReplica:
    async def test_lets_first_reports_wait_at_the_same_time(self, roles: DatabaseRoles) -> None:
        """While it does not respond, each of them waits one timeout and not that of the others too."""
        waiting, all_wait = 0, asyncio.Event()

        async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal waiting
            waiting += 1
            if waiting == _REPORTS:
                all_wait.set()
            await all_wait.wait()
            writer.close()

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        url = roles.service.set(host="127.0.0.1", port=server.sockets[0].getsockname()[1], query={})
        login = DatabaseLogin(url=url, set_role=False)
        replica = Database(login, timeout_seconds=60, is_replica=True)
        async with asyncio.timeout(30):
            results = await asyncio.gather(*(replica.ping() for _ in range(_REPORTS)), return_exceptions=True)
        assert [type(it) for it in results] == [DatabaseUnavailable] * _REPORTS
        server.close()
        await replica.close()


class TestLostInstanceLock:
    async def test_lets_the_instance_look_for_cells_again(self, roles: DatabaseRoles) -> None:
        database = Database(roles.login)
        async with share_instance_lock(database):
            assert await database.cells() == ["public"]
            await create_cell(roles.owner, "cell_1")
            await run_as_superuser(roles, "UPDATE cells.cell SET takes_new = (name = 'cell_1')")
            await run_as_superuser(
                roles,
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
                f" AND (classid::int8 << 32 | objid::int8) = {int(Lock.INSTANCES)}"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            )
            await until(database.cells, lambda cells: list(cells) == ["public", "cell_1"])
            async with database.session("org_x") as session:
                assert (await session.one(_SEARCH_PATH))["path"] == "cell_1"
        await database.close()
