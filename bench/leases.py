"""Measures leases: over HTTP from the running service, and with plain hvac that makes the same Vault calls.

python -m bench.leases               print the summary table

Both create wrapping tokens for one key on one local server, 16 at a time, in alternating rounds. The service also
authenticates the caller, looks up the active version, and records the lease, the use and the audit event. The server is
the one at BYOK_TEST_VAULT_ADDR, or `bao` or `vault` from PATH in dev mode. Without a server, nothing is measured.
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
from bench.vault_store import WORKERS, PlainHvac
from tests.support.processes.fake_anthropic import provider_process
from tests.support.processes.lease_consumer import LeasingService, leasing_service
from tests.support.provider.fake_anthropic import make_key
from tests.support.vault.real_server import is_real_vault_available

ORGANIZATION = "org_bench"
ROUNDS = 7
SECONDS = 3.0
MIN_RATIO = 0.6
MAX_LAG_SECONDS = 0.01
_LAG = re.compile(r'^byok_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class ServiceRound:
    """One round of the service. `lag_counts`: cumulative counts of event loop lag by upper bound, in seconds."""

    load: Load
    cpu_ms: float
    lag_counts: dict[float, float]


@dataclass(frozen=True, kw_only=True)
class PlainHvacRound:
    """One round of plain hvac."""

    accessors: Sequence[str]
    per_second: float
    cpu_ms: float


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round of each, one after the other."""

    ours: ServiceRound
    plain_hvac: PlainHvacRound


async def run() -> list[Measure]:
    if not is_real_vault_available():
        progress("no Vault: set BYOK_TEST_VAULT_ADDR, or put bao or vault on PATH")
        return []
    async with (
        provider_process() as provider_url,
        leasing_service(real=True, provider_url=provider_url) as setup,
    ):
        key = make_key()
        path = await setup.save_active_credential(ORGANIZATION, key)
        ref = SecretRef(organization_id=ORGANIZATION, credential_id=UUID(path.rpartition("/")[2]))
        return await _compare(setup, PlainHvac(setup.vault, ref, key=key))


async def _compare(setup: LeasingService, plain: PlainHvac) -> list[Measure]:
    wire = request(
        "POST",
        f"/v1/organizations/{ORGANIZATION}/credential-leases",
        token=await setup.service.token("service"),
        body='{"ttl_seconds": 60}',
    )
    rounds: list[Round] = []
    for number in range(ROUNDS + 1):
        ours = await _measure_service(setup, wire)
        plain_hvac = await _measure_plain_hvac(plain)
        await _revoke_all(setup, plain_hvac.accessors)
        if number:  # the first round is the warm-up
            rounds.append(Round(ours=ours, plain_hvac=plain_hvac))
            progress(
                f"round {number} of {ROUNDS}: {ours.load.per_second:,.0f} leases/s,"
                f" hvac {plain_hvac.per_second:,.0f}/s"
            )
    return _measures(rounds)


async def _measure_service(setup: LeasingService, wire: bytes) -> ServiceRound:
    service = psutil.Process(setup.service.process.pid)
    before, cpu_before = await _lags(setup), service.cpu_times()
    leased = await load(setup.service.port, wire, connections=WORKERS, seconds=SECONDS)
    cpu_after, after = service.cpu_times(), await _lags(setup)
    assert leased.errors == 0, f"{leased.errors} of {leased.requests} leases failed"
    cpu = cpu_after.user + cpu_after.system - cpu_before.user - cpu_before.system
    return ServiceRound(
        load=leased,
        cpu_ms=cpu / leased.requests * 1000,
        lag_counts={bound: after[bound] - before[bound] for bound in after},
    )


async def _measure_plain_hvac(plain: PlainHvac) -> PlainHvacRound:
    """Measure plain hvac in this process, which is otherwise idle."""
    started_at, cpu_before = time.perf_counter(), time.process_time()

    def create_tokens() -> list[str]:
        tokens: list[str] = []
        while time.perf_counter() < started_at + SECONDS:
            tokens.append(plain.wrap())
        return tokens

    with ThreadPoolExecutor(WORKERS) as threads:
        loop = asyncio.get_running_loop()
        tokens = await asyncio.gather(*(loop.run_in_executor(threads, create_tokens) for _ in range(WORKERS)))
    accessors = [accessor for of_worker in tokens for accessor in of_worker]
    return PlainHvacRound(
        accessors=accessors,
        per_second=len(accessors) / (time.perf_counter() - started_at),
        cpu_ms=(time.process_time() - cpu_before) / len(accessors) * 1000,
    )


async def _revoke_all(setup: LeasingService, accessors: Sequence[str]) -> None:
    """Revoke all tokens. Many unopened tokens make the server slower, and it removes expired ones in large batches."""
    engine = create_async_engine(setup.service.database_url)
    async with engine.connect() as connection:
        statement = sa.text("SELECT accessor FROM credential_lease WHERE expires_at > now()")
        leased = (await connection.execute(statement)).scalars().all()
    await engine.dispose()
    async with setup.vault.store() as store:
        accessors_left = [*accessors, *leased]
        for first in range(0, len(accessors_left), WORKERS):
            batch = accessors_left[first : first + WORKERS]
            await asyncio.gather(*(store.revoke_wrapping(accessor) for accessor in batch))


def _measures(rounds: Sequence[Round]) -> list[Measure]:
    def median(value: Callable[[Round], float]) -> float:
        return statistics.median(value(one) for one in rounds)

    plain_hvac = median(lambda one: one.plain_hvac.per_second)
    cpu, plain_cpu = median(lambda one: one.ours.cpu_ms), median(lambda one: one.plain_hvac.cpu_ms)
    lag_counts = {
        bound: sum(one.ours.lag_counts[bound] for one in rounds) for bound in rounds[0].ours.lag_counts
    }
    return [
        Measure(
            name="leases, ratio to plain hvac",
            value=median(lambda one: one.ours.load.per_second / one.plain_hvac.per_second),
            unit="x",
            at_least=MIN_RATIO,
            note=f"the same two Vault calls, {WORKERS} at a time",
        ),
        Measure(
            name="leases",
            value=median(lambda one: one.ours.load.per_second),
            unit="/s",
            note=f"hvac {plain_hvac:,.0f}/s",
        ),
        Measure(name="leases, p99", value=median(lambda one: one.ours.load.p99_ms), unit="ms"),
        Measure(
            name="leases, CPU time",
            value=cpu,
            unit="ms",
            note=f"per lease in the service; hvac {plain_cpu:.2f} ms, ratio {plain_cpu / cpu:.2f}",
        ),
        Measure(
            name="leases, event loop lag, p99",
            value=_p99(lag_counts) * 1000,
            unit="ms",
            at_most=MAX_LAG_SECONDS * 1000,
            note="upper bound of its bucket",
        ),
    ]


async def _lags(setup: LeasingService) -> dict[float, float]:
    """Read the cumulative counts by upper bound."""
    text = (await setup.service.http.get("/metrics")).text
    return {float(bound): float(count) for bound, count in _LAG.findall(text)}


def _p99(counts: dict[float, float]) -> float:
    """Return the smallest bound for 99 % of the samples."""
    return min(bound for bound, count in counts.items() if count >= 0.99 * max(counts.values()))


def main() -> int:
    measures = asyncio.run(run())
    if not measures:
        return 2
    print(f"\n{table(measures)}")
    return 0 if all(measure.is_met for measure in measures) else 1


if __name__ == "__main__":
    sys.exit(main())
