"""Many reservations that share a transaction do not hold up other tasks while they are priced."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import cast
from uuid import uuid4

import pytest

from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.spend_limits.limits import ExpectedUsage
from app.spend_limits.reservation_repository import NewReservation
from app.spend_limits.reservation_service import ReservationRequest, ReservationService, WantedReservation
from tests.support.usage.unpriced_ingestion import NoPrices

RESERVATIONS = 40


class _Repository:
    def __init__(self) -> None:
        self.wanted: Sequence[NewReservation] = ()

    def __getitem__(self, _kind: object) -> "_Repository":
        return self

    async def reserve(self, wanted: Sequence[NewReservation]) -> Sequence[NewReservation]:
        self.wanted = wanted
        return wanted


def _wanted() -> WantedReservation:
    request = ReservationRequest(
        amount=None,
        model="model",
        endpoint_id=None,
        feature=None,
        ttl=timedelta(hours=1),
        expected=ExpectedUsage(model="model", input_tokens=1, max_output_tokens=1),
    )
    return WantedReservation(id=uuid4(), created_by="agent", request=request)


class TestReserveWithin:
    async def test_lets_other_tasks_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("app.core.event_loop.SLICE_SECONDS", 0)
        service = ReservationService(cast("UnitsOfWork", None), NoPrices())
        wanted, repository, iterations = [_wanted() for _ in range(RESERVATIONS)], _Repository(), 0

        async def count() -> None:
            nonlocal iterations
            while True:
                iterations += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        await service.reserve_within(cast("UnitOfWork", repository), wanted, has_price_overrides=False)

        counting.cancel()
        assert [one.id for one in repository.wanted] == [one.id for one in wanted]
        assert iterations >= RESERVATIONS / 4
