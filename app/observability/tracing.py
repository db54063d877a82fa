"""OpenTelemetry traces: off, and nothing loaded, unless an exporter is configured.

Spans carry route templates, codes and ids, set one by one; never headers, URLs or bodies, which is
why the automatic instrumentations are not used.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind

from app import __version__

_EXPORTERS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_tracer = trace.get_tracer("byok", __version__)


class _Switch:
    is_on = False


def configure_tracing(environ: Mapping[str, str] = os.environ, *, exporter: Any = None) -> None:
    """Start exporting if the standard OTEL_ variables name an exporter, or one is given."""
    if exporter is None and not any(environ.get(name) for name in _EXPORTERS):
        return
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  # 15 MB that most processes need not carry
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415  # likewise
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor  # noqa: PLC0415  # likewise

    provider = TracerProvider(
        resource=Resource.create(
            {"service.name": environ.get("OTEL_SERVICE_NAME", "byok"), "service.version": __version__}
        )
    )
    if exporter is None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415  # likewise
            OTLPSpanExporter,
        )

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    else:
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    _Switch.is_on = True


def flush_tracing() -> None:
    """Send what is still buffered."""
    shutdown = getattr(trace.get_tracer_provider(), "shutdown", None)
    if _Switch.is_on and shutdown is not None:
        shutdown()


@contextmanager
def server_span(traceparent: str | None) -> Iterator[Span | None]:
    """The span of a request, child of the caller's; None while tracing is off."""
    if not _Switch.is_on:
        yield None
        return
    parent = propagate.extract({"traceparent": traceparent}) if traceparent else None
    with _tracer.start_as_current_span(
        "request", context=parent, kind=SpanKind.SERVER, record_exception=False, set_status_on_exception=False
    ) as span:
        yield span


@contextmanager
def client_span(name: str) -> Iterator[Span | None]:
    """The span of a call to a dependency; None while tracing is off."""
    if not _Switch.is_on:
        yield None
        return
    with _tracer.start_as_current_span(
        name, kind=SpanKind.CLIENT, record_exception=False, set_status_on_exception=False
    ) as span:
        yield span
