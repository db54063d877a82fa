"""Measures requests of the service in a cell: their latency, and the CPU time that they take on each node.

One service for each database, started as `byok serve`. A client has one connection to each of them and sends them the same
request in turn, so that other load on the machine affects all of them. Background jobs run, so the CPU time includes rollups.
"""

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import httpx
import psutil
import sqlalchemy as sa

from app.auth.principal import Scope
from bench.cell_databases import CellDatabase
from bench.load import request
from bench.measures import Measure, progress
from tests.support.processes.fake_anthropic import provider_process
from tests.support.processes.service import Service, running
from tests.support.provider.fake_anthropic import make_key
from tests.support.requests.usage_events import event

# Of the latency without cells.
MAX_RATIO = 2.0
ROUNDS, WARM_UP = 50, 15
EVENTS = 500
ORGANIZATION = "org_bench"
_PATH = f"/v1/organizations/{ORGANIZATION}"
_LIMIT = {"name": "Budget", "amount": {"amount": "1000000", "currency": "USD"}, "period": "month"}


@dataclass(kw_only=True)
class Subject:
    """A service on one of the databases."""

    database: CellDatabase
    service: Service
    token: str
    credential: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, dict[str, float]] = field(default_factory=dict)

    def cpu_seconds(self) -> dict[str, float]:
        """The CPU time of the service and of each kind of node so far."""
        spent = psutil.Process(self.service.process.pid).cpu_times()
        return {"service": spent.user + spent.system, **self.database.cpu_seconds()}


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection to a service."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, wire: bytes) -> float:
        """Send a request and read the whole response; returns the seconds that it took."""
        started_at = time.perf_counter()
        self.writer.write(wire)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(it for it in head.lower().split(b"\r\n") if it.startswith(b"content-length:"))
        await self.reader.readexactly(int(length.split(b":")[1]))
        seconds = time.perf_counter() - started_at
        assert head.startswith(b"HTTP/1.1 2"), head
        return seconds


async def run(databases: Sequence[CellDatabase]) -> list[Measure]:
    async with provider_process() as provider, AsyncExitStack() as stack:
        subjects = [await stack.enter_async_context(_subject(it, provider)) for it in databases]
        measures = [measure for name in _REQUESTS for measure in await _compare(name, subjects)]
    return [*measures, *_three_machines(subjects)]


@asynccontextmanager
async def _subject(database: CellDatabase, provider: str) -> AsyncIterator[Subject]:
    settings = {
        name: sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        for name, url in database.roles.settings.items()
    }
    limits = {
        "RATE_LIMITS__CREDENTIAL_WRITES": "1000000",
        "RATE_LIMITS__CHANGES": "1000000",
        "QUOTAS__CREDENTIALS": "100000",
    }
    async with running(**settings, **limits, PROVIDER__DEFAULT_BASE_URL=provider) as service:
        saved = await service.save(ORGANIZATION, make_key())
        assert saved.status_code == httpx.codes.CREATED, saved.text
        limit = await service.request("POST", f"{_PATH}/spend-limits", json=_LIMIT)
        assert limit.status_code == httpx.codes.CREATED, limit.text
        yield Subject(
            database=database,
            service=service,
            token=await service.token("billing-admin", "*", *Scope),
            credential=saved.json()["id"],
        )


def _get(subject: Subject, path: str) -> bytes:
    return request("GET", f"{_PATH}/{path}", token=subject.token)


def _post(subject: Subject, path: str, body: object) -> bytes:
    return request("POST", f"{_PATH}/{path}", token=subject.token, body=json.dumps(body))


def _report(subject: Subject) -> bytes:
    since = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=7)
    return _get(subject, f"usage-report?starting_at={since:%Y-%m-%dT%H:%M:%SZ}&bucket_width=1d")


_RESERVATION = {"amount": {"amount": "0.01", "currency": "USD"}, "ttl_seconds": 60}
_REQUESTS: Mapping[str, Callable[[Subject], bytes]] = {
    "read a credential": lambda it: _get(it, f"provider-credentials/{it.credential}"),
    "save a key": lambda it: _post(it, "provider-credentials", {"label": "Acme", "api_key": make_key()}),
    "reserve": lambda it: _post(it, "spend-reservations", _RESERVATION),
    "ingest one event": lambda it: _post(it, "usage-events", {"events": [event()]}),
    "report of 7 days": _report,
    f"ingest {EVENTS} events": lambda it: _post(
        it, "usage-events", {"events": [event() for _ in range(EVENTS)]}
    ),
}


async def _compare(name: str, subjects: Sequence[Subject]) -> list[Measure]:
    opened = [Connection(*await asyncio.open_connection("127.0.0.1", it.service.port)) for it in subjects]
    for number in range(WARM_UP + ROUNDS):
        if number == WARM_UP:
            before = [subject.cpu_seconds() for subject in subjects]
        for subject, connection in zip(subjects, opened, strict=True):
            seconds = await connection.send(_REQUESTS[name](subject))
            if number >= WARM_UP:
                subject.seconds.setdefault(name, []).append(seconds)
    for subject, earlier in zip(subjects, before, strict=True):
        spent = subject.cpu_seconds()
        subject.cpu[name] = {node: (spent[node] - earlier[node]) / ROUNDS for node in spent}
    for connection in opened:
        connection.writer.close()
    return _measures(name, subjects)


def _measures(name: str, subjects: Sequence[Subject]) -> list[Measure]:
    first, *others = subjects
    middle = {it.database.name: statistics.median(it.seconds[name]) * 1000 for it in subjects}
    progress(f"{name}: " + ", ".join(f"{value:.2f} ms {place}" for place, value in middle.items()))
    return [
        measure
        for it in others
        for measure in (
            Measure(
                name=f"{name}, {it.database.name}",
                value=middle[it.database.name] / middle[first.database.name],
                unit="x",
                at_most=MAX_RATIO,
                note=f"{middle[it.database.name]:.2f} ms, {middle[first.database.name]:.2f} ms without cells",
            ),
            Measure(
                name=f"{name}, {it.database.name}, CPU time",
                value=sum(it.cpu[name].values()) / sum(first.cpu[name].values()),
                unit="x",
                note=f"ms: {_listed(it.cpu[name])}; without cells {_listed(first.cpu[name])}",
            ),
        )
    ]


def _listed(cpu: Mapping[str, float]) -> str:
    return ", ".join(f"{node} {seconds * 1000:.2f}" for node, seconds in cpu.items())


def _three_machines(subjects: Sequence[Subject]) -> list[Measure]:
    """By arithmetic: how much more a coordinator and two workers carry than one server, each on its own machine.

    The node that is busy first limits them. Cells are spread evenly over the workers.
    """
    one = next(it for it in subjects if it.database.name == "without cells")
    return [
        Measure(
            name=f"{name}, one server to three",
            value=min(spent["server"] / there["coordinator"], 2 * spent["server"] / there["worker"]),
            unit="x",
            note="by arithmetic from CPU time; one server would be 1.00",
        )
        for subject in subjects
        if "worker" in subject.database.nodes
        for name, there in subject.cpu.items()
        for spent in (one.cpu[name],)
    ]
