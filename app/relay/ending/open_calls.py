"""The open calls of this process. It reports them, so that no other process takes them for lost."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import structlog

from app.core.errors import ByokError
from app.database.unit_of_work import UnitsOfWork
from app.relay.records import HEARTBEAT_SECONDS
from app.relay.repository import CallRepository

log = structlog.get_logger("byok.relay")


@dataclass(slots=True)
class _OpenCall:
    organization_id: str
    usage_so_far: Callable[[], bytes | None]
    beats: int = 0


class OpenCalls:
    """Reports every open call that is older than one interval, with its usage so far. Most calls end before that."""

    def __init__(self, units: UnitsOfWork, *, interval_seconds: float = HEARTBEAT_SECONDS) -> None:
        self._units = units
        self._interval_seconds = interval_seconds
        self._calls: dict[UUID, _OpenCall] = {}

    def add(self, call_id: UUID, organization_id: str, usage_so_far: Callable[[], bytes | None]) -> None:
        self._calls[call_id] = _OpenCall(organization_id, usage_so_far)

    def discard(self, call_id: UUID) -> None:
        self._calls.pop(call_id, None)

    def __len__(self) -> int:
        return len(self._calls)

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            await asyncio.sleep(self._interval_seconds)
            await self.report()

    async def report(self) -> None:
        """Report the calls that were open at the last report already, one transaction for each organization."""
        by_organization: dict[str, list[tuple[UUID, bytes | None]]] = {}
        for call_id, call in self._calls.items():
            call.beats += 1
            if call.beats > 1:
                by_organization.setdefault(call.organization_id, []).append((call_id, call.usage_so_far()))
        for organization_id, usages in by_organization.items():
            try:
                async with self._units.writing(organization_id) as uow:
                    await uow[CallRepository].report(usages)
                    await uow.commit()
            except ByokError as error:
                log.warning("calls_not_reported", organization_id=organization_id, code=error.code)
