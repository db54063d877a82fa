"""The whole subject of usage, end to end: two processes, many clients, and an oracle that recomputes every answer.

Events come late, ahead, twice, contradicted and on days on which clocks change, while modes switch, prices
change, spend is reserved and limited and last month is closed. In the end every row, report, limit and
statement is worked out a second time from what was sent and answered.

BYOK_TEST_ORACLE_SEED, _ORGANIZATIONS, _BATCHES (of each), _EVENTS (of a batch, on average), _SECONDS scale it.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import uuid4

import pytest
import sqlalchemy as sa

from tests.databases import new_database
from tests.e2e.service import Service, running, until
from tests.e2e.usage_comparison import compare
from tests.e2e.usage_events import edges
from tests.e2e.usage_life import Life
from tests.fake_anthropic import Served
from tests.usage_oracle_statements import month_of

pytestmark = pytest.mark.slow


def _number(name: str, default: int) -> int:
    return int(os.environ.get(f"BYOK_TEST_ORACLE_{name}", str(default)))


SEED, ORGANIZATIONS, BATCHES = _number("SEED", 1), _number("ORGANIZATIONS", 3), _number("BATCHES", 40)
EVENTS, SECONDS = _number("EVENTS", 30), _number("SECONDS", 8)
PROCESSES = 2
_MOST_SHOWN = 20


@pytest.fixture(scope="module")
async def services(
    server_url: sa.URL, provider: Served, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[list[Service]]:
    """Processes over one database, each with its share of the background jobs."""
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(new_database(server_url))
        settings = {
            "DATABASE__URL": url.render_as_string(hide_password=False),
            "DATA_DIR": str(tmp_path_factory.mktemp("data")),
            "PROVIDER__DEFAULT_BASE_URL": provider.base_url,
            "JOBS__INTERVAL": "1s",
            "LOG_LEVEL": "warning",
        }
        yield [await stack.enter_async_context(running(**settings)) for _ in range(PROCESSES)]


async def test_every_answer_is_what_the_oracle_works_out(services: list[Service]) -> None:
    organizations = [
        Life(name=f"org_{uuid4().hex[:16]}", random=Random(SEED * 1000 + number), services=services)
        for number in range(ORGANIZATIONS)
    ]
    await asyncio.gather(services[0].token(), services[0].token("service"))
    at_the_edges = edges(datetime.now(UTC))
    await asyncio.gather(*(it.begin(at_the_edges) for it in organizations))

    await asyncio.gather(*(_live(it, SEED + number) for number, it in enumerate(organizations)))
    rows = [await compare(it, SEED) for it in organizations]

    sent = sum(len(it.attempts) for it in organizations)
    differences = [difference for it in organizations for difference in it.differences]
    print(
        f"seed {SEED}: {sent} events sent, {sum(rows)} in the ledger,"
        f" {sum(len(it.known.points) for it in organizations)} points of timelines,"
        f" {sum(len(it.known.overrides) for it in organizations)} price lists,"
        f" {sum(len(it.reservations) for it in organizations)} reservations;"
        f" {sum(it.compared for it in organizations)} compared, {len(differences)} differences"
    )
    assert not differences, "\n".join(differences[:_MOST_SHOWN])


async def _live(it: Life, seed: int) -> None:
    """What happens to one organization, each thing at a moment drawn beforehand."""
    random, began = Random(seed), datetime.now(UTC)
    last_month = datetime.now(UTC).replace(day=1) - timedelta(days=1)

    async def one_after_the_other(times: int, deed: Callable[[], Awaitable[None]]) -> None:
        for share in sorted(random.random() for _ in range(times)):
            await _come(began, share)
            await deed()

    async def once(share: float, deed: Callable[[], Awaitable[None]]) -> None:
        await _come(began, share)
        await deed()

    async def count() -> None:
        day = random.choice((datetime.now(UTC), last_month)).replace(day=random.randint(1, 28))
        await it.count_endpoints(day)

    async def is_over() -> bool:
        return all(one.at < datetime.now(UTC) for one in it.scheduled)

    await _first_limits(it)
    # Ten of a kind may be under way at once: clients do not wait for each other.
    await asyncio.gather(
        *(once(random.random(), lambda: it.ingest(1 + random.randrange(2 * EVENTS))) for _ in range(BATCHES)),
        *(once(random.random(), it.reserve) for _ in range(BATCHES)),
        one_after_the_other(12, it.switch),
        one_after_the_other(8, it.set_prices),
        one_after_the_other(10, it.peek),
        one_after_the_other(6, count),
        _subscribe_and_close(it, month_of(last_month), began),
        once(0.4, lambda: it.limit(name="midway", amount=_usd("40"), enforcement="notify")),
        once(
            0.6,
            lambda: it.limit(
                name="midway, all", amount=_usd("90"), period="total", scope={"usage_mode": "any"}
            ),
        ),
    )
    await until(is_over, "what was scheduled has come")


async def _subscribe_and_close(it: Life, month: str, began: datetime) -> None:
    """Terms change for all open months; last month is closed while events for it come in."""
    await it.subscribe()
    await _come(began, 0.3)
    await it.subscribe()
    await _come(began, 0.5)
    await it.close(month)
    await _come(began, 0.7)
    await it.subscribe()


async def _first_limits(it: Life) -> None:
    await it.limit(name="managed", amount=_usd("100"), enforcement="notify")
    await it.limit(name="own key", amount=_usd("50"), scope={"usage_mode": "byo"}, enforcement="notify")
    await it.limit(
        name="today", amount=_usd("20"), period="day", scope={"usage_mode": "any"}, enforcement="notify"
    )
    await it.limit(name="model", amount=_usd("10"), period="total", scope={"model": "claude-opus-5-5"})
    await it.limit(
        name="feature",
        amount=_usd("30"),
        scope={"usage_mode": "any", "feature": "search"},
        enforcement="notify",
    )
    await it.limit(name="endpoint", amount=_usd("5"), period="day", scope={"endpoint_id": "staging"})


def _usd(amount: str) -> dict[str, str]:
    return {"amount": amount, "currency": "USD"}


async def _come(began: datetime, share: float) -> None:
    """Until that share of the run's time is over: load that waits for no answer comes by the clock."""
    left = began + timedelta(seconds=SECONDS * share) - datetime.now(UTC)
    await asyncio.sleep(max(0.0, left.total_seconds()))
