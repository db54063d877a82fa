"""OpenTelemetry traces. Without a configured exporter they are off and OpenTelemetry is not loaded.

Spans carry route templates, codes and ids, each set explicitly. They never carry headers, URLs or bodies, which is why
the automatic instrumentations are not used.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from app import __version__

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_EXPORTERS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class _TracingState:
    is_on = False


def configure_tracing(environ: Mapping[str, str] = os.environ, *, exporter: Any = None) -> None:
    """Start exporting if the standard `OTEL_` variables name an exporter, or if one is passed."""
    if exporter is None and not any(environ.get(name) for name in _EXPORTERS):
        return
    from opentelemetry import trace  # noqa: PLC0415  # slow to import, and only traced processes need it
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  # 15 MB of memory that only traced processes need
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415  # for the same reason
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor  # noqa: PLC0415  # for the same reason

    provider = TracerProvider(
        resource=Resource.create(
            {"service.name": environ.get("OTEL_SERVICE_NAME", "byok"), "service.version": __version__}
        )
    )
    if exporter is None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415  # for the same reason
            OTLPSpanExporter,
        )

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    else:
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    _TracingState.is_on = True


def flush_tracing() -> None:
    """Send the spans that are still buffered."""
    if not _TracingState.is_on:
        return
    from opentelemetry import trace  # noqa: PLC0415  # see above

    shutdown = getattr(trace.get_tracer_provider(), "shutdown", None)
    if shutdown is not None:
        shutdown()


def is_tracing() -> bool:
    """Whether spans are exported."""
    return _TracingState.is_on


@contextmanager
def server_span(traceparent: str | None) -> "Iterator[Span]":
    """Open the span of a request as a child of the caller's span. Only while tracing is on."""
    from opentelemetry import propagate, trace  # noqa: PLC0415  # see above

    parent = propagate.extract({"traceparent": traceparent}) if traceparent else None
    with trace.get_tracer("byok", __version__).start_as_current_span(
        "request",
        context=parent,
        kind=trace.SpanKind.SERVER,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        yield span


@contextmanager
def client_span(name: str) -> "Iterator[Span | None]":
    """Open the span of a call to a dependency; None while tracing is off."""
    if not _TracingState.is_on:
        yield None
        return
    from opentelemetry import trace  # noqa: PLC0415  # see above

    with trace.get_tracer("byok", __version__).start_as_current_span(
        name, kind=trace.SpanKind.CLIENT, record_exception=False, set_status_on_exception=False
    ) as span:
        yield span
