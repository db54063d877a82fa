"""Measures reservations and settlements per second: of one organization, and spread over 200. Limits must hold.

Each rate is compared with transactions that do nothing, on the same connections. The two alternate every second, so that
other load on the machine affects both.

python -m bench.limits          with a separate PostgreSQL, through the service class that the API calls
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count, cycle, islice
from pathlib import Path
from uuid import UUID

from app.auth.principal import Caller
from app.core.admission import AdmissionQueue
from app.core.clock import new_id
from app.core.errors import SpendLimitExceeded
from app.database import migrations
from app.database.embedded.server import EmbeddedLogins, embedded_postgres
from app.database.engine import Database, DatabaseLogin
from app.database.unit_of_work import UnitsOfWork
from app.pricing.price_list import load_price_list
from app.pricing.service import PriceService
from app.spend_limits.limits import Enforcement, LimitPeriod, LimitScope, LimitTerms
from app.spend_limits.repository import LimitRepository
from app.spend_limits.reservation_service import ReservationRequest, ReservationService
from app.spend_limits.service import SpendLimitService
from app.usage.service import IngestionService
from app.usage_events.anthropic_usage import UsageObject
from app.usage_events.events import EventBatch, UsageEvent
from app.usage_events.records import Outcome
from bench.measures import Measure, progress, table
from tests.support.database.spending_ledger import limit_service
from tests.support.usage.unpriced_ingestion import NoPrices

WORKERS = 32
ORGANIZATIONS = 200
# Reservations to settle. More than can be settled in all rounds.
RESERVED = 40_000
ROUNDS, ROUND_SECONDS = 5, 1.0
UNIT = 10**10
# Of the rate of empty transactions.
MIN_RATIO = 0.4
# Fewer than the requested reservations, so that the limit is reached.
LIMIT_UNITS = 100

REQUEST = ReservationRequest(
    amount=UNIT,
    model=None,
    endpoint_id=None,
    feature=None,
    ttl=timedelta(minutes=10),
)


@contextmanager
def _server() -> Iterator[EmbeddedLogins]:
    with tempfile.TemporaryDirectory(prefix="byok-bench-") as directory:
        # If root starts PostgreSQL, it runs as another user.
        Path(directory).chmod(0o711)  # blocking is fine here
        with embedded_postgres(Path(directory)) as logins:
            yield logins


@asynccontextmanager
async def _database() -> AsyncIterator[Database]:
    with _server() as logins:
        await migrations.migrate(logins.owner)
        database = Database(
            DatabaseLogin(url=logins.service, set_role=False), pool_size=WORKERS, timeout_seconds=30
        )
        yield database
        await database.close()


async def _set_limits(limits: SpendLimitService, organizations: Sequence[str], amount: int) -> None:
    for organization in organizations:
        terms = LimitTerms(
            name="Budget",
            amount=amount,
            period=LimitPeriod.MONTH,
            scope=LimitScope(),
            enforcement=Enforcement.BLOCK,
            thresholds=(),
        )
        caller = Caller(subject="bench", organization_id=organization, request_id="")
        await limits.create(caller, terms, limit_id=new_id())


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Operations per second, and the median of their ratios to the empty transactions just before them."""

    operations: float
    ratio: float

    def measure(self, name: str, note: str) -> Measure:
        return Measure(
            name=f"{name}, ratio to empty transactions",
            value=self.ratio,
            unit="x",
            at_least=MIN_RATIO,
            note=f"{self.operations:,.0f}/s; {note}",
        )


async def _compare(database: Database, operate: Callable[[], Awaitable[None]]) -> Rates:
    """Alternate empty transactions with these operations, each by all workers."""
    units, numbers = UnitsOfWork(database), count()

    async def empty() -> None:
        async with units.writing(f"org_empty_{next(numbers) % ORGANIZATIONS}") as uow:
            await uow[LimitRepository].clock()
            await uow.commit()

    for warm_up in (empty, operate):
        await _per_second(warm_up)
    rounds = [(await _per_second(empty), await _per_second(operate)) for _ in range(ROUNDS)]
    progress(", ".join(f"{done:,.0f}/s of {empty:,.0f}/s" for empty, done in rounds))
    return Rates(
        operations=statistics.median(done for _, done in rounds),
        ratio=statistics.median(done / empty for empty, done in rounds),
    )


async def _per_second(operate: Callable[[], Awaitable[None]]) -> float:
    started_at = time.perf_counter()

    async def work() -> int:
        done = 0
        while time.perf_counter() - started_at < ROUND_SECONDS:
            await operate()
            done += 1
        return done

    done = sum(await asyncio.gather(*(work() for _ in range(WORKERS))))
    return done / (time.perf_counter() - started_at)


