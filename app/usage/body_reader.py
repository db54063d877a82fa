"""From a body to batches: JSON whole, NDJSON line by line as it comes, with no more in memory than two batches."""

import asyncio
from collections.abc import AsyncIterable, Sequence
from contextlib import suppress
from itertools import islice

from starlette.requests import ClientDisconnect

from app.api.problem_schema import Committed
from app.core.errors import ByokError, LineTooLong
from app.usage.event_reader import EventReader, read_envelope
from app.usage.events import EventBatch, EventStatus, Ingested, NotAccepted
from app.usage.schemas import MOST_RESULTS, EventResult, EventResults
from app.usage.service import IngestionService

LINE_LIMIT_BYTES = 64 * 1024

# A chunk of lines that is committed together: whichever comes first.
_LINES = 1000
_BYTES = 1024 * 1024
# Events read before others get a turn on the loop.
_SLICE = 250


class Intake:
    """Takes the events of one request, and counts what became of them."""

    def __init__(self, usage: IngestionService, organization_id: str) -> None:
        self._usage = usage
        self._organization_id = organization_id
        self._accepted = 0
        self._duplicates = 0
        self._others = 0
        self._results: list[EventResult] = []
        self._lines = 0
        self._under_way: asyncio.Task[Ingested] | None = None
        self._refused: list[NotAccepted] = []
        self._lines_then = 0

    @property
    def results(self) -> EventResults:
        return EventResults.model_construct(
            accepted=self._accepted,
            duplicates=self._duplicates,
            results=self._results,
            results_truncated=len(self._results) < self._duplicates + self._others,
        )

    @property
    def committed(self) -> Committed:
        """What is settled, should the rest not be: so many lines from the first one on, no other."""
        return Committed(
            lines=self._lines,
            accepted=self._accepted,
            duplicates=self._duplicates,
            rejected=self._others,
        )

    async def take_json(self, body: bytes) -> None:
        """One transaction for all of them.

        Raises:
            MalformedJson, InvalidInput, IngestionOverloaded, DatabaseUnavailable
        """
        raws = iter(read_envelope(body))
        reader = EventReader()
        while part := list(islice(raws, _SLICE)):
            reader.read(part)
            await asyncio.sleep(0)
        await self._start(reader)
        await self._settled()

    async def take_lines(self, body: AsyncIterable[bytes]) -> None:
        """Chunk by chunk. When this raises, `committed` says what is settled.

        Raises:
            LineTooLong: every line before it was taken.
            IngestionOverloaded, DatabaseUnavailable
            ClientDisconnect: the chunks that had come whole were taken.
        """
        reader = EventReader()
        try:
            async for lines, is_last in _chunks(body):
                for start in range(0, len(lines), _SLICE):
                    reader.read(lines[start : start + _SLICE])
                    await asyncio.sleep(0)
                await self._settled()
                await self._start(reader)
                if is_last:
                    break
            await self._settled()
        except LineTooLong:
            await self._settled()
            raise
        finally:
            # Whatever else went wrong: what was sent to the database is not left behind.
            with suppress(ByokError):
                await self._settled()

    async def _start(self, reader: EventReader) -> None:
        """Hand a batch over; the next one is read meanwhile."""
        batch: EventBatch = reader.batch()
        self._refused, reader.refused = reader.refused, []
        self._lines_then = reader.next_index
        self._under_way = asyncio.create_task(self._usage.ingest(self._organization_id, batch))

    async def _settled(self) -> None:
        """Wait for the batch under way, and count it."""
        task, self._under_way = self._under_way, None
        if task is None:
            return
        ingested = await task
        self._accepted += ingested.accepted
        self._lines = self._lines_then
        self._count(sorted([*self._refused, *ingested.not_accepted], key=lambda it: it.index))

    def _count(self, not_accepted: Sequence[NotAccepted]) -> None:
        duplicates = sum(it.status is EventStatus.DUPLICATE for it in not_accepted)
        self._duplicates += duplicates
        self._others += len(not_accepted) - duplicates
        room = MOST_RESULTS - len(self._results)
        self._results.extend(EventResult.of(it) for it in not_accepted[:room])


async def _chunks(body: AsyncIterable[bytes]) -> AsyncIterable[tuple[list[bytes], bool]]:
    """Lines, so many at a time; whether they are the last."""
    lines: list[bytes] = []
    size = 0
    rest = b""
    async for part in body:
        if b"\n" not in part:
            rest += part
        else:
            found = (rest + part).split(b"\n")
            rest = found.pop()
            too_long = next((n for n, line in enumerate(found) if len(line) > LINE_LIMIT_BYTES), None)
            lines += found[:too_long]
            size += len(part)
            if too_long is not None:
                yield lines, False
                raise LineTooLong
        if len(rest) > LINE_LIMIT_BYTES:
            yield lines, False
            raise LineTooLong
        while len(lines) >= _LINES or size >= _BYTES:
            chunk, lines = lines[:_LINES], lines[_LINES:]
            size = sum(map(len, lines))
            yield chunk, False
    if rest:
        lines.append(rest)
    if lines:
        yield lines, True


__all__ = ["LINE_LIMIT_BYTES", "ClientDisconnect", "Intake"]
