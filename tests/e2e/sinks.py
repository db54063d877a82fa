"""Everywhere that something may come out, collected for the detector."""

import asyncio
import io
import logging
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
from tests.canary import Detector, Leak

_RELATIONS = sa.text("""
    SELECT format('%I.%I', n.nspname, c.relname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'm') ORDER BY 1
""")


@dataclass(kw_only=True)
class Sinks:
    """What came out where."""

    contents: dict[str, list[bytes]] = field(default_factory=dict)

    def add(self, sink: str, content: str | bytes) -> None:
        data = content.encode(errors="surrogatepass") if isinstance(content, str) else content
        self.contents.setdefault(sink, []).append(data)

    def answered(self, name: str, response: httpx.Response) -> None:
        self.add("answers", f"{name}: {response.status_code} {response.reason_phrase}")
        self.add("answer headers", b"\n".join(b"%b: %b" % pair for pair in response.headers.raw))
        self.add("answer bodies", response.content)

    def hold(self, sink: str, marker: str) -> bool:
        """Whether something that should be there is: proof that the sink was tapped."""
        return any(marker.encode() in content for content in self.contents.get(sink, ()))

    def leaks(self, detector: Detector, *sinks: str) -> list[Leak]:
        """What of the key is in these sinks; in all of them, if none is named."""
        return [
            leak
            for sink in sinks or tuple(self.contents)
            for leak in detector.search(sink, b"\n\0\n".join(self.contents[sink]))
        ]


async def tables_of(engine: AsyncEngine) -> AsyncIterator[tuple[str, str]]:
    """Every table of every schema, each row as text, as somebody sees it who sees all."""
    async with engine.connect() as connection:
        for relation in (await connection.execute(_RELATIONS)).scalars().all():
            rows = (await connection.execute(sa.text(f"SELECT t::text FROM {relation} t"))).scalars().all()
            yield relation, "\n".join(str(row) for row in rows)


def files_of(directory: Path) -> Iterator[tuple[str, bytes]]:
    """Every file, as it lies on disk."""
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(directory)), path.read_bytes()


class _Everything(logging.Handler):
    """Records as they are, tracebacks included, before any redaction."""

    def __init__(self, sinks: Sinks) -> None:
        super().__init__(logging.DEBUG)
        self._sinks = sinks
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self._sinks.add("log records", self.format(record))


@contextmanager
def log_lines(*, level: str = "debug", log_format: str = "json") -> Iterator[Callable[[], str]]:
    """The log as the service writes it: a function that tells what was written since it was asked last."""
    configure_logging(level=level, log_format=log_format)
    structlog.configure(
        cache_logger_on_first_use=False
    )  # later tests capture the same loggers in another way
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, logging.StreamHandler)
    stream = io.StringIO()
    handler.setStream(stream)

    def written() -> str:
        text = stream.getvalue()
        stream.seek(0)
        stream.truncate()
        return text

    try:
        yield written
    finally:
        configure_logging(level="warning", log_format="json")


@contextmanager
def logged(sinks: Sinks) -> Iterator[None]:
    """Logs at DEBUG, both before redaction and as the service writes them."""
    configure_logging(level="debug", log_format="json")
    handler = _Everything(sinks)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        configure_logging(level="warning", log_format="json")


class _Exporter(InMemorySpanExporter):
    """Keeps spans as the text of everything they carry."""

    def __init__(self, sinks: Sinks) -> None:
        super().__init__()
        self._sinks = sinks

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            self._sinks.add("spans", span.to_json())
        return super().export(spans)


@contextmanager
def traced(sinks: Sinks) -> Iterator[None]:
    """Spans of this process, while it lasts."""
    exporter = _Exporter(sinks)
    tracing.configure_tracing(exporter=exporter)
    with tracing.client_span("whether this exporter is asked"):
        pass
    provider = trace.get_tracer_provider()
    if not exporter.get_finished_spans():  # a process has one provider for good, and another test was first
        assert isinstance(provider, TracerProvider)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    try:
        yield
    finally:
        exporter.shutdown()
        tracing._Switch.is_on = False


@asynccontextmanager
async def collector(sinks: Sinks) -> AsyncIterator[str]:
    """An OpenTelemetry collector that keeps the bytes it is sent. Yields its endpoint."""

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
