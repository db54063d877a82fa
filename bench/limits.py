"""Reservations a second: everybody on one organization's limit, and spread over two hundred. Never over the limit.

python -m bench.limits          on a PostgreSQL of its own, through the use case as the API calls it
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa

from app.auth.principal import Caller
from app.core.clock import new_id
from app.core.errors import SpendLimitExceeded
from app.database import migrations
from app.database.embedded_postgres import embedded_postgres
from app.database.engine import Database, DatabaseLogin
from app.database.unit_of_work import UnitsOfWork
from app.spend_limits.limits import Enforcement, LimitPeriod, LimitScope, LimitTerms
from app.spend_limits.repository import LimitRepository
from app.spend_limits.reservation_service import ReservationRequest, ReservationService
from app.spend_limits.service import SpendLimitService
from bench.measures import Measure, progress, table
from tests.spend_ledger import limits_over
from tests.unpriced import Unpriced

WORKERS = 32
ORGANIZATIONS = 200
SECONDS = 5.0
UNIT = 10**10
# Less than what is asked for in the time, so that the limit is met.
ROOM = 100

REQUEST = ReservationRequest(
    amount=UNIT,
    model=None,
    input_tokens=0,
    max_output_tokens=0,
    endpoint_id=None,
    feature=None,
    ttl=timedelta(minutes=10),
)


@contextmanager
def _server() -> Iterator[sa.URL]:
    with tempfile.TemporaryDirectory(prefix="byok-bench-") as directory:
        # PostgreSQL runs as another user where root starts it.
        Path(directory).chmod(0o711)  # nobody waits for this loop
        with embedded_postgres(Path(directory)) as server:
            yield server.set(database="byok_bench")


@asynccontextmanager
async def _database() -> AsyncIterator[Database]:
    with _server() as url:
        await migrations.create_database(url)
        await migrations.migrate(url)
        database = Database(DatabaseLogin(url=url, set_role=True), pool_size=WORKERS, timeout_seconds=30)
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
        await limits.set(caller, terms, limit_id=new_id())


async def _reserve(database: Database, organizations: Sequence[str]) -> tuple[float, int, int]:
    """Reservations tried a second, how many were granted, and how many refused."""
    reservations = ReservationService(UnitsOfWork(database), Unpriced())
    granted = refused = 0
    began_at = time.perf_counter()

    async def work(number: int) -> None:
        nonlocal granted, refused
        turn = number
        while time.perf_counter() - began_at < SECONDS:
            organization = organizations[turn % len(organizations)]
            turn += WORKERS + 1
            caller = Caller(subject="bench", organization_id=organization, request_id="")
            try:
                await reservations.reserve(caller, REQUEST, reservation_id=new_id())
                granted += 1
            except SpendLimitExceeded:
                refused += 1

    await asyncio.gather(*(work(number) for number in range(WORKERS)))
    return (granted + refused) / (time.perf_counter() - began_at), granted, refused


async def _empty(database: Database) -> float:
    """Transactions a second that only read the clock: what the machine has to give just now."""
    units, done, began_at = UnitsOfWork(database), 0, time.perf_counter()

    async def work(number: int) -> None:
        nonlocal done
        while time.perf_counter() - began_at < SECONDS:
            async with units.writing(f"org_empty_{number}") as uow:
                await uow[LimitRepository].clock()
                await uow.commit()
            done += 1

    await asyncio.gather(*(work(number) for number in range(WORKERS)))
    return done / (time.perf_counter() - began_at)


async def _excess(limits: SpendLimitService, organizations: Sequence[str]) -> int:
    """Pico-USD beyond the limits."""
    excess = 0
    for organization in organizations:
        for state in await limits.page(organization, at_most=10, before=None):
            excess += max(0, state.spend.settled + state.spend.reserved - state.limit.terms.amount)
    return excess


async def run() -> list[Measure]:
    measures: list[Measure] = []
    async with _database() as database:
        limits = limits_over(UnitsOfWork(database))
        empty = await _empty(database)
        progress(f"transactions that do nothing: {empty:,.0f}/s")
        for name, count, room in (
            ("one hot organization", 1, 10**6),
            ("one hot organization, to its limit and beyond", 1, ROOM),
            (f"{ORGANIZATIONS} organizations", ORGANIZATIONS, 10**6),
        ):
            organizations = [f"org_{new_id().hex[:24]}" for _ in range(count)]
            await _set_limits(limits, organizations, room * UNIT)
            rate, granted, refused = await _reserve(database, organizations)
            excess = await _excess(limits, organizations)
            progress(f"{name}: {rate:,.0f}/s, {granted} granted, {refused} refused, {excess} beyond")
            note = f"{granted} granted, {refused} refused; {rate / empty:.2f} of transactions that do nothing"
            measures += [
                Measure(name=f"reservations, {name}", value=rate, unit="/s", note=note),
                Measure(name="... pico-USD beyond the limit", value=excess, unit="", at_most=0),
            ]
            if room == ROOM:
                share = granted / room
                measures.append(
                    Measure(name="... granted of what there was", value=share, unit="", at_least=1, at_most=1)
                )
    return measures


def main() -> int:
    measures = asyncio.run(run())
    print(f"\n{table(measures)}")
    return 0 if all(measure.is_met for measure in measures) else 1


if __name__ == "__main__":
    sys.exit(main())
