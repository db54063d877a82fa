"""A collector of logs that stops reading does not stop the service."""

import json
import logging
import os
import select
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

import pytest

from app.observability.log_handler import UnblockedHandler
from app.observability.logs import _formatter
from app.observability.metrics import REGISTRY
from tests.support.output_sinks import log_lines

LINES, LENGTH = 500, 500  # more than a pipe holds


@dataclass(frozen=True)
class Pipe:
    """The two ends of a pipe: the handler writes to one, and the collector reads from the other."""

    stream: TextIO
    reader: int

    def read(self) -> list[str]:
        """The lines in the pipe."""
        text = b""
        try:
            while data := os.read(self.reader, 65536):
                text += data
        except BlockingIOError:
            pass
        return text.decode().splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        yield Pipe(stream, reader)
    os.close(reader)


@pytest.fixture
def handler(pipe: Pipe) -> Iterator[UnblockedHandler]:
    handler = UnblockedHandler(pipe.stream)
    handler.setFormatter(_formatter("json"))
    logger = logging.getLogger("byok.logs")
    with log_lines():  # structlog as the service configures it
        logger.addHandler(handler)
        yield handler
    logger.removeHandler(handler)


def event(number: int) -> dict[str, str]:
    return {"event": f"line {number}", "text": "x" * LENGTH}


def log(handler: UnblockedHandler, number: int) -> None:
    handler.handle(logging.LogRecord("byok.test", logging.INFO, "", 0, event(number), None, None))


class SlowReader:
    """A full pipe, from which the collector always reads after a moment."""

    def __init__(self) -> None:
        self.waits = 0

    def poll(self, milliseconds: int) -> list[tuple[int, int]]:
        if not milliseconds:
            return []
        self.waits += 1
        return [(1, select.POLLOUT)]


class TestUnblockedHandler:
    def test_waits_once_in_a_while_for_a_slow_reader(
        self, handler: UnblockedHandler, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reader = SlowReader()
        monkeypatch.setattr(handler, "_poll", reader)

        for number in range(3):
            log(handler, number)

        assert reader.waits == 1
        assert list(map(json.loads, pipe.read())) == [event(0)]

    def test_drops_lines_while_the_collector_does_not_read(
        self, handler: UnblockedHandler, pipe: Pipe
    ) -> None:
        before = REGISTRY.get_sample_value("byok_log_lines_dropped_total") or 0

        for number in range(LINES):
            log(handler, number)

        kept = pipe.read()
        assert list(map(json.loads, kept)) == [event(number) for number in range(len(kept))]
        assert 0 < len(kept) < LINES
        assert REGISTRY.get_sample_value("byok_log_lines_dropped_total") == before + LINES - len(kept)

    def test_writes_how_many_it_dropped_when_the_collector_reads_again(
        self, handler: UnblockedHandler, pipe: Pipe
    ) -> None:
        for number in range(LINES):
            log(handler, number)
        kept = len(pipe.read())

        log(handler, LINES)

        report, line = map(json.loads, pipe.read())
        assert report.pop("timestamp")
        assert report == {
            "event": "log_lines_dropped",
            "lines": LINES - kept,
            "logger": "byok.logs",
            "level": "warning",
        }
        assert line == event(LINES)
