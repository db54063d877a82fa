"""Reserves, releases and settles with many concurrent workers in a separate process.

`python -m tests.support.processes.reservations` reads a workload as one line of JSON from standard input, and prints the
counts of its operations as one line of JSON.
"""

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from app.auth.principal import Caller
from app.core.clock import new_id
from app.core.errors import SpendLimitExceeded
from app.database.engine import Database, DatabaseLogin
from app.database.unit_of_work import UnitsOfWork
from app.spend_limits.reservation_service import ReservationRequest, ReservationService
from app.spend_limits.reservations import Reservation
from tests.support.database.spending_ledger import ingest, make_row
from tests.support.usage.unpriced_ingestion import NoPrices

FEATURES = ("assistant", "search", "summaries")


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The work of one process. With `ends_reservations`, two of three reservations end: by a release or by their event."""

    url: str
    organization: str
    workers: int
    reservations: int
    amounts: Sequence[int]
    ends_reservations: bool
    seed: int


class Worker:
    """One of many concurrent workers; `counts` records its operations."""

    def __init__(
        self, workload: Workload, database: Database, reservations: ReservationService, number: int
    ) -> None:
        self._workload = workload
        self._database = database
        self._reservations = reservations
        self._random = random.Random(f"{workload.seed}-{number}")
        self._caller = Caller(
            subject=f"worker-{workload.seed}-{number}", organization_id=workload.organization, request_id=""
        )
        self.counts: Counter[str] = Counter()

    async def work(self, reservations: int) -> None:
        for _ in range(reservations):
            amount = self._random.choice(self._workload.amounts)
            try:
                reservation = await self._reserve(amount)
            except SpendLimitExceeded:
                self.counts["rejected"] += 1
                continue
            self.counts["granted"] += 1
            self.counts["amount"] += amount
            if self._workload.ends_reservations:
                await self._end(reservation)

    async def _reserve(self, amount: int) -> Reservation:
        request = ReservationRequest(
            amount=amount,
            model=None,
            endpoint_id=None,
            feature=self._random.choice(FEATURES),
            ttl=timedelta(minutes=10),
        )
        return await self._reservations.reserve(self._caller, request, reservation_id=new_id())

    async def _end(self, reservation: Reservation) -> None:
        match self._random.randrange(3):
            case 0:
                await self._reservations.release(self._caller, reservation.id)
            case 1:
                event = make_row(
                    self._random.randrange(reservation.reserved_amount + 1),
                    feature=reservation.spender.feature,
                    reservation_id=reservation.id,
                    started_at=reservation.created_at,
                )
                # A batch contains other events too, in any order.
                other = make_row(0, feature=self._random.choice(FEATURES), started_at=reservation.created_at)
                await ingest(self._database, self._workload.organization, event, other)


async def run(workload: Workload) -> Counter[str]:
    """Run all workers of one process."""
    login = DatabaseLogin(url=sa.make_url(workload.url), set_role=False)
    database = Database(login, pool_size=workload.workers, timeout_seconds=30)
    # One service in a process, as in production, so that concurrent requests share transactions.
    service = ReservationService(UnitsOfWork(database), NoPrices())
    workers = [Worker(workload, database, service, number) for number in range(workload.workers)]
    try:
        await asyncio.gather(*(worker.work(workload.reservations // workload.workers) for worker in workers))
    finally:
        await database.close()
    return sum((worker.counts for worker in workers), Counter())


async def run_in_subprocess(workload: Workload) -> dict[str, Any]:
    """Run a workload in a separate process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate(json.dumps(asdict(workload)).encode())
    assert process.returncode == 0
    counts: dict[str, Any] = json.loads(printed)
    return counts


if __name__ == "__main__":
    received = json.loads(sys.stdin.read())
    print(json.dumps(asyncio.run(run(Workload(**received)))))
