"""Links to exports: opened without a token, once, within a minute, with the rights of their creator to one file."""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.jobs.retention import ExpiredRowsWorker
from app.rate_limits.service import WriteKind, WriteLimiter
from tests.support.database.billed_ledger import current_month
from tests.support.database.rows import change, fetch
from tests.support.output_sinks import Sinks, capture_logs, capture_spans, next_transaction, tables_of
from tests.support.provider.fake_anthropic import make_key
from tests.support.requests.rotation import status_and_code
from tests.support.requests.usage_events import Ledger, event
from tests.support.service_builder import client_of
from tests.support.tenant import MakeTenant, MakeToken, Tenant

EVENTS = "usage-events.csv"


async def create_link(tenant: Tenant, file: str = EVENTS, **query: Any) -> str:
    """Create a link. Returns its path."""
    response = await tenant.post(f"{tenant.path}/{file}/links", params=query)
    assert response.status_code == 201, response.text
    path: str = response.json()["path"]
    return path


@asynccontextmanager
async def locked_table(superuser: AsyncEngine) -> AsyncIterator[None]:
    """Make every statement about links wait."""
    async with superuser.begin() as connection:
        await connection.execute(sa.text("LOCK TABLE export_link IN ACCESS EXCLUSIVE MODE"))
        yield


async def open_link(http: httpx.AsyncClient, path: str) -> httpx.Response:
    """Open a link as a browser does: without a token."""
    return await http.get(path)


class TestOpenLink:
    @pytest.mark.parametrize(
        "file", [EVENTS, "usage-report.csv", f"billing-statements/{current_month()}.csv"]
    )
    async def test_sends_the_same_file_as_the_export(
        self, ledger: Ledger, http: httpx.AsyncClient, file: str
    ) -> None:
        await ledger.accepted(event(feature="chat"), event(feature="search"))
        query = {
            "feature[]": "chat",
            "starting_at": "2026-01-01T00:00:00Z",
            "ending_at": "2036-01-01T00:00:00Z",
        }
        if not file.startswith("usage"):
            query = {}
        exported = await ledger.tenant.get(f"{ledger.tenant.path}/{file}", params=query)

        opened = await open_link(http, await create_link(ledger.tenant, file, **query))

        assert (opened.status_code, opened.content) == (200, exported.content)
        for name in ("Content-Type", "Content-Disposition", "Cache-Control"):
            assert opened.headers[name] == exported.headers[name]
        assert opened.headers["Data-As-Of"] >= exported.headers["Data-As-Of"]

    async def test_works_once(self, tenant: Tenant, http: httpx.AsyncClient) -> None:
        path = await create_link(tenant)

        opened = await asyncio.gather(*(open_link(http, path) for _ in range(8)))

        assert sorted(response.status_code for response in opened) == [200] + [404] * 7
        refused = await open_link(http, path)
        assert (status_and_code(refused), refused.headers["Cache-Control"]) == (
            (404, "not_found"),
            "no-store",
        )

    async def test_fails_after_a_minute(
        self, tenant: Tenant, http: httpx.AsyncClient, superuser: AsyncEngine
    ) -> None:
        path = await create_link(tenant)
        await change(
            superuser,
            "UPDATE export_link SET expires_at = (expires_at AT TIME ZONE 'UTC' - interval '60 seconds') AT TIME ZONE 'UTC'"
            " WHERE organization_id = :organization",
            organization=tenant.organization,
        )

        assert status_and_code(await open_link(http, path)) == (404, "not_found")
        links = "SELECT 1 FROM export_link WHERE organization_id = :organization"
        assert (
            len(await fetch(superuser, links, organization=tenant.organization)) == 1
        )  # nothing was written

    @pytest.mark.parametrize("organization", [make_key()[:64], "_operator"], ids=["key", "reserved"])
    async def test_does_not_ask_the_database_about_an_id_that_no_customer_has(
        self, http: httpx.AsyncClient, superuser: AsyncEngine, organization: str
    ) -> None:
        async with locked_table(superuser):
            response = await open_link(http, f"/exports/{organization}/{'A' * 43}")

        assert status_and_code(response) == (404, "not_found")

    async def test_takes_few_connections_however_many_are_tried(
        self, tenant: Tenant, http: httpx.AsyncClient, superuser: AsyncEngine
    ) -> None:
        paths = [f"/exports/org_{n}/{'A' * 43}" for n in range(20)]
        paths += [f"/exports/{tenant.organization}/{'A' * 42}{letter}" for letter in "AEIMQUYcgk"]
        async with locked_table(superuser):
            opened = [asyncio.create_task(open_link(http, path)) for path in paths]
            refused = [await done for done in itertools.islice(asyncio.as_completed(opened), len(paths) - 2)]
            other = await tenant.get(f"{tenant.path}/usage-mode")

        assert {status_and_code(response) for response in refused} == {(429, "concurrency_limited")}
        assert other.status_code == 200
        await asyncio.gather(*opened)

    async def test_works_during_a_flood_of_guessed_codes(
        self, tenant: Tenant, make_tenant: MakeTenant, http: httpx.AsyncClient
    ) -> None:
        real, organizations = await create_link(tenant), [tenant, make_tenant(), make_tenant()]
        guesses = [f"/exports/{it.organization}/{secrets.token_urlsafe(32)}" for it in organizations * 300]

        flood = [asyncio.create_task(open_link(http, path)) for path in guesses]
        await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)  # it is in full swing
        opened = await open_link(http, real)

        assert opened.status_code == 200
        assert {status_and_code(response) for response in await asyncio.gather(*flood)} == {
            (404, "not_found")
        }

    async def test_fails_for_another_organization(
        self, tenant: Tenant, make_tenant: MakeTenant, http: httpx.AsyncClient
    ) -> None:
        other, path = make_tenant(), await create_link(tenant)

        moved = path.replace(tenant.organization, other.organization)

        assert status_and_code(await open_link(http, moved)) == (404, "not_found")
        assert (await open_link(http, path)).status_code == 200

    async def test_is_not_opened_by_other_methods(self, tenant: Tenant, http: httpx.AsyncClient) -> None:
        path = await create_link(tenant)

        for method in ("HEAD", "OPTIONS", "POST"):
            assert (await http.request(method, path)).status_code == 405

        assert (await open_link(http, path)).status_code == 200


