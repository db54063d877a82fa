"""Reads the body of an ingest request in batches.

A JSON body is read whole. An NDJSON body is read line by line as it arrives, with at most two batches in memory.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Sequence
from contextlib import suppress
from mmap import mmap

from starlette.requests import ClientDisconnect

from app.api.problem_schema import Committed
from app.core.errors import ByokError, LineTooLong
from app.core.event_loop import TimeSlice, list_in_slices
from app.usage.schemas import MAX_RESULTS, EventResult, EventResults
from app.usage.service import IngestionService
from app.usage_events.batch_splitter import RawEvent, split_batch
from app.usage_events.event_reader import MAX_BATCH_ITERATIONS, EventReader
from app.usage_events.events import EventBatch, EventStatus, Ingested, NotAccepted
from app.usage_events.value_scanner import BatchBody

LINE_LIMIT_BYTES = 64 * 1024

# A chunk of lines is committed together. It ends at whichever limit is reached first.
_CHUNK_LINES = 1000
_CHUNK_BYTES = 1024 * 1024
_LARGEST_ARRAY = 256 * 1024


class RequestIngestion:
    """Ingests the events of one request and counts the results."""

    def __init__(self, ingestion: IngestionService, organization_id: str) -> None:
        self._ingestion = ingestion
        self._organization_id = organization_id
        self._accepted = 0
        self._duplicates = 0
        self._not_accepted = 0
        self._results: list[NotAccepted] = []
        self._lines = 0
        self._running: asyncio.Task[Ingested] | None = None
        self._rejected: list[NotAccepted] = []
        self._lines_after = 0

    async def results_json(self) -> bytes:
        """Serialize the `EventResults`, result by result: 10,000 of them take 30 ms."""
        results = await list_in_slices(EventResult.of(it).to_json() for it in self._results)
        before, after = EventResults.model_construct(
            accepted=self._accepted,
            duplicates=self._duplicates,
            results=[],
            results_truncated=len(self._results) < self._duplicates + self._not_accepted,
        ).split_json("results")
        return before + b",".join(results) + after

    @property
    def committed(self) -> Committed:
        """What was committed before the request failed: the first `lines` lines and no others."""
        return Committed(
            lines=self._lines,
            accepted=self._accepted,
            duplicates=self._duplicates,
            rejected=self._not_accepted,
        )

    async def ingest_json(self, body: AsyncIterable[bytes]) -> None:
        """Ingest a JSON batch in one transaction.

        Raises:
            MalformedJson, InvalidInput, IngestionOverloaded, DatabaseUnavailable
            ClientDisconnect: nothing was ingested.
        """
        received = await _receive(body)
        reader = EventReader(max_iterations=MAX_BATCH_ITERATIONS)
        await _read(reader, await split_batch(received))
        await self._start_batch(reader)
        await self._finish_batch()

    async def ingest_lines(self, body: AsyncIterable[bytes]) -> None:
        """Ingest NDJSON lines, one transaction per chunk. After an error, `committed` states what was committed.

        Raises:
            LineTooLong: all lines before the long line were ingested.
            IngestionOverloaded, DatabaseUnavailable
            ClientDisconnect: all complete chunks were ingested.
        """
        reader = EventReader()
        try:
            async for lines, is_last in _line_chunks(body):
                await _read(reader, lines)
                await self._finish_batch()
                await self._start_batch(reader)
                if is_last:
                    break
            await self._finish_batch()
        except LineTooLong:
            await self._finish_batch()
            raise
        finally:
            # After any other error, wait for the batch that was already sent to the database.
            with suppress(ByokError):
                await self._finish_batch()

    async def _start_batch(self, reader: EventReader) -> None:
        """Start to ingest what was read. The next batch is read at the same time."""
        batch: EventBatch = reader.batch()
        self._rejected, reader.rejected = reader.rejected, []
        self._lines_after = reader.next_index
        self._running = asyncio.create_task(self._ingestion.ingest(self._organization_id, batch))

    async def _finish_batch(self) -> None:
        """Wait for the running batch and count its results."""
        task, self._running = self._running, None
        if task is None:
            return
        ingested = await task
        self._accepted += ingested.accepted
        self._lines = self._lines_after
        self._count(sorted([*self._rejected, *ingested.not_accepted], key=lambda it: it.index))

    def _count(self, not_accepted: Sequence[NotAccepted]) -> None:
        duplicates = sum(it.status is EventStatus.DUPLICATE for it in not_accepted)
        self._duplicates += duplicates
        self._not_accepted += len(not_accepted) - duplicates
        remaining = MAX_RESULTS - len(self._results)
        self._results.extend(not_accepted[:remaining])


async def _receive(body: AsyncIterable[bytes]) -> BatchBody:
    """Return the whole body. Joining 16 MiB in one step would take 10 to 40 ms; an array that grows would take 64 MiB."""
    parts, size, time_slice = deque[bytes](), 0, TimeSlice()
    time_slice.suspend()
    async for part in body:
        time_slice.resume()
        parts.append(part)
        size += len(part)
        await time_slice.pause_if_used()
        time_slice.suspend()
    # Anonymous memory: an array of 16 MiB is filled with zeros first, which takes as long as joining.
    received = mmap(-1, size) if size > _LARGEST_ARRAY else bytearray(size)
    position = 0
    time_slice.resume()
    while parts:
        part = parts.popleft()
        received[position : position + len(part)] = part
        position += len(part)
        await time_slice.pause_if_used()
    return received


async def _read(reader: EventReader, raws: Sequence[RawEvent | bytes]) -> None:
    time_slice = TimeSlice()
    for raw in raws:
        reader.read((raw,))
        await time_slice.pause_if_used()


async def _line_chunks(body: AsyncIterable[bytes]) -> AsyncIterable[tuple[list[bytes], bool]]:
    """Yield chunks of lines, each with whether it is the last one."""
    lines: list[bytes] = []
    size = 0
    partial = b""
    async for part in body:
        if b"\n" not in part:
            partial += part
        else:
            found = (partial + part).split(b"\n")
            partial = found.pop()
            too_long = next((n for n, line in enumerate(found) if len(line) > LINE_LIMIT_BYTES), None)
            lines += found[:too_long]
            size += len(part)
            if too_long is not None:
                yield lines, False
                raise LineTooLong
        if len(partial) > LINE_LIMIT_BYTES:
            yield lines, False
            raise LineTooLong
        start = 0
        while start < len(lines) and (len(lines) - start >= _CHUNK_LINES or size >= _CHUNK_BYTES):
            chunk = lines[start : start + _CHUNK_LINES]
            start += len(chunk)
            size -= sum(map(len, chunk))
            yield chunk, False
        del lines[:start]
    if partial:
        lines.append(partial)
    if lines:
        yield lines, True


__all__ = ["LINE_LIMIT_BYTES", "ClientDisconnect", "RequestIngestion"]
