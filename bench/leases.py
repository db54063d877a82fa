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
from collections.abc import Sequence
from uuid import UUID

from app.secret_store.base import SecretRef
from bench.load import Load, load, request
from bench.measures import Measure, progress, table
from bench.vault_store import WORKERS, Plain, of_plain
from tests.e2e.leasing import Leasing, leasing
from tests.e2e.provider_process import provider_process
from tests.fake_anthropic import make_key
from tests.integration.secret_store.server import is_there

ORGANIZATION = "org_bench"
ROUNDS = 7
SECONDS = 3.0
PLAIN_CALLS = 800
MIN_RATIO = 0.6
MAX_LAG_SECONDS = 0.01
_LAG = re.compile(r'^byok_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE)


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
    ours: list[Load] = []
    by_hand: list[float] = []
    late: list[dict[float, float]] = []
    for number in range(ROUNDS + 1):
        before = await _lags(found)
        leased = await load(found.service.port, wire, connections=WORKERS, seconds=SECONDS)
        after = await _lags(found)
        assert leased.errors == 0, f"{leased.errors} of {leased.requests} leases failed"
        per_second, _ = await of_plain(plain.wrap, PLAIN_CALLS)
        if number:  # the first one warms both up
            ours.append(leased)
            by_hand.append(per_second)
            late.append({bound: after[bound] - before[bound] for bound in after})
            progress(
                f"round {number} of {ROUNDS}: {leased.per_second:,.0f} leases/s, hvac {per_second:,.0f}/s"
            )
    return _measures(ours, by_hand, late)


def _measures(
    ours: Sequence[Load], by_hand: Sequence[float], late: Sequence[dict[float, float]]
) -> list[Measure]:
    per_second = statistics.median(leased.per_second for leased in ours)
    ratios = [leased.per_second / plain for leased, plain in zip(ours, by_hand, strict=True)]
    lag = _p99({bound: sum(one[bound] for one in late) for bound in late[0]})
    return [
        Measure(
            name="leases, ratio to hvac by hand",
            value=statistics.median(ratios),
            unit="x",
            at_least=MIN_RATIO,
            note=f"the same two calls of Vault, {WORKERS} at a time",
        ),
        Measure(
            name="leases",
            value=per_second,
            unit="/s",
            note=f"hvac {statistics.median(by_hand):,.0f}/s",
        ),
        Measure(name="leases, p99", value=statistics.median(leased.p99_ms for leased in ours), unit="ms"),
        Measure(
            name="leases, event loop lag, p99",
            value=lag * 1000,
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
