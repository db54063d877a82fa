"""Counters and timings for Prometheus. Labels come from closed sets: routes, codes, reasons."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

REGISTRY = CollectorRegistry()

REQUESTS = Counter(
    "byok_http_requests_total", "Answered requests.", ["method", "route", "status"], registry=REGISTRY
)
REQUEST_SECONDS = Histogram(
    "byok_http_request_seconds",
    "Time to answer a request.",
    ["method", "route"],
    registry=REGISTRY,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15),
)
VALIDATIONS = Counter(
    "byok_validations_total", "Finished checks of keys, by verdict.", ["status", "reason"], registry=REGISTRY
)
PROVIDER_SECONDS = Histogram(
    "byok_provider_seconds",
    "Time that the provider took to answer a check.",
    registry=REGISTRY,
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15),
)
LOOP_LAG_SECONDS = Histogram(
    "byok_event_loop_lag_seconds",
    "How late the event loop came back from a short sleep.",
    registry=REGISTRY,
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
)
SWEPT = Counter("byok_swept_total", "Interrupted work that a sweep settled.", ["kind"], registry=REGISTRY)
WEBHOOKS = Counter(
    "byok_webhook_attempts_total",
    "Attempts to deliver a webhook, by what became of it.",
    ["state"],
    registry=REGISTRY,
)
USAGE_EVENTS = Counter(
    "byok_usage_events_total",
    "Well-formed usage events that came in, by what became of them.",
    ["status"],
    registry=REGISTRY,
)
_POOL_IN_USE = Gauge("byok_database_connections_in_use", "Pooled connections in use.", registry=REGISTRY)


def watch_pool(connections_in_use: Callable[[], int]) -> None:
    """Report the pool's use at every scrape."""
    _POOL_IN_USE.set_function(connections_in_use)


def metrics_text() -> bytes:
    """All metrics in Prometheus' text format."""
    return generate_latest(REGISTRY)
