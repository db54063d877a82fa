"""Usage end to end: three processes, many clients, and an oracle that recomputes every response.

Events are late, early, repeated, conflicting, corrected and on days with clock changes. Meanwhile usage modes and prices
change, spend is reserved and limited, the last month is closed, and one process is killed and started again. At the end
the oracle recomputes every row, report, limit and statement from the requests and responses.

BYOK_TEST_ORACLE_SEED, _ORGANIZATIONS, _BATCHES (per organization), _EVENTS (average per batch) and _SECONDS scale it. On a
busy machine, _TIMEOUT lets statements take longer than the default of 5 seconds: the scenario expects no 503.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import uuid4

import pytest

from tests.support.database.cells import database_of_run
from tests.support.database.own_database import DatabaseRoles
from tests.support.oracles.comparison import compare
from tests.support.oracles.usage_statements import month_of
from tests.support.processes.service import Service, running, until
from tests.support.provider.fake_anthropic import Served
from tests.support.usage.random_events import boundaries
from tests.support.usage.scenario import Scenario

pytestmark = pytest.mark.slow


def _number(name: str, default: int) -> int:
    return int(os.environ.get(f"BYOK_TEST_ORACLE_{name}", str(default)))


SEED, ORGANIZATIONS, BATCHES = _number("SEED", 1), _number("ORGANIZATIONS", 3), _number("BATCHES", 40)
EVENTS, SECONDS, TIMEOUT = _number("EVENTS", 30), _number("SECONDS", 8), _number("TIMEOUT", 5)
PROCESSES, KILLED_PROCESSES, KILLS = 2, 1, 2
_MOST_SHOWN = 20


@pytest.fixture(scope="module")
async def services(
    template_database: DatabaseRoles, provider: Served, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[list[Service]]:
    """Processes with one shared database. Each runs background jobs."""
    async with AsyncExitStack() as stack:
        roles = await stack.enter_async_context(
            database_of_run(template_database, cells=("cell_1", "cell_2"))
        )
        settings = roles.settings | {
            "DATA_DIR": str(tmp_path_factory.mktemp("data")),
            "PROVIDER__DEFAULT_BASE_URL": provider.base_url,
            "JOBS__INTERVAL": "1s",
            "DATABASE__TIMEOUT": f"{TIMEOUT}s",
            "LOG_LEVEL": "warning",
        }
        yield [
            await stack.enter_async_context(running(**settings)) for _ in range(PROCESSES + KILLED_PROCESSES)
        ]


async def test_every_response_matches_the_oracle(services: list[Service]) -> None:
    steady, killed = services[:PROCESSES], services[PROCESSES:]
    organizations = [
        Scenario(
            name=f"org_{uuid4().hex[:16]}",
            random=Random(SEED * 1000 + number),
            services=steady,
            killed_services=killed,
        )
        for number in range(ORGANIZATIONS)
    ]
    await asyncio.gather(services[0].token(), services[0].token("service"))
    boundary_times = boundaries(datetime.now(UTC))
    await asyncio.gather(*(it.create_credentials(boundary_times) for it in organizations))

    await asyncio.gather(
        *(_run_scenario(it, SEED + number) for number, it in enumerate(organizations)),
        *(_kill_and_start(it) for it in killed),
    )
    rows = [await compare(it, SEED) for it in organizations]

    sent = sum(len(it.sent_events) for it in organizations)
    differences = [difference for it in organizations for difference in it.differences]
    print(
        f"seed {SEED}: {sent} events sent, {sum(rows)} rows in the ledger,"
        f" {sum(it.corrections for it in organizations)} corrections, {len(killed) * KILLS} kills,"
        f" {sum(len(it.state.mode_changes) for it in organizations)} usage mode changes,"
        f" {sum(len(it.state.overrides) for it in organizations)} price lists,"
        f" {sum(len(it.reservations) for it in organizations)} reservations;"
        f" {sum(it.compared for it in organizations)} compared, {len(differences)} differences"
    )
    assert not differences, "\n".join(differences[:_MOST_SHOWN])


async def _kill_and_start(service: Service) -> None:
    """Kill a process several times, while it ingests and rolls up, and start it again at once."""
    started_at = datetime.now(UTC)
    for number in range(KILLS):
        await _wait_until(started_at, (number + 0.5) / KILLS)
        await service.kill()
        await service.start()


async def _run_scenario(it: Scenario, seed: int) -> None:
    """Run the actions of one organization, each at a random time."""
    random, started_at = Random(seed), datetime.now(UTC)
    last_month = datetime.now(UTC).replace(day=1) - timedelta(days=1)

    async def sequentially(times: int, action: Callable[[], Awaitable[None]]) -> None:
        for share in sorted(random.random() for _ in range(times)):
            await _wait_until(started_at, share)
            await action()

    async def at_share(share: float, action: Callable[[], Awaitable[None]]) -> None:
        await _wait_until(started_at, share)
        await action()

    async def count() -> None:
        day = random.choice((datetime.now(UTC), last_month)).replace(day=random.randint(1, 28))
        await it.set_endpoint_count(day)

    async def is_over() -> bool:
        return all(one.at < datetime.now(UTC) for one in it.scheduled)

    await _create_limits(it)
    # Batches and reservations may run concurrently: clients do not wait for each other.
    await asyncio.gather(
        *(
            at_share(random.random(), lambda: it.ingest(1 + random.randrange(2 * EVENTS)))
            for _ in range(BATCHES)
        ),
        *(at_share(random.random(), it.reserve) for _ in range(BATCHES)),
        sequentially(12, it.change_usage_mode),
        sequentially(8, it.set_prices),
        sequentially(10, it.check_running_report),
        sequentially(6, count),
        _subscribe_and_close(it, month_of(last_month), started_at),
        at_share(0.4, lambda: it.create_limit(name="midway", amount=_usd("40"), enforcement="notify")),
        at_share(
            0.6,
            lambda: it.create_limit(
                name="midway, all", amount=_usd("90"), period="total", scope={"usage_mode": "any"}
            ),
        ),
    )
    await until(is_over, "all scheduled changes are active")


async def _subscribe_and_close(it: Scenario, month: str, started_at: datetime) -> None:
    """Change the subscription several times. Close the last month while events for it arrive."""
    await it.subscribe()
    await _wait_until(started_at, 0.3)
    await it.subscribe()
    await _wait_until(started_at, 0.5)
    await it.close_month(month)
    await _wait_until(started_at, 0.7)
    await it.subscribe()


async def _create_limits(it: Scenario) -> None:
    await it.create_limit(name="managed", amount=_usd("100"), enforcement="notify")
    await it.create_limit(
        name="own key", amount=_usd("50"), scope={"usage_mode": "byo"}, enforcement="notify"
    )
    await it.create_limit(
        name="today", amount=_usd("20"), period="day", scope={"usage_mode": "any"}, enforcement="notify"
    )
    await it.create_limit(name="model", amount=_usd("10"), period="total", scope={"model": "claude-opus-5-5"})
    await it.create_limit(
        name="snapshot", amount=_usd("10"), scope={"usage_mode": "any", "model": "claude-haiku-4-5-20251001"}
    )
    await it.create_limit(
        name="feature",
        amount=_usd("30"),
        scope={"usage_mode": "any", "feature": "search"},
        enforcement="notify",
    )
    await it.create_limit(name="endpoint", amount=_usd("5"), period="day", scope={"endpoint_id": "staging"})


def _usd(amount: str) -> dict[str, str]:
    return {"amount": amount, "currency": "USD"}


async def _wait_until(started_at: datetime, share: float) -> None:
    """Wait until this share of the run is over. The load depends on the clock, not on responses."""
    left = started_at + timedelta(seconds=SECONDS * share) - datetime.now(UTC)
    await asyncio.sleep(max(0.0, left.total_seconds()))
