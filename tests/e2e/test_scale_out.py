"""Several processes on one database: through PgBouncer, with a replica for reports, and after the loss of a process or server.

The commands and settings are those of docs/how-to/pooler-and-replica.md.
"""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa

from tests.support.database.bare_servers import BareServer
from tests.support.database.own_database import DatabaseRoles, create_database
from tests.support.database.pooler import pooler_before
from tests.support.database.replicated import Replication, replication, server_roles
from tests.support.network.load_balancer import load_balancer
from tests.support.polling import until
from tests.support.processes.commands import byok
from tests.support.processes.service import Service, running
from tests.support.provider.fake_anthropic import Served, make_key
from tests.support.requirements import needs_pooler
from tests.support.usage.steady_ingestion import TOKENS, Ingestion

CLIENTS = 8
PRICE = Decimal("0.000003") * TOKENS  # of an event of claude-sonnet-4-5
_ROLLUPS = "SELECT count(*) FROM job_queue WHERE kind = 'fold_usage' AND organization_id = '{}'"


@pytest.fixture
def servers() -> Iterator[Replication]:
    with replication() as servers:
        yield servers


@pytest.fixture
async def roles(servers: Replication) -> DatabaseRoles:
    return await create_database(server_roles(servers.primary), "byok")


def text(url: sa.URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.fixture
def settings(roles: DatabaseRoles, provider: Served, tmp_path: Path) -> dict[str, str]:
    """Settings of all processes: they share the database and the keys of the embedded store."""
    return {
        **roles.settings,
        "DATA_DIR": str(tmp_path),
        "PROVIDER__DEFAULT_BASE_URL": provider.base_url,
        "JOBS__INTERVAL": "1s",
        "DATABASE__POOL_SIZE": "5",
    }


async def count(servers: Replication, server: BareServer, statement: str) -> int:
    ((found,),) = await servers.run(server, statement, "byok")
    return int(found)


async def ingestion_of(service: Service, http: httpx.AsyncClient, organization: str) -> Ingestion:
    token = await service.token("service")
    return Ingestion(
        http=http,
        path=f"/v1/organizations/{organization}/usage-events",
        headers={"Authorization": f"Bearer {token}"},
    )


async def report(http: httpx.AsyncClient, service: Service, organization: str) -> dict[str, Any]:
    """The totals of the organization, and `data_as_of`."""
    response = await http.get(
        f"/v1/organizations/{organization}/usage-report",
        params={"starting_at": (datetime.now(UTC) - timedelta(days=1)).isoformat(), "bucket_width": "all"},
        headers={"Authorization": f"Bearer {await service.token()}"},
    )
    assert response.status_code == 200, response.text
    found = response.json()
    totals = found["data"][0]["results"][0] if found["data"] else {"requests": 0}
    return {"data_as_of": datetime.fromisoformat(found["data_as_of"]), **totals}


@needs_pooler
class TestThroughAPooler:
    async def test_loses_no_request_but_those_in_flight_when_processes_are_killed(
        self, servers: Replication, roles: DatabaseRoles, settings: dict[str, str]
    ) -> None:
        """Two instances and two workers with 4 sessions of the server for up to 20 connections."""
        organization = f"org_{uuid4().hex[:16]}"
        async with AsyncExitStack() as stack:
            pooler = stack.enter_context(pooler_before(roles.service, pool_size=4))
            settings |= {
                "DATABASE__URL": text(pooler.url(roles.service)),
                "DATABASE__DIRECT_URL": text(roles.service),
            }
            first = await stack.enter_async_context(running("serve", "--without-jobs", **settings))
            second = await stack.enter_async_context(running("serve", "--without-jobs", **settings))
            workers = [await stack.enter_async_context(running("worker", **settings)) for _ in range(2)]
            balancer, url = await stack.enter_async_context(load_balancer(first.port, second.port))
            http = await stack.enter_async_context(
                httpx.AsyncClient(base_url=url, timeout=60, trust_env=False)
            )
            saved = await first.save(organization, make_key())
            limit = {
                "name": "Month",
                "amount": {"amount": "100000", "currency": "USD"},
                "period": "month",
                "enforcement": "block",
            }
            path = f"/v1/organizations/{organization}/spend-limits"
            created = await first.request("POST", path, json=limit)
            ingestion = await ingestion_of(first, http, organization)

            is_enough = asyncio.Event()
            load = asyncio.create_task(ingestion.run(clients=CLIENTS, until=is_enough.is_set))
            await until(
                lambda: _value(len(ingestion.accepted)), lambda found: found > 300, timeout_seconds=60
            )
            connections = balancer.open[second.port]
            await second.kill()
            await workers[1].kill()
            before = len(ingestion.accepted)
            await until(
                lambda: _value(len(ingestion.accepted)),
                lambda found: found > before + 300,
                timeout_seconds=60,
            )
            is_enough.set()
            await load

            # Rollups of the remaining worker do not change what a report shows.
            await until(
                lambda: count(servers, servers.primary, _ROLLUPS.format(organization)),
                lambda found: found == 0,
                timeout_seconds=60,
            )
            total = await report(http, first, organization)
            spent = (await first.request("GET", created.headers["Location"])).json()

        assert (saved.json()["validation"]["status"], ingestion.refused) == ("valid", [])
        assert connections > 0
        assert ingestion.broken <= connections
        events = len(ingestion.accepted)
        assert total["requests"] == events
        assert Decimal(total["billed_cost"]["amount"]) == PRICE * events
        assert Decimal(spent["spent"]["amount"]) == PRICE * events
        rows = f"SELECT count(DISTINCT event_id) FROM usage_event WHERE organization_id = '{organization}'"
        assert await count(servers, servers.primary, rows) == events

    async def test_doctor_reports_the_pooler(
        self, roles: DatabaseRoles, settings: dict[str, str], tmp_path: Path
    ) -> None:
        await byok("migrate", cwd=tmp_path, **settings)
        with pooler_before(roles.service) as pooler:
            pooled = pooler.url(roles.service)
            unmarked = text(pooled.difference_update_query(["pgbouncer"]))
            unknown = await byok("doctor", cwd=tmp_path, **settings | {"DATABASE__URL": unmarked})
            known = await byok(
                "doctor",
                cwd=tmp_path,
                **settings | {"DATABASE__URL": text(pooled), "DATABASE__DIRECT_URL": text(roles.service)},
            )

        assert (unknown.code, known.code) == (2, 0), unknown.stdout + known.stdout
        assert "fail  pooler: BYOK_DATABASE__URL: a pooler in transaction mode is between" in unknown.stdout
        assert "ok    pooler: " in known.stdout


class TestReportsFromAReplica:
    async def test_state_up_to_when_they_are_complete(
        self, servers: Replication, roles: DatabaseRoles, settings: dict[str, str], tmp_path: Path
    ) -> None:
        organization = f"org_{uuid4().hex[:16]}"
        settings |= {"DATABASE__REPORTS_URL": text(servers.on_replica(roles.service))}
        await byok("migrate", cwd=tmp_path, **settings)
        checked = await byok("doctor", cwd=tmp_path, **settings)
        async with running("serve", **settings) as service:
            ingestion = await ingestion_of(service, service.http, organization)
            await ingestion.run(clients=1, until=lambda: len(ingestion.accepted) >= 5)
            accepted_at = datetime.now(UTC)  # one machine, one clock
            caught_up = await until(
                lambda: report(service.http, service, organization),
                lambda found: found["data_as_of"] > accepted_at,
                timeout_seconds=30,
            )
            await servers.replay(is_paused=True)
            await ingestion.run(clients=1, until=lambda: len(ingestion.accepted) >= 10)
            paused_at = datetime.now(UTC)
            behind = await report(service.http, service, organization)
            listed = await service.request("GET", f"/v1/organizations/{organization}/usage-events")

            servers.replica.kill()
            without = await report(service.http, service, organization)
            metrics = (await service.http.get("/metrics")).text

        assert "ok    reports: a replica, " in checked.stdout
        assert (caught_up["requests"], behind["requests"], without["requests"]) == (5, 5, 10)
        assert accepted_at < behind["data_as_of"] < paused_at < without["data_as_of"]
        assert len(listed.json()["data"]) == 5
        assert datetime.fromisoformat(listed.json()["data_as_of"]) < paused_at
        assert 'byok_usage_reads_total{server="primary"} 1.0' in metrics


class TestPromotedReplica:
    async def test_has_all_that_was_confirmed(
        self, servers: Replication, roles: DatabaseRoles, settings: dict[str, str]
    ) -> None:
        """The primary is killed under load. With synchronous replication, a commit is confirmed once the replica has it."""
        organization = f"org_{uuid4().hex[:16]}"
        await servers.require_confirmation()
        hosts = ",".join(f"127.0.0.1:{it.superuser.port}" for it in (servers.primary, servers.replica))
        login, database = f"{roles.service.username}:{roles.service.password}", roles.name
        both = f"postgresql://{login}@{hosts}/{database}?target_session_attrs=primary"
        async with running("serve", **settings | {"DATABASE__URL": both}) as service:
            ingestion = await ingestion_of(service, service.http, organization)
            is_enough = asyncio.Event()
            load = asyncio.create_task(ingestion.run(clients=CLIENTS, until=is_enough.is_set))
            await until(
                lambda: _value(len(ingestion.accepted)), lambda found: found > 300, timeout_seconds=60
            )

            await asyncio.to_thread(servers.primary.kill)
            confirmed = set(ingestion.accepted)
            await asyncio.to_thread(servers.replica.promote)
            kept = await servers.run(
                servers.replica,
                f"SELECT event_id FROM usage_event WHERE organization_id = '{organization}'",
                "byok",
            )
            await until(
                lambda: _value(len(ingestion.accepted)),
                lambda found: found > len(confirmed) + 300,
                timeout_seconds=60,
            )
            is_enough.set()
            await load
            total = await report(service.http, service, organization)

        assert confirmed <= {row[0] for row in kept}
        assert ingestion.broken == 0
        assert {status for status, _ in ingestion.refused} <= {503}
        assert total["requests"] == len(ingestion.accepted)
        assert Decimal(total["billed_cost"]["amount"]) == PRICE * len(ingestion.accepted)


async def _value(found: int) -> int:
    return found
