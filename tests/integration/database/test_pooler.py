"""PgBouncer in transaction mode: no transaction sees the organization, the role or the settings of another one.

The database is the module's own: in the one that tests share, the application of other tests holds the instance lock.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from app.auth.principal import Caller
from app.composition.database_access import database_access, prepare_database
from app.core.clock import new_id
from app.core.errors import DatabaseUnavailable
from app.database.connections import read_only_transaction, shares_sessions
from app.database.engine import Database, DatabaseLogin
from app.database.instance_lock import Lock, LockTaken, share_instance_lock, take_exclusive_locks
from app.database.ledger_lock import BEGIN_WITH_SHARED_LOCK, LedgerLock
from app.database.statements import Query
from app.database.unit_of_work import UnitsOfWork
from app.settings.environment import SettingsRefused, load_settings
from app.spend_limits.reservation_service import ReservationRequest, ReservationService
from tests.support.database.own_database import DatabaseRoles
from tests.support.database.pooler import Pooler, pooler_before
from tests.support.requirements import needs_pooler
from tests.support.usage.unpriced_ingestion import NoPrices

pytestmark = needs_pooler

_STATE = Query(
    sa.text(
        "SELECT current_setting('byok.org', true) AS organization, current_user AS role, pg_backend_pid() AS session,"
        " current_setting('statement_timeout') AS statement_timeout, current_setting('jit') AS jit"
    )
)
_CLIENTS, _TRANSACTIONS = 12, 20


@pytest.fixture(scope="module", params=[False, True], ids=["last used", "round robin"])
def pooler(request: pytest.FixtureRequest, own_roles: DatabaseRoles) -> Iterator[Pooler]:
    with pooler_before(own_roles.service, pool_size=3, round_robin=request.param) as pooler:
        yield pooler


@pytest.fixture(scope="module")
async def pooled(pooler: Pooler, own_roles: DatabaseRoles) -> AsyncIterator[Database]:
    direct = own_roles.service
    login = DatabaseLogin(url=pooler.url(direct), set_role=True, direct_url=direct)
    database = Database(login, pool_size=_CLIENTS, timeout_seconds=7)
    yield database
    await database.close()


def text(url: sa.URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


async def prepare(**database: str) -> None:
    settings = load_settings(_env_file=None, database=database)
    with database_access(settings) as access:
        await prepare_database(settings, access)


@dataclass(frozen=True, kw_only=True)
class Urls:
    pooled: str
    unmarked: str
    direct: str
    owner: str


@pytest.fixture
def urls(pooler: Pooler, own_roles: DatabaseRoles) -> Urls:
    marked = pooler.url(own_roles.service)
    return Urls(
        pooled=text(marked),
        unmarked=text(marked.difference_update_query(["pgbouncer"])),
        direct=text(own_roles.service),
        owner=text(own_roles.owner),
    )


async def use_every_session(database: Database) -> None:
    """Run one statement with many values at once, in sessions of the server that have prepared it or not."""
    double = Query(sa.text("SELECT CAST(:number AS integer) * 2 AS number, CAST(:text AS jsonb) AS json"))

    async def use(number: int) -> None:
        async with database.session(None, read_only=True) as session:
            found = await session.one(double, number=number, text=f'{{"n": {number}}}')
        assert (found["number"], found["json"]) == (number * 2, {"n": number})

    await asyncio.gather(*(use(number) for number in range(100)))


class TestTransactions:
    async def test_have_their_own_organization_role_and_settings(self, pooled: Database) -> None:
        async def use(client: int) -> set[int]:
            sessions = set()
            for number in range(_TRANSACTIONS):
                organization = f"org_{client}_{number}"
                async with pooled.session(organization, read_only=True) as session:
                    state = await session.one(_STATE)
                assert state["organization"] == organization
                assert state["role"] == "byok_service"
                assert (state["statement_timeout"], state["jit"]) == ("7s", "off")
                sessions.add(state["session"])
            return sessions

        used = await asyncio.gather(*map(use, range(_CLIENTS)))

        assert len(set().union(*used)) <= 3

    async def test_leave_nothing_in_the_session(self, pooled: Database) -> None:
        async with pooled.session("org_acme") as session:
            await session.one(_STATE)
            await session.commit()

        async with read_only_transaction(pooled._login.url) as connection:
            state = await connection.fetchrow(_STATE.text)

        assert (state["organization"] or "", state["role"]) == ("", "byok_app")
        assert state["statement_timeout"] != "7s"

    async def test_use_their_values_again_and_again(self, pooled: Database) -> None:
        await use_every_session(pooled)

    async def test_of_a_autocommit_read_show_one_organization(self, pooled: Database) -> None:
        """Statements of other clients must not run in its place."""

        async def use(client: int) -> None:
            for number in range(_TRANSACTIONS):
                organization = f"org_{client}_{number}"
                state = await pooled.autocommit_read(organization).one(_STATE)
                assert (state["organization"], state["role"]) == (organization, "byok_service")

        await asyncio.gather(*map(use, range(_CLIENTS)), *(use_every_session(pooled) for _ in range(3)))

    async def test_of_autocommit_calls_are_committed(self, pooled: Database) -> None:
        reservations = ReservationService(UnitsOfWork(pooled), NoPrices())
        request = ReservationRequest(
            amount=1, model=None, endpoint_id=None, feature=None, ttl=timedelta(minutes=1)
        )

        async def reserve(client: int) -> None:
            caller = Caller(subject="service", organization_id=f"org_{client}", request_id="")
            for _ in range(_TRANSACTIONS):
                made = await reservations.reserve(caller, request, reservation_id=new_id())
                assert await reservations.find(caller.organization_id, made.id) == made

        await asyncio.gather(*map(reserve, range(_CLIENTS)))

    async def test_end_at_the_timeout(self, pooler: Pooler, own_roles: DatabaseRoles) -> None:
        database = Database(
            DatabaseLogin(url=pooler.url(own_roles.service), set_role=True), timeout_seconds=0.2
        )
        with pytest.raises(DatabaseUnavailable):
            async with database.session(None, read_only=True) as session:
                await session.rows(Query(sa.text("SELECT pg_sleep(30)")))
        async with database.session(None, read_only=True) as session:
            await session.one(_STATE)
        await database.close()


class TestLocks:
    async def test_of_the_ledger_hold_until_the_transaction_ends(self, pooled: Database) -> None:
        async with (
            pooled.session("org_lock", first_statement=BEGIN_WITH_SHARED_LOCK),
            pooled.session("org_lock") as other,
        ):
            assert not await LedgerLock(other, "org_lock").try_lock_exclusively()
        async with pooled.session("org_lock") as other:
            assert await LedgerLock(other, "org_lock").try_lock_exclusively()

    async def test_of_instances_belong_to_a_session_of_the_server(self, pooled: Database) -> None:
        async with share_instance_lock(pooled):
            await use_every_session(pooled)
            with pytest.raises(LockTaken):
                async with take_exclusive_locks(pooled, Lock.INSTANCES):
                    pass
        async with take_exclusive_locks(pooled, Lock.INSTANCES):
            with pytest.raises(LockTaken):
                async with share_instance_lock(pooled):
                    pass


class TestSessionMode:
    async def test_works_with_the_same_settings(self, own_roles: DatabaseRoles) -> None:
        direct = own_roles.service
        with pooler_before(direct, pool_size=_CLIENTS, pool_mode="session") as pooler:
            login = DatabaseLogin(url=pooler.url(direct), set_role=True, direct_url=direct)
            database = Database(login, pool_size=_CLIENTS)
            await use_every_session(database)
            await database.close()

            assert not await shares_sessions(pooler.url(direct))

    async def test_is_refused_without_the_mark(self, own_roles: DatabaseRoles) -> None:
        """PgBouncer refuses the parameters of a session."""
        direct, owner = own_roles.service, text(own_roles.owner)
        with pooler_before(direct, pool_mode="session") as pooler:
            url = text(pooler.url(direct).difference_update_query(["pgbouncer"]))
            with pytest.raises(
                SettingsRefused, match=r"BYOK_DATABASE__URL: .* set pgbouncer=true for a pooler"
            ):
                await prepare(url=url, migration_url=owner)


class TestDetection:
    async def test_distinguishes_a_pooler_from_a_server(self, urls: Urls) -> None:
        assert await shares_sessions(sa.make_url(urls.unmarked).set(drivername="postgresql+asyncpg"))
        assert not await shares_sessions(sa.make_url(urls.direct).set(drivername="postgresql+asyncpg"))

    async def test_lets_a_marked_pooler_start(self, urls: Urls) -> None:
        await prepare(url=urls.pooled, direct_url=urls.direct, migration_url=urls.owner)

    async def test_names_the_service_if_only_its_server_does_not_respond(self, urls: Urls) -> None:
        with pytest.raises(SettingsRefused, match=r"^BYOK_DATABASE__URL: no database server accepts"):
            await prepare(url="postgresql://byok_app@127.0.0.1:1/byok", migration_url=urls.owner)

    @pytest.mark.parametrize(
        ("settings", "variable"),
        [
            ({"url": "unmarked"}, "BYOK_DATABASE__URL: a pooler in transaction mode is between"),
            (
                {"url": "pooled", "direct_url": "unmarked"},
                "BYOK_DATABASE__DIRECT_URL: leads to a pooler in transaction mode",
            ),
        ],
    )
    async def test_refuses_one_that_the_settings_do_not_know(
        self, urls: Urls, settings: dict[str, str], variable: str
    ) -> None:
        values: dict[str, Any] = {name: getattr(urls, value) for name, value in settings.items()}

        with pytest.raises(SettingsRefused) as refused:
            await prepare(**values, migration_url=urls.owner)

        assert str(refused.value).startswith(variable)