class TestCreateLink:
    @pytest.mark.parametrize(
        ("query", "code"),
        [
            ({"feature": "chat"}, "unknown_field"),
            ({"outcome[]": "lost"}, "validation_failed"),
            ({"time_zone": "Mars"}, "time_zone_invalid"),
            ({"feature[]": make_key()}, "looks_like_key"),
        ],
    )
    async def test_checks_the_query_of_the_export(
        self, tenant: Tenant, query: dict[str, str], code: str
    ) -> None:
        response = await tenant.post(f"{tenant.path}/{EVENTS}/links", params=query)

        assert response.status_code == 422
        assert code in {response.json()["code"], *(error["code"] for error in response.json()["errors"])}

    async def test_needs_the_scope_of_the_export(
        self, tenant: Tenant, make_tenant: MakeTenant, make_token: MakeToken
    ) -> None:
        token = make_token(organization=tenant.organization, scopes=["billing:read"])
        billing = replace(tenant, token=token)

        response = await billing.post(f"{billing.path}/{EVENTS}/links")

        assert status_and_code(response) == (403, "insufficient_scope")
        foreign = await make_tenant().post(f"{tenant.path}/{EVENTS}/links")
        assert status_and_code(foreign) == (404, "not_found")

    async def test_counts_towards_the_writes_per_minute(self, tenant: Tenant, services: Services) -> None:
        limiter = WriteLimiter({WriteKind.CHANGES: 0, WriteKind.WORK: 1}, clock=lambda: 0)
        async with client_of(services.replacing(limiter)) as http:
            limited = replace(tenant, http=http)

            responses = [await limited.post(f"{limited.path}/{EVENTS}/links") for _ in range(2)]

        assert responses[0].status_code == 201
        assert status_and_code(responses[1]) == (429, "rate_limited")

    async def test_refuses_too_many_open_links(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        await change(
            superuser,
            "INSERT INTO export_link SELECT :organization, decode(md5(n::text), 'hex'), '/', '', 'usage:read', 'test',"
            " now() + interval '1 minute' FROM generate_series(1, 100) n",
            organization=tenant.organization,
        )

        response = await tenant.post(f"{tenant.path}/{EVENTS}/links")

        assert status_and_code(response) == (429, "rate_limited")
        assert response.headers["Retry-After"] == "60"

    async def test_never_exceeds_the_limit_of_open_links(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        await change(
            superuser,
            "INSERT INTO export_link SELECT :organization, decode(md5(n::text), 'hex'), '/', '', 'usage:read', 'test',"
            " now() + interval '1 minute' FROM generate_series(1, 99) n",
            organization=tenant.organization,
        )
        created = await asyncio.gather(*(tenant.post(f"{tenant.path}/{EVENTS}/links") for _ in range(4)))

        statuses = sorted(response.status_code for response in created)

        assert statuses == [201, 429, 429, 429]

    async def test_neither_stores_nor_logs_the_code(
        self, tenant: Tenant, http: httpx.AsyncClient, superuser: AsyncEngine
    ) -> None:
        sinks, before = Sinks(), await next_transaction(superuser)
        with capture_logs(sinks), capture_spans(sinks):
            path = await create_link(tenant)
            async for table, rows in tables_of(superuser, since=before):
                sinks.add(table, rows)
            await open_link(http, path)
            await open_link(http, path)

        code = path.rpartition("/")[2]
        assert any(sinks.contains(sink, "/exports/{organization_id}/{code}") for sink in sinks.contents)
        assert [sink for sink in sinks.contents if sinks.contains(sink, code)] == []


class TestPurge:
    async def test_deletes_expired_links(
        self, tenant: Tenant, services: Services, superuser: AsyncEngine
    ) -> None:
        await create_link(tenant)
        await change(superuser, "UPDATE export_link SET expires_at = now() - interval '1 second'")

        await services[ExpiredRowsWorker].run()

        assert await fetch(superuser, "SELECT 1 FROM export_link") == []
