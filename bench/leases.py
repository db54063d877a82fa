"""What a lease costs: over HTTP from the running service, beside hvac that makes the same calls by hand.

python -m bench.leases               the closing table alone

Both hand out wrapping tokens of one key from one server on this machine, 16 at a time, by turns. Ours checks
the caller, finds the key in force, and puts lease, use and audit event on record besides. The server is
BYOK_TEST_VAULT_ADDR's, or `bao` or `vault` on PATH in dev mode; without one nothing is measured.
"""

import asyncio
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import UUID

import psutil
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from app.secret_store.port import SecretRef
from bench.load import Load, load, request
from bench.measures import Measure, progress, table
from bench.vault_store import WORKERS, Plain
from tests.e2e.leasing import Leasing, leasing
from tests.e2e.provider_process import provider_process
from tests.fake_anthropic import make_key
from tests.integration.secret_store.server import is_there

ORGANIZATION = "org_bench"
ROUNDS = 7
SECONDS = 3.0
MIN_RATIO = 0.6
MAX_LAG_SECONDS = 0.01
_LAG = re.compile(r'^byok_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Ours:
    """One round of the service. `late`: how often the loop was at most so late, in seconds."""

    load: Load
    cpu_ms: float
    late: dict[float, float]


@dataclass(frozen=True, kw_only=True)
class ByHand:
    """One round of plain hvac."""

    accessors: Sequence[str]
    per_second: float
    cpu_ms: float


@dataclass(frozen=True, kw_only=True)
class Round:
    """Both, one after the other."""

    ours: Ours
    by_hand: ByHand


async def run() -> list[Measure]:
    if not is_there():
        progress("no Vault: set BYOK_TEST_VAULT_ADDR, or put bao or vault on PATH")
        return []
    async with (
        provider_process() as provider_url,
        leasing(real=True, provider_url=provider_url) as found,
    ):
        key = make_key()
        path = await found.in_force(ORGANIZATION, key)
        ref = SecretRef(organization_id=ORGANIZATION, credential_id=UUID(path.rpartition("/")[2]))
        return await _compare(found, Plain(found.vault, ref, key=key))


async def _compare(found: Leasing, plain: Plain) -> list[Measure]:
    wire = request(
        "POST",
        f"/v1/organizations/{ORGANIZATION}/credential-leases",
        token=await found.service.token("service"),
        body='{"ttl_seconds": 60}',
    )
    rounds: list[Round] = []
    for number in range(ROUNDS + 1):
        ours = await _ours(found, wire)
        by_hand = await _by_hand(plain)
        await _revoke_all(found, by_hand.accessors)
        if number:  # the first one warms both up
            rounds.append(Round(ours=ours, by_hand=by_hand))
            progress(
                f"round {number} of {ROUNDS}: {ours.load.per_second:,.0f} leases/s,"
                f" hvac {by_hand.per_second:,.0f}/s"
            )
    return _measures(rounds)


async def _ours(found: Leasing, wire: bytes) -> Ours:
    service = psutil.Process(found.service.process.pid)
    before, spent = await _lags(found), service.cpu_times()
    leased = await load(found.service.port, wire, connections=WORKERS, seconds=SECONDS)
    spent_now, after = service.cpu_times(), await _lags(found)
    assert leased.errors == 0, f"{leased.errors} of {leased.requests} leases failed"
    cpu = spent_now.user + spent_now.system - spent.user - spent.system
    return Ours(
        load=leased,
        cpu_ms=cpu / leased.requests * 1000,
        late={bound: after[bound] - before[bound] for bound in after},
    )


async def _by_hand(plain: Plain) -> ByHand:
    """In this process, which does nothing else meanwhile."""
    began, spent = time.perf_counter(), time.process_time()

    def hand_out() -> list[str]:
        made: list[str] = []
        while time.perf_counter() < began + SECONDS:
            made.append(plain.wrap())
        return made

    with ThreadPoolExecutor(WORKERS) as threads:
        loop = asyncio.get_running_loop()
        made = await asyncio.gather(*(loop.run_in_executor(threads, hand_out) for _ in range(WORKERS)))
    accessors = [accessor for of_worker in made for accessor in of_worker]
    return ByHand(
        accessors=accessors,
        per_second=len(accessors) / (time.perf_counter() - began),
        cpu_ms=(time.process_time() - spent) / len(accessors) * 1000,
    )


async def _revoke_all(found: Leasing, accessors: Sequence[str]) -> None:
    """A server with many unopened tokens gets slower, and forgets them by the hundred when they expire."""
    engine = create_async_engine(found.service.database_url)
    async with engine.connect() as connection:
        statement = sa.text("SELECT accessor FROM credential_lease WHERE expires_at > now()")
        leased = (await connection.execute(statement)).scalars().all()
    await engine.dispose()
    async with found.vault.store() as store:
        left = [*accessors, *leased]
        for first in range(0, len(left), WORKERS):
            turn = left[first : first + WORKERS]
            await asyncio.gather(*(store.revoke_wrapping(accessor) for accessor in turn))


def _measures(rounds: Sequence[Round]) -> list[Measure]:
    def median(value: Callable[[Round], float]) -> float:
        return statistics.median(value(one) for one in rounds)

    by_hand = median(lambda one: one.by_hand.per_second)
    cpu, plain_cpu = median(lambda one: one.ours.cpu_ms), median(lambda one: one.by_hand.cpu_ms)
    late = {bound: sum(one.ours.late[bound] for one in rounds) for bound in rounds[0].ours.late}
    return [
        Measure(
            name="leases, ratio to hvac by hand",
            value=median(lambda one: one.ours.load.per_second / one.by_hand.per_second),
            unit="x",
            at_least=MIN_RATIO,
            note=f"the same two calls of Vault, {WORKERS} at a time",
        ),
        Measure(
            name="leases",
            value=median(lambda one: one.ours.load.per_second),
            unit="/s",
            note=f"hvac {by_hand:,.0f}/s",
        ),
        Measure(name="leases, p99", value=median(lambda one: one.ours.load.p99_ms), unit="ms"),
        Measure(
            name="leases, CPU time",
            value=cpu,
            unit="ms",
            note=f"of the service per lease; hvac {plain_cpu:.2f} ms, ratio {plain_cpu / cpu:.2f}",
        ),
        Measure(
            name="leases, event loop lag, p99",
            value=_p99(late) * 1000,
            unit="ms",
            at_most=MAX_LAG_SECONDS * 1000,
            note="upper bound of its bucket",
        ),
    ]


async def _lags(found: Leasing) -> dict[float, float]:
    """Cumulated counts by upper bound."""
    text = (await found.service.http.get("/metrics")).text
    return {float(bound): float(count) for bound, count in _LAG.findall(text)}


def _p99(counts: dict[float, float]) -> float:
    """The smallest bound that 99 of 100 samples keep."""
    return min(bound for bound, count in counts.items() if count >= 0.99 * max(counts.values()))


def main() -> int:
    measures = asyncio.run(run())
    if not measures:
        return 2
    print(f"\n{table(measures)}")
    return 0 if all(measure.is_met for measure in measures) else 1


if __name__ == "__main__":
    sys.exit(main())
