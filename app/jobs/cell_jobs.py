"""Runs background jobs in every cell."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from app.core.errors import Unavailable
from app.database.cells.directory import in_cell
from app.database.unit_of_work import UnitsOfWork

Job = Callable[[], Awaitable[object]]

log = structlog.get_logger("byok.jobs")


class CellJobs:
    """Runs a job in all cells at the same time, so that a cell whose server does not respond delays only its own."""

    def __init__(self, units: UnitsOfWork) -> None:
        self._units = units

    def in_all(self, job: Job) -> Job:
        """The job for all cells. Without cells it is the job itself; with cells it logs the error of each that fails."""

        async def run() -> None:
            cells = await self._units.cells()
            if len(cells) == 1:
                await job()
            else:
                await asyncio.gather(*(_run_in(cell, job) for cell in cells))

        return run


async def _run_in(cell: str, job: Job) -> None:
    try:
        with in_cell(cell):
            await job()
    except Unavailable as error:
        log.warning("job_postponed", cell=cell, code=error.code)
    except Exception as error:  # noqa: BLE001  # logged by type: the message may quote input
        log.error("job_failed", cell=cell, error=type(error).__name__)  # noqa: TRY400
