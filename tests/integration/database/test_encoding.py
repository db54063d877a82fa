"""The database of `roles.sql` is in UTF-8, whatever the encoding of the server. In another one, some texts cannot be stored."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import sqlalchemy as sa

from app.database.migrations import newest_revision
from tests.support.database.bare_servers import BareServer, bare_server, installations
from tests.support.processes.commands import byok


@pytest.fixture(scope="module", params=["SQL_ASCII", "LATIN1"])
def bare(request: pytest.FixtureRequest) -> Iterator[BareServer]:
    """As Debian sets it up on a machine without a locale, and with an old one."""
    with bare_server(next(iter(installations().values())), encoding=request.param) as server:
        yield server


@pytest.fixture
async def administrator(bare: BareServer) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(_text(bare.superuser))
    await connection.execute("DROP DATABASE IF EXISTS byok WITH (FORCE)")
    yield connection
    await connection.close()


def _text(url: sa.URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


async def test_roles_sql_creates_the_database_in_utf_8(
    bare: BareServer, administrator: "asyncpg.Connection[asyncpg.Record]", tmp_path: Path
) -> None:
    bare.run_roles_script(bare.superuser, OWNER_PASSWORD="owner", SERVICE_PASSWORD="service")

    assert await administrator.fetchval("SHOW server_encoding") in {"SQL_ASCII", "LATIN1"}
    connection = await asyncpg.connect(_text(bare.login("byok_owner", "owner")))
    assert await connection.fetchval("SHOW server_encoding") == "UTF8"
    assert await connection.fetchval("SELECT char_length('\u540d\u524d')") == 2
    await connection.close()


async def test_a_database_of_another_encoding_is_not_migrated(
    bare: BareServer, administrator: "asyncpg.Connection[asyncpg.Record]", tmp_path: Path
) -> None:
    bare.run_roles_script(bare.superuser, OWNER_PASSWORD="owner", SERVICE_PASSWORD="service")
    await administrator.execute("DROP DATABASE byok")
    await administrator.execute("CREATE DATABASE byok OWNER byok_owner")

    migrated = await byok(
        "migrate", cwd=tmp_path, DATABASE__MIGRATION_URL=_text(bare.login("byok_owner", "owner"))
    )

    assert migrated.code == 2
    assert migrated.stderr.startswith("Error: BYOK_DATABASE__MIGRATION_URL: the database has the encoding ")
    assert "drop it and run docs/deploy/roles.sql" in migrated.stderr


async def test_doctor_says_only_that_an_empty_database_is_not_migrated(
    bare: BareServer, administrator: "asyncpg.Connection[asyncpg.Record]", tmp_path: Path
) -> None:
    """It also reported that the database cannot be reached."""
    bare.run_roles_script(bare.superuser, OWNER_PASSWORD="owner", SERVICE_PASSWORD="service")

    checked = await byok(
        "doctor",
        cwd=tmp_path,
        DATABASE__URL=_text(bare.login("byok_app", "service")),
        PROVIDER__DEFAULT_BASE_URL="http://127.0.0.1:9",
    )

    failed = [line for line in checked.stdout.splitlines() if line.startswith("fail")]
    assert (checked.code, failed) == (
        2,
        [f"fail  schema: at no revision, but {newest_revision()} is required; run byok migrate"],
    )
