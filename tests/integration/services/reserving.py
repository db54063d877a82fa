"""A process of its own that reserves, releases and settles with many workers at once.

Run as `python -m tests.integration.services.reserving`, told what to do by one line of JSON on its
standard input; prints what it did as one line of JSON.
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
from tests.spend_ledger import ingest, make_row
from tests.unpriced import Unpriced

FEATURES = ("assistant", "search", "summaries")


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What a process is to do. With `settles`, two of three reservations end: released, or by their event."""

    url: str
    organization: str
    workers: int
    reservations: int
    amounts: Sequence[int]
    settles: bool
    seed: int


class Worker:
    """One of many."""

    def __init__(self, orders: Orders, database: Database, number: int) -> None:
        self._orders = orders
        self._database = database
        self._reservations = ReservationService(UnitsOfWork(database), Unpriced())
        self._random = random.Random(f"{orders.seed}-{number}")
        self._caller = Caller(
            subject=f"worker-{orders.seed}-{number}", organization_id=orders.organization, request_id=""
        )
        self.did: Counter[str] = Counter()

    async def work(self, reservations: int) -> None:
        for _ in range(reservations):
            amount = self._random.choice(self._orders.amounts)
            try:
                made = await self._reserve(amount)
            except SpendLimitExceeded:
                self.did["refused"] += 1
                continue
            self.did["granted"] += 1
            self.did["amount"] += amount
            if self._orders.settles:
                await self._end(made)

    async def _reserve(self, amount: int) -> Reservation:
        request = ReservationRequest(
            amount=amount,
            model=None,
            input_tokens=0,
            max_output_tokens=0,
            endpoint_id=None,
            feature=self._random.choice(FEATURES),
            ttl=timedelta(minutes=10),
        )
        return await self._reservations.reserve(self._caller, request, reservation_id=new_id())

    async def _end(self, made: Reservation) -> None:
        match self._random.randrange(3):
            case 0:
                await self._reservations.release(self._caller, made.id)
            case 1:
                event = make_row(
                    self._random.randrange(made.held + 1),
                    feature=made.spender.feature,
                    reservation_id=made.id,
                    started_at=made.created_at,
                )
                # A batch brings others' events too, in whatever order.
                other = make_row(0, feature=self._random.choice(FEATURES), started_at=made.created_at)
                await ingest(self._database, self._orders.organization, event, other)


async def run(orders: Orders) -> Counter[str]:
    """All workers of one process."""
    login = DatabaseLogin(url=sa.make_url(orders.url), set_role=True)
    database = Database(login, pool_size=orders.workers, timeout_seconds=30)
    workers = [Worker(orders, database, number) for number in range(orders.workers)]
    try:
        await asyncio.gather(*(worker.work(orders.reservations // orders.workers) for worker in workers))
    finally:
        await database.close()
    return sum((worker.did for worker in workers), Counter())


async def run_apart(orders: Orders) -> dict[str, Any]:
    """The same in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate(json.dumps(asdict(orders)).encode())
    assert process.returncode == 0
    did: dict[str, Any] = json.loads(printed)
    return did


if __name__ == "__main__":
    given = json.loads(sys.stdin.read())
    print(json.dumps(asyncio.run(run(Orders(**given)))))
