"""Measures what cells cost: the latency of a few operations in a cell, as a ratio to a server without cells.

With Citus for PostgreSQL 15 on this machine, also in a cell on a worker of a cluster of three nodes on loopback. The
databases alternate, operation by operation, so that other load affects all of them. Requests of the service come first
(`bench.cell_requests`), then operations of its classes without HTTP.

python -m bench.cells
"""

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from itertools import count
from uuid import UUID

import sqlalchemy as sa

from app.auth.principal import Caller
from app.core.admission import AdmissionQueue
from app.core.clock import new_id
from app.database.engine import Database
from app.database.statements import Query
from app.database.unit_of_work import UnitsOfWork
from app.pricing.price_list import load_price_list
from app.pricing.service import PriceService
from app.spend_limits.limits import Enforcement, LimitPeriod, LimitScope, LimitTerms
from app.spend_limits.reservation_service import ReservationService
from app.usage.service import IngestionService
from app.usage_events.anthropic_usage import UsageObject
from app.usage_events.events import EventBatch, UsageEvent
from app.usage_events.records import Outcome
from bench import cell_requests
from bench.cell_databases import CellDatabase, cell_databases
from bench.limits import REQUEST, UNIT
from bench.measures import Measure, progress, table
from tests.support.database.spending_ledger import limit_service
from tests.support.usage.unpriced_ingestion import NoPrices

ROUNDS, WARM_UP = 60, 15
EVENTS = 500
# Missed by a read of one statement and a reservation, which take a transaction in a cell: three round trips in place of one.
MAX_RATIO = 2.0

_READ = Query(
    sa.text("SELECT count(*) AS n FROM usage_event_key WHERE organization_id = :organization_id").bindparams(
        sa.bindparam("organization_id", type_=sa.Text)
    )
)


class Subject:
    """One organization on one database, and the operations that are measured there."""

    def __init__(self, name: str, database: Database) -> None:
        self.name = name
        self._database = database
        self._organization = f"org_{new_id().hex}"
        units = UnitsOfWork(database)
        self._limits = limit_service(units)
        self._reservations = ReservationService(units, NoPrices())
        self._ingestion = IngestionService(
            units,
            prices=PriceService(units, load_price_list()),
            limits=self._limits,
            admission=AdmissionQueue(4, queue_timeout_seconds=30, max_waiting=40),
        )

    async def prepare(self) -> None:
        """Create the organization, with a limit, so that reservations change a counter."""
        terms = LimitTerms(
            name="Budget",
            amount=10**6 * UNIT,
            period=LimitPeriod.MONTH,
            scope=LimitScope(),
            enforcement=Enforcement.BLOCK,
            thresholds=(),
        )
        await self._limits.create(self._caller, terms, limit_id=new_id())

    @property
    def _caller(self) -> Caller:
        return Caller(subject="bench", organization_id=self._organization, request_id="")

    async def read(self) -> None:
        await self._database.autocommit_read(self._organization).one(
            _READ, organization_id=self._organization
        )

    async def read_limits(self) -> None:
        await self._limits.page(self._organization, at_most=10, before=None)

    async def reserve(self) -> None:
        await self._reservations.reserve(self._caller, REQUEST, reservation_id=new_id())

    async def ingest(self) -> None:
        await self._ingestion.ingest(self._organization, _batch(1))

    async def ingest_many(self) -> None:
        await self._ingestion.ingest(self._organization, _batch(EVENTS))


_numbers = count()


def _batch(size: int) -> EventBatch:
    events = [
        UsageEvent(
            event_id=str(new_id()),
            started_at=datetime.now(UTC),
            model="claude-haiku-4-5",
            outcome=Outcome.SUCCEEDED,
            usage=UsageObject(input_tokens=100, output_tokens=100),
        )
        for _ in range(size)
    ]
    digests = [UUID(int=next(_numbers)).bytes for _ in events]
    return EventBatch(
        events=events,
        digests=digests,
        indexes=list(range(size)),
        usages=[b"{}"] * size,
        flags=[0] * size,
    )


@asynccontextmanager
async def _subjects(databases: Sequence[CellDatabase]) -> AsyncIterator[Sequence[Subject]]:
    async with AsyncExitStack() as stack:
        subjects = []
        for it in databases:
            database = Database(it.roles.login, pool_size=2, timeout_seconds=30)
            stack.push_async_callback(database.close)
            subjects.append(Subject(it.name, database))
            await subjects[-1].prepare()
        yield subjects


async def run() -> list[Measure]:
    async with cell_databases() as databases:
        return await cell_requests.run(databases) + await _run(databases)


async def _run(databases: Sequence[CellDatabase]) -> list[Measure]:
    async with _subjects(databases) as subjects:
        operations: dict[str, Callable[[Subject], Awaitable[None]]] = {
            "read of one statement": Subject.read,
            "list of limits": Subject.read_limits,
            "reservation": Subject.reserve,
            "ingestion of one event": Subject.ingest,
            f"ingestion of {EVENTS} events": Subject.ingest_many,
        }
        return [
            measure
            for name, operate in operations.items()
            for measure in await _compare(name, operate, subjects)
        ]


async def _compare(
    name: str, operate: Callable[[Subject], Awaitable[None]], subjects: Sequence[Subject]
) -> list[Measure]:
    seconds: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    for number in range(WARM_UP + ROUNDS):
        for subject in subjects:
            started_at = time.perf_counter()
            await operate(subject)
            if number >= WARM_UP:
                seconds[subject.name].append(time.perf_counter() - started_at)
    middle = {subject: statistics.median(taken) for subject, taken in seconds.items()}
    progress(f"{name}: " + ", ".join(f"{value * 1000:.2f} ms {subject}" for subject, value in middle.items()))
    first, *others = subjects
    return [
        Measure(
            name=f"{name}, {subject.name}",
            value=middle[subject.name] / middle[first.name],
            unit="x",
            at_most=MAX_RATIO,
            note=f"{middle[subject.name] * 1000:.2f} ms; {middle[first.name] * 1000:.2f} ms without cells",
        )
        for subject in others
    ]


def main() -> int:
    measures = asyncio.run(run())
    print(f"\n{table(measures)}")
    return 0 if all(measure.is_met for measure in measures) else 1


if __name__ == "__main__":
    sys.exit(main())