async def _reserve(database: Database, organizations: Sequence[str]) -> tuple[Rates, int, int]:
    """Return the rates of reservation requests, and how many were granted and refused."""
    reservations = ReservationService(UnitsOfWork(database), NoPrices())
    granted = refused = 0
    following = cycle(organizations)

    async def reserve() -> None:
        nonlocal granted, refused
        caller = Caller(subject="bench", organization_id=next(following), request_id="")
        try:
            await reservations.reserve(caller, REQUEST, reservation_id=new_id())
            granted += 1
        except SpendLimitExceeded:
            refused += 1

    return await _compare(database, reserve), granted, refused


async def _settle(database: Database, organizations: Sequence[str]) -> tuple[Rates, int]:
    """Return the rates of events that settle a reservation, one event per request, and how many were ingested."""
    units = UnitsOfWork(database)
    prices = PriceService(units, load_price_list())
    reservations = ReservationService(units, prices)
    admission = AdmissionQueue(WORKERS, queue_timeout_seconds=30, max_waiting=10 * WORKERS)
    ingestion = IngestionService(units, prices=prices, limits=limit_service(units), admission=admission)
    waiting: deque[tuple[str, UUID]] = deque()
    settled = 0

    async def reserve(organization: str) -> None:
        caller = Caller(subject="bench", organization_id=organization, request_id="")
        made = await reservations.reserve(caller, REQUEST, reservation_id=new_id())
        waiting.append((organization, made.id))

    for _ in range(RESERVED // 1000):
        await asyncio.gather(*(reserve(one) for one in islice(cycle(organizations), 1000)))

    async def settle() -> None:
        nonlocal settled
        organization, reservation_id = waiting.popleft()
        ingested = await ingestion.ingest(organization, _batch(reservation_id))
        settled += ingested.accepted

    return await _compare(database, settle), settled


def _batch(reservation_id: UUID) -> EventBatch:
    event = UsageEvent(
        event_id=str(new_id()),
        started_at=datetime.now(UTC),
        model="claude-haiku-4-5",
        outcome=Outcome.SUCCEEDED,
        usage=UsageObject(input_tokens=100, output_tokens=100),
        reservation_id=reservation_id,
    )
    return EventBatch(events=[event], digests=[reservation_id.bytes], indexes=[0], usages=[b"{}"], flags=[0])


async def _excess(limits: SpendLimitService, organizations: Sequence[str]) -> int:
    """Return the pico-USD reserved beyond the limits."""
    excess = 0
    for organization in organizations:
        for state in await limits.page(organization, at_most=10, before=None):
            excess += max(0, state.spend.settled + state.spend.reserved - state.limit.terms.amount)
    return excess


async def run() -> list[Measure]:
    measures: list[Measure] = []
    async with _database() as database:
        for name, number, limit_units in (
            ("one hot organization", 1, 10**6),
            ("one hot organization, beyond its limit", 1, LIMIT_UNITS),
            (f"{ORGANIZATIONS} organizations", ORGANIZATIONS, 10**6),
        ):
            measures += await _measure_reservations(database, name, number, limit_units)
        for name, number in (("one hot organization", 1), (f"{ORGANIZATIONS} organizations", ORGANIZATIONS)):
            measures += await _measure_settlements(database, name, number)
    return measures


async def _measure_reservations(
    database: Database, name: str, number: int, limit_units: int
) -> list[Measure]:
    limits = limit_service(UnitsOfWork(database))
    organizations = [f"org_{new_id().hex}" for _ in range(number)]
    await _set_limits(limits, organizations, limit_units * UNIT)
    rates, granted, refused = await _reserve(database, organizations)
    excess = await _excess(limits, organizations)
    progress(f"{name}: {granted} granted, {refused} refused, {excess} beyond")
    measures = [
        rates.measure(f"reservations, {name}", f"{granted} granted, {refused} refused"),
        Measure(name="... pico-USD beyond the limit", value=excess, unit="", at_most=0),
    ]
    if limit_units == LIMIT_UNITS:
        share = granted / limit_units
        measures.append(
            Measure(name="... share of the limit granted", value=share, unit="", at_least=1, at_most=1)
        )
    return measures


async def _measure_settlements(database: Database, name: str, number: int) -> list[Measure]:
    limits = limit_service(UnitsOfWork(database))
    organizations = [f"org_{new_id().hex}" for _ in range(number)]
    await _set_limits(limits, organizations, 10**6 * UNIT)
    rates, settled = await _settle(database, organizations)
    still_reserved = 0
    for organization in organizations:
        (state,) = await limits.page(organization, at_most=10, before=None)
        still_reserved += state.spend.reserved // UNIT
    progress(f"settlements, {name}: {settled} settled")
    return [
        rates.measure(f"settlements, {name}", "each event its own request that settles a reservation"),
        Measure(
            name="... reservations settled more or less than once",
            value=abs(RESERVED - settled - still_reserved),
            unit="",
            at_most=0,
        ),
    ]


def main() -> int:
    measures = asyncio.run(run())
    print(f"\n{table(measures)}")
    return 0 if all(measure.is_met for measure in measures) else 1


if __name__ == "__main__":
    sys.exit(main())
