"""Collects every output of the service, so that the detector can search it."""

import asyncio
import hashlib
import io
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import sqlalchemy as sa
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy.ext.asyncio import AsyncEngine

from app.observability import tracing
from app.observability.logs import configure_logging
from tests.support.canary import Detector, Leak

_RELATIONS = sa.text("""
    SELECT format('%I.%I', n.nspname, c.relname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'm') ORDER BY 1
""")


@dataclass(kw_only=True)
class Sinks:
    """The collected outputs, by the name of the sink."""

    contents: dict[str, list[bytes]] = field(default_factory=dict)

    def add(self, sink: str, content: str | bytes) -> None:
        data = content.encode(errors="surrogatepass") if isinstance(content, str) else content
        self.contents.setdefault(sink, []).append(data)

    def add_response(self, name: str, response: httpx.Response) -> None:
        self.add("responses", f"{name}: {response.status_code} {response.reason_phrase}")
        self.add("response headers", b"\n".join(b"%b: %b" % pair for pair in response.headers.raw))
        self.add("response bodies", response.content)

    def contains(self, sink: str, marker: str) -> bool:
        """Whether the sink contains a text that must be there, which proves that the sink was recorded."""
        return any(marker.encode() in content for content in self.contents.get(sink, ()))

    def leaks(self, detector: Detector, *sinks: str) -> list[Leak]:
        """Parts of the key in these sinks; in all sinks if none is given."""
        return [
            leak
            for sink in sinks or tuple(self.contents)
            for leak in detector.search(sink, b"\n\0\n".join(self.contents[sink]))
        ]


async def next_transaction(engine: AsyncEngine) -> int:
    """A transaction that is older than all that begin from now on, to read only what these write."""
    async with engine.connect() as connection:
        found = await connection.scalar(sa.text("SELECT CAST(CAST(pg_current_xact_id() AS text) AS bigint)"))
    return int(found or 0)


async def tables_of(engine: AsyncEngine, *, since: int = 0) -> AsyncIterator[tuple[str, str]]:
    """Every table of every schema with its rows as text, read by a login that may read all rows.

    Args:
        engine: the engine of that login.
        since: a transaction of `next_transaction`. Rows of older ones are left out: other tests may have written very many.
    """
    # Cells on other nodes count their transactions by themselves.
    written = (
        "true"
        if os.environ.get("BYOK_TEST_CELLS") == "citus"
        else f"CAST(CAST(t.xmin AS text) AS bigint) >= {since}"
    )
    async with engine.connect() as connection:
        for relation in (await connection.execute(_RELATIONS)).scalars().all():
            statement = sa.text(f"SELECT t::text FROM {relation} t WHERE {written}")
            rows = (await connection.execute(statement)).scalars().all()
            yield relation, "\n".join(str(row) for row in rows)


def files_of(directory: Path) -> Iterator[tuple[str, bytes]]:
    """Every file with its content. Of files with the same content only the first: a cluster has its catalog four times."""
    seen: set[bytes] = set()
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            digest = hashlib.sha256(content).digest()
            if digest not in seen:
                seen.add(digest)
                yield str(path.relative_to(directory)), content


class _RecordCollector(logging.Handler):
    """Collects log records with their tracebacks before redaction."""

    def __init__(self, sinks: Sinks) -> None:
        super().__init__(logging.DEBUG)
        self._sinks = sinks
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self._sinks.add("log records", self.format(record))


@contextmanager
def log_lines(*, level: str = "debug", log_format: str = "json") -> Iterator[Callable[[], str]]:
    """Capture the log as the service writes it. Yields a function that returns the lines since its last call."""
    configure_logging(level=level, log_format=log_format)
    structlog.configure(
        cache_logger_on_first_use=False
    )  # later tests capture the same loggers in another way
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, logging.StreamHandler)
    stream = io.StringIO()
    handler.setStream(stream)

    def read_new() -> str:
        text = stream.getvalue()
        stream.seek(0)
        stream.truncate()
        return text

    try:
        yield read_new
    finally:
        configure_logging(level="warning", log_format="json")


@contextmanager
def capture_logs(sinks: Sinks) -> Iterator[None]:
    """Log at the level DEBUG, and capture the records before redaction."""
    configure_logging(level="debug", log_format="json")
    handler = _RecordCollector(sinks)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        configure_logging(level="warning", log_format="json")


class _SpanCollector(InMemorySpanExporter):
    """Collects spans as JSON."""

    def __init__(self, sinks: Sinks) -> None:
        super().__init__()
        self._sinks = sinks

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            self._sinks.add("spans", span.to_json())
        return super().export(spans)


@contextmanager
def capture_spans(sinks: Sinks) -> Iterator[None]:
    """Capture the spans of this process while the block runs."""
    exporter = _SpanCollector(sinks)
    tracing.configure_tracing(exporter=exporter)
    with tracing.client_span("probe of this exporter"):
        pass
    provider = trace.get_tracer_provider()
    if not exporter.get_finished_spans():  # a process has only one provider, which an earlier test has set
        assert isinstance(provider, TracerProvider)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    try:
        yield
    finally:
        exporter.shutdown()
        tracing._TracingState.is_on = False


@asynccontextmanager
async def collector(sinks: Sinks) -> AsyncIterator[str]:
    """An OpenTelemetry collector that records the bytes it receives. Yields its endpoint."""

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            )
            sinks.add("spans", head + await reader.readexactly(length))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(receive, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
