"""Prometheus metrics. Label values come from closed sets: routes, codes, reasons."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

REGISTRY = CollectorRegistry()

REQUESTS = Counter(
    "byok_http_requests_total", "Completed requests.", ["method", "route", "status"], registry=REGISTRY
)
REQUEST_SECONDS = Histogram(
    "byok_http_request_seconds",
    "Time from a request to its response.",
    ["method", "route"],
    registry=REGISTRY,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15),
)
VALIDATIONS = Counter(
    "byok_validations_total",
    "Finished validations of keys, by result.",
    ["status", "reason"],
    registry=REGISTRY,
)
PROVIDER_SECONDS = Histogram(
    "byok_provider_seconds",
    "Time that the provider took to respond to a probe.",
    registry=REGISTRY,
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15),
)
LOOP_LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
LOOP_LAG_SECONDS = Histogram(
    "byok_event_loop_lag_seconds",
    "How late the event loop resumed after a short sleep.",
    registry=REGISTRY,
    buckets=LOOP_LAG_BUCKETS,
)
LOOP_BUSY_LAG_SECONDS = Histogram(
    "byok_event_loop_busy_lag_seconds",
    "The same lag, less the time in which the event loop waited for a processor: at least so much is the process's own.",
    registry=REGISTRY,
    buckets=LOOP_LAG_BUCKETS,
)
RECONCILED = Counter(
    "byok_swept_total",
    "Interrupted writes that the reconciler completed or undid.",
    ["kind"],
    registry=REGISTRY,
)
WEBHOOKS = Counter(
    "byok_webhook_attempts_total",
    "Attempts to deliver a webhook, by the resulting state.",
    ["state"],
    registry=REGISTRY,
)
WEBHOOKS_DROPPED = Counter(
    "byok_webhooks_dropped_total",
    "Deliveries of webhooks that were not added, because too many of their endpoint are pending.",
    registry=REGISTRY,
)
USAGE_EVENTS = Counter(
    "byok_usage_events_total",
    "Well-formed usage events received, by the resulting status.",
    ["status"],
    registry=REGISTRY,
)
USAGE_READS = Counter(
    "byok_usage_reads_total",
    "Usage reports and pages of usage events, by the server that they were read from, if there is a replica.",
    ["server"],
    registry=REGISTRY,
)
OPEN_CONNECTIONS = Gauge("byok_http_connections_open", "Open connections of clients.", registry=REGISTRY)
LOG_LINES_DROPPED = Counter(
    "byok_log_lines_dropped_total",
    "Log lines that were not written, because the collector of logs did not read from its full pipe.",
    registry=REGISTRY,
)
CONNECTIONS_CLOSED = Counter(
    "byok_http_connections_closed_total",
    "Connections that were closed to bound their number: `displaced` by a new one while they waited without a complete"
    " request head, `refused`, or `unread` if the client did not read its response.",
    ["reason"],
    registry=REGISTRY,
)
ACCEPTING_STOPPED = Counter(
    "byok_http_accepting_stopped_total",
    "How often, looking twice a second, the process had no free descriptor and could not accept connections.",
    registry=REGISTRY,
)
RELAY_REQUESTS = Counter(
    "byok_relay_requests_total",
    "Requests to the relay, by their status and by who responded: the provider or the relay itself.",
    ["endpoint", "mode", "stream", "status", "source"],
    registry=REGISTRY,
)
RELAY_OPEN = Gauge("byok_relay_open", "Requests to the relay that are in progress.", registry=REGISTRY)
RELAY_SECONDS = Histogram(
    "byok_relay_seconds",
    "Time of a relayed request by phase: `admit`, `key`, `head` (until the provider's), `total`.",
    ["phase"],
    registry=REGISTRY,
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
)
RELAY_ENDED = Counter(
    "byok_relay_ended_total", "Admitted calls, by who or what ended them.", ["by"], registry=REGISTRY
)
RELAY_USAGE = Counter(
    "byok_relay_usage_total",
    "Usage events of calls, by who counted the tokens.",
    ["source"],
    registry=REGISTRY,
)
RELAY_TOKENS = Counter(
    "byok_relay_tokens_total",
    "Tokens of calls, as far as they are known.",
    ["mode", "class"],
    registry=REGISTRY,
)
RELAY_UNSETTLED = Gauge(
    "byok_relay_unsettled",
    "Calls that have ended and whose usage event is not stored yet.",
    registry=REGISTRY,
)
RELAY_SETTLE_SECONDS = Histogram(
    "byok_relay_settle_seconds",
    "Time from the end of a call until its usage event is stored.",
    registry=REGISTRY,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60),
)
RELAY_BODY_BYTES = Gauge(
    "byok_relay_body_bytes", "Bytes of request bodies that the relay holds.", registry=REGISTRY
)
RELAY_CONNECTIONS = Gauge(
    "byok_relay_upstream_connections", "Connections to providers.", ["state"], registry=REGISTRY
)
RELAY_LOST = Counter("byok_relay_swept_total", "Calls whose process died, ended by a job.", registry=REGISTRY)
SHARED_TRANSACTIONS = Counter(
    "byok_shared_transactions_total",
    "Transactions that reserve spend for several organizations, by outcome.",
    ["outcome"],
    registry=REGISTRY,
)
_POOL_IN_USE = Gauge(
    "byok_database_connections_in_use", "Connections of the pool that are in use.", registry=REGISTRY
)


def track_pool_usage(connections_in_use: Callable[[], int]) -> None:
    """Report the number of connections in use at each scrape."""
    _POOL_IN_USE.set_function(connections_in_use)


def metrics_text() -> bytes:
    """Return all metrics in the text format of Prometheus."""
    return generate_latest(REGISTRY)
