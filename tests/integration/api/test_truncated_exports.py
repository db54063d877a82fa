"""A CSV export whose database becomes unavailable is cut, which the client notices and the log states once."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, nullcontext
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.core.services import Services
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.main import create_app
from tests.support.database.ledger import create_partitions
from tests.support.database.own_database import DatabaseRoles
from tests.support.fakes import FakeSecretStore
from tests.support.fault_injection import ApprovingProber
from tests.support.network.http_server import connect_to, request, serve_app
from tests.support.service_builder import assemble
from tests.support.tenant import MakeToken

ORGANIZATION = "org_export"
_ROWS = sa.text(
    "INSERT INTO usage_event (organization_id, started_at, event_id, correction, ingested_at, ingest_xid, mode, model,"
    " feature, outcome, usage_source, uncached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens,"
    " cache_read_tokens, output_tokens, web_search_requests, billed, flags)"
    " SELECT :organization, '2026-05-05Z', 'e' || n, 0, now(), 1, 'managed', 'm', 'f' || n, 'succeeded', 'reported',"
    " 0, 0, 0, 0, 0, 0, 0, 0 FROM generate_series(1, 40000) n"
)
EXPORTS = ["usage-events", "usage-report?starting_at=2026-05-01T00:00:00Z&group_by%5B%5D=feature"]


@pytest.fixture
async def port(
    services: Services, own_superuser: AsyncEngine, own_database: Database, owner_of_server: AsyncEngine
) -> AsyncIterator[int]:
    """A service on a socket whose database has the rows of one organization."""
    await create_partitions(
        own_superuser, datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 5, 31, tzinfo=UTC)
    )
    async with own_superuser.begin() as connection:
        await connection.execute(
            sa.text("DELETE FROM usage_event WHERE organization_id = :it"), {"it": ORGANIZATION}
        )
        await connection.execute(_ROWS, {"organization": ORGANIZATION})
    await own_superuser.dispose()
    assembled = assemble(
        services, units=UnitsOfWork(own_database), store=FakeSecretStore(), prober=ApprovingProber()
    )
    app = create_app(nullcontext(assembled))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.router.lifespan_context(app))
        yield await stack.enter_async_context(serve_app(app))
        await allow_connections(owner_of_server, own_superuser, allowed=True)


@pytest.fixture
async def owner_of_server(own_roles: DatabaseRoles) -> AsyncIterator[AsyncEngine]:
    """A connection to another database of the same server."""
    engine = create_async_engine(own_roles.of_database("postgres").superuser, isolation_level="AUTOCOMMIT")
    yield engine
    await engine.dispose()


async def allow_connections(server: AsyncEngine, database: AsyncEngine, *, allowed: bool) -> None:
    """Start or end an outage of the database."""
    name = database.url.database
    async with server.connect() as connection:
        await connection.execute(sa.text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {allowed}"))
        if not allowed:
            await connection.execute(
                sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :it"),
                {"it": name},
            )


def events_of(records: list[logging.LogRecord]) -> list[tuple[str, str]]:
    return [
        (record.name, str(record.msg.get("event")))
        for record in records
        if record.levelno >= logging.WARNING and isinstance(record.msg, dict)
    ] + [(record.name, record.getMessage()) for record in records if not isinstance(record.msg, dict)]


class TestOutageDuringAnExport:
    @pytest.mark.parametrize("export", EXPORTS)
    async def test_closes_the_connection_and_logs_one_line(
        self,
        port: int,
        export: str,
        own_superuser: AsyncEngine,
        owner_of_server: AsyncEngine,
        make_token: MakeToken,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        head: Any = (
            f"Authorization: Bearer {make_token('billing-viewer', ORGANIZATION)}",
            "Accept: text/csv",
        )
        async with connect_to(port) as client:
            await client.send(request(f"/v1/organizations/{ORGANIZATION}/{export}", *head))
            start = await client.reader.readuntil(b"\r\n\r\n")
            await allow_connections(owner_of_server, own_superuser, allowed=False)
            async with asyncio.timeout(60):
                body = await client.reader.read()

        assert b" 200 OK" in start
        assert b",f" in body
        assert not body.endswith(b"0\r\n\r\n")
        assert events_of(caplog.records) == [
            ("byok.database", "database_unavailable"),
            ("byok.access", "response_truncated"),
        ]
