"""Measures requests: reads compared with a bare handler, and the time to save a key with a provider without latency.

Both servers run on uvloop and httptools, in one process each, with the same database, in alternating rounds. The
service runs as in production: token checks, row-level security, logs, metrics.
"""

import asyncio
import socket
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import psutil

from bench.load import Load, load, request
from bench.measures import Measure, progress
from tests.support.processes.fake_anthropic import provider_process
from tests.support.processes.service import Service, running, until
from tests.support.provider.fake_anthropic import make_key

ORGANIZATION = "org_bench"
CREDENTIALS = 40
CONNECTIONS = 16
ROUNDS = 9
SECONDS = 1.5
WRITE_SECONDS = 4.0
MIN_RATIO = 0.35


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server: its port and its process."""

    port: int
    process: psutil.Process

    def cpu_seconds(self) -> float:
        spent = self.process.cpu_times()
        return float(spent.user + spent.system)


@dataclass(frozen=True, kw_only=True)
class ServerRound:
    """One round of one server."""

    load: Load
    cpu_ms: float


@dataclass(frozen=True, kw_only=True)
class Read:
    """The same read as a request to each server."""

    name: str
    ours: bytes
    bare: bytes


async def run() -> list[Measure]:
    async with (
        provider_process() as provider_url,
        running(
            PROVIDER__DEFAULT_BASE_URL=provider_url,
            RATE_LIMITS__CREDENTIAL_WRITES="1000000",
            RATE_LIMITS__CHANGES="1000000",
            QUOTAS__CREDENTIALS="100000",
        ) as service,
    ):
        progress(f"saving {CREDENTIALS} credentials")
        credential_id = await _fill(service)
        token = await service.token("billing-admin", ORGANIZATION)
        measures: list[Measure] = []
        ours = Server(port=service.port, process=psutil.Process(service.process.pid))
        async with _bare(service) as bare:
            for read in _reads(credential_id, token):
                measures += await _compare(read, ours, bare)
        for connections in (1, 8):
            measures += await _save(service, token, connections)
        return measures


def _reads(credential_id: str, token: str) -> list[Read]:
    ours = f"/v1/organizations/{ORGANIZATION}/provider-credentials"
    bare = f"/organizations/{ORGANIZATION}/credentials"
    return [
        Read(
            name="read a credential",
            ours=request("GET", f"{ours}/{credential_id}", token=token),
            bare=request("GET", f"{bare}/{credential_id}"),
        ),
        Read(
            name="list 20 credentials",
            ours=request("GET", ours, token=token),
            bare=request("GET", bare),
        ),
    ]


async def _compare(read: Read, ours: Server, bare: Server) -> list[Measure]:
    """Alternate rounds and take the median of their ratios, so that other load affects both sides equally."""
    rounds: list[tuple[ServerRound, ServerRound]] = []
    for number in range(ROUNDS + 1):
        pair = (await _measure_read(ours, read.ours), await _measure_read(bare, read.bare))
        if number:  # the first round is the warm-up
            rounds.append(pair)
            progress(
                f"{read.name}, round {number} of {ROUNDS}:"
                f" {pair[0].load.per_second:,.0f}/s, bare {pair[1].load.per_second:,.0f}/s"
            )
    ratio = statistics.median(mine.load.per_second / theirs.load.per_second for mine, theirs in rounds)
    per_second = statistics.median(mine.load.per_second for mine, _ in rounds)
    p99, bare_p99 = (statistics.median(pair[i].load.p99_ms for pair in rounds) for i in (0, 1))
    cpu, bare_cpu = (statistics.median(pair[i].cpu_ms for pair in rounds) for i in (0, 1))
    return [
        Measure(
            name=f"{read.name}, ratio to bare", value=ratio, unit="x", at_least=MIN_RATIO, note="requests/s"
        ),
        Measure(name=f"{read.name}, requests", value=per_second, unit="/s"),
        Measure(name=f"{read.name}, p99", value=p99, unit="ms", note=f"bare {bare_p99:.1f} ms"),
        Measure(
            name=f"{read.name}, CPU time",
            value=cpu,
            unit="ms",
            note=f"per request in the server; bare {bare_cpu:.2f} ms, ratio {bare_cpu / cpu:.2f}",
        ),
    ]


async def _measure_read(server: Server, wire: bytes) -> ServerRound:
    before = server.cpu_seconds()
    found = await load(server.port, wire, connections=CONNECTIONS, seconds=SECONDS)
    assert found.errors == 0, f"{found.errors} of {found.requests} requests failed"
    return ServerRound(load=found, cpu_ms=(server.cpu_seconds() - before) / found.requests * 1000)


async def _save(service: Service, token: str, connections: int) -> list[Measure]:
    wire = request(
        "POST",
        f"/v1/organizations/{ORGANIZATION}/provider-credentials",
        token=token,
        body='{"label": "Acme production", "api_key": "sk-ant-api03-{random}-valid"}',
    )
    found = await load(service.port, wire, connections=connections, seconds=WRITE_SECONDS)
    assert found.errors == 0, f"{found.errors} of {found.requests} requests failed"
    progress(f"save a key, {connections} at a time: {found.requests} in {WRITE_SECONDS:g} s")
    name = f"save a key, {connections} at a time"
    return [
        Measure(name=f"{name}, p50", value=found.p50_ms, unit="ms", note=f"{found.per_second:,.0f}/s"),
        Measure(name=f"{name}, p99", value=found.p99_ms, unit="ms"),
    ]


async def _fill(service: Service) -> str:
    for _ in range(CREDENTIALS):
        saved = await service.save(ORGANIZATION, make_key())
        assert saved.status_code == httpx.codes.CREATED, saved.text
    credential_id: str = saved.json()["id"]
    return credential_id


@asynccontextmanager
async def _bare(service: Service) -> AsyncIterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    database = service.database_url.set(drivername="postgresql").render_as_string(hide_password=False)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.bare", "--port", str(port), "--database", database),
        stdin=subprocess.DEVNULL,
    )

    async def is_ready() -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                return (await client.get(f"http://127.0.0.1:{port}/openapi.json")).is_success
        except httpx.TransportError:
            return False

    try:
        await until(is_ready, "the bare handler is ready")
        yield Server(port=port, process=psutil.Process(process.pid))
    finally:
        process.terminate()
        await process.wait()
