"""Runs the relay for long at half load, while clients leave and keys rotate, and compares the ledger with the provider.

python -m bench.relay.soak --minutes 20

It ends by itself. Exit code 1: the memory grew, a client saw an error that the provider did not send, a rotation
failed, or the ledger and the provider disagree about a call or a token.
"""

import argparse
import asyncio
import ssl
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

import httpx
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from bench.load import load
from bench.measures import Measure, progress, table
from bench.relay.ledger_check import LedgerCheck, compare
from bench.relay.setup import ORGANIZATION, RelayUser, certificate, python_peer, relay_user
from bench.relay.soak_clients import BODY, Clients, Seen
from tests.support.database.rows import fetch
from tests.support.processes.service import Service, running, until
from tests.support.provider.fake_anthropic import make_key

LOAD = 0.5  # of the capacity
CAPACITY_SECONDS = 3.0
ROTATION_SECONDS = 60.0
SAMPLE_SECONDS = 1.0
PROGRESS_SECONDS = 30.0
MAX_GROWTH = 0.05
_LIMIT = {
    "name": "Budget",
    "amount": {"amount": "1000000", "currency": "USD"},
    "period": "total",
    "scope": {"usage_mode": "any"},
    "enforcement": "block",
}
_LEDGER = """
    SELECT provider_request_id, outcome, usage_source, uncached_input_tokens, cache_read_tokens, output_tokens
    FROM usage_event WHERE organization_id = :organization
"""
_OPEN = """
    SELECT count(*) AS open FROM spend_reservation WHERE organization_id = :organization AND state = 'open'
"""
_RESERVED = (
    "SELECT coalesce(sum(reserved), 0) AS reserved FROM spend_counter WHERE organization_id = :organization"
)


async def soak(*, minutes: float, max_growth: float = MAX_GROWTH) -> list[Measure]:
    """Run the relay for so long, wait until all calls have ended, and compare."""
    async with AsyncExitStack() as stack:
        tls = stack.enter_context(certificate())
        provider = await stack.enter_async_context(
            python_peer("the provider", "bench.relay.soak_provider", "--certificate", str(tls.file))
        )
        url = f"https://127.0.0.1:{provider.port}"
        settings = {"PROVIDER__DEFAULT_BASE_URL": url, "PROVIDER__CA_FILE": str(tls.ca_file)}
        service = await stack.enter_async_context(
            running(**settings, RATE_LIMITS__CREDENTIAL_WRITES="1000000")
        )
        user = await relay_user(service)
        await service.request("POST", f"/v1/organizations/{ORGANIZATION}/spend-limits", json=_LIMIT)
        wire = user.peer.wire("/v1/messages", BODY)
        capacity = await load(user.peer.port, wire, connections=16, seconds=CAPACITY_SECONDS)
        rate = capacity.per_second * LOAD
        progress(f"capacity {capacity.per_second:,.0f}/s; {rate:,.0f}/s for {minutes:g} minutes")
        seen = await _run(user, rate=rate, seconds=minutes * 60)
        trusted = ssl.create_default_context(cafile=str(tls.ca_file))
        async with httpx.AsyncClient(verify=trusted, trust_env=False, timeout=60) as http:
            journal = (await http.get(f"{url}/journal")).json()
        rows, reserved = await _ledger(service)
        return _measures(seen, compare(journal, rows), reserved=reserved, max_growth=max_growth)


async def _run(user: RelayUser, *, rate: float, seconds: float) -> Seen:
    seen, ends_at = Seen(), time.monotonic() + seconds
    clients = Clients(user.peer, seen, rate=rate)
    others = [
        asyncio.create_task(work)
        for work in (
            _rotate(user, seen, every=min(ROTATION_SECONDS, seconds / 4)),
            _sample(user, seen),
            _report(seen, ends_at),
        )
    ]
    await clients.run(is_over=lambda: time.monotonic() >= ends_at)
    for task in others:
        task.cancel()
    for ended in await asyncio.gather(*others, return_exceptions=True):
        assert isinstance(ended, asyncio.CancelledError), f"a task of the soak failed: {ended!r}"
    return seen


async def _rotate(user: RelayUser, seen: Seen, *, every: float) -> None:
    path = f"/v1/organizations/{ORGANIZATION}/provider-credentials/{user.credential_id}/rotations"
    while True:
        await asyncio.sleep(every)
        body = {"api_key": make_key(), "activate": "when_valid"}
        response = await user.service.request("POST", path, json=body)
        if response.status_code == httpx.codes.CREATED and response.json()["state"] == "activated":
            seen.rotations += 1
        else:
            seen.failed_rotations += 1


async def _sample(user: RelayUser, seen: Seen) -> None:
    while True:
        seen.memory_kb.append(user.peer.memory_kb())
        await asyncio.sleep(SAMPLE_SECONDS)


async def _report(seen: Seen, ends_at: float) -> None:
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        progress(
            f"{max(0.0, ends_at - time.monotonic()):,.0f} s left: {seen.statuses.total():,} calls,"
            f" {seen.aborted:,} left by their client, {seen.errors} errors, {seen.rotations} rotations,"
            f" {seen.memory_kb[-1] / 1024:.1f} MB"
        )


async def _ledger(service: Service) -> tuple[list[dict[str, Any]], int]:
    """The rows of the ledger after all calls have ended, and what is still reserved."""
    superuser = create_async_engine(service.database_url, poolclass=NullPool)

    async def is_settled() -> bool:
        (found,) = await fetch(superuser, _OPEN, organization=ORGANIZATION)
        return not found["open"]

    try:
        await until(is_settled, "every call has ended", seconds=60)
        (counter,) = await fetch(superuser, _RESERVED, organization=ORGANIZATION)
        return await fetch(superuser, _LEDGER, organization=ORGANIZATION), int(counter["reserved"])
    finally:
        await superuser.dispose()


def _measures(seen: Seen, check: LedgerCheck, *, reserved: int, max_growth: float) -> list[Measure]:
    return [
        Measure(
            name="soak, errors that the provider did not send",
            value=seen.errors,
            unit="",
            at_most=0,
            note=", ".join(f"{number} x {status}" for status, number in sorted(seen.statuses.items())),
        ),
        Measure(name="soak, streams that their client left", value=seen.aborted, unit="", at_least=1),
        Measure(name="soak, rotations", value=seen.rotations, unit="", at_least=1),
        Measure(name="soak, failed rotations", value=seen.failed_rotations, unit="", at_most=0),
        Measure(
            name="soak, growth of the memory",
            value=seen.growth * 100,
            unit="%",
            at_most=max_growth * 100,
            note=f"{seen.memory_kb[0] / 1024:.1f} MB at first, {seen.memory_kb[-1] / 1024:.1f} MB at last",
        ),
        Measure(name="soak, reserved at the end", value=reserved, unit="", at_most=0),
        *check.measures(),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    options = parser.parse_args()
    measures = asyncio.run(soak(minutes=options.minutes))
    print(table(measures))
    return 0 if all(measure.is_met for measure in measures) else 1


if __name__ == "__main__":
    sys.exit(main())
