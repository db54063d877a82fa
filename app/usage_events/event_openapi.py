"""The OpenAPI schema of the usage events body.

FastAPI cannot derive it, because the service reads the body as a stream. It comes from the decoder's types.
"""

from typing import Any

import msgspec

from app.usage_events.batch_splitter import MAX_EVENTS
from app.usage_events.events import UsageEvent

REFERENCE = "#/components/schemas/{name}"

_EXAMPLE: dict[str, Any] = {
    "event_id": "0199a2b4-d1c2-7a3b-8c4d-5e6f70819203",
    "started_at": "2026-11-23T14:05:06.123456Z",
    "model": "claude-haiku-5-5",
    "feature": "support",
    "outcome": "succeeded",
    "usage_source": "reported",
    "usage": {
        "input_tokens": 1200,
        "cache_read_input_tokens": 800,
        "output_tokens": 340,
        "service_tier": "standard",
    },
}
_EVENT = {"$ref": REFERENCE.format(name="UsageEvent")}

EVENTS_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"$ref": REFERENCE.format(name="UsageEventBatch")},
            "examples": {"default": {"value": {"events": [_EXAMPLE]}}},
        },
        "application/x-ndjson": {
            # The schema of one line.
            "schema": _EVENT,
            "examples": {"default": {"value": _EXAMPLE}},
        },
    },
}


def event_schemas() -> dict[str, Any]:
    """Return the schemas of the decoded types for the document's components."""
    _, found = msgspec.json.schema_components([UsageEvent], ref_template=REFERENCE)
    batch = {
        "title": "UsageEventBatch",
        "description": "Events to ingest. Each event is accepted or rejected independently.",
        "type": "object",
        "properties": {
            "events": {"type": "array", "items": _EVENT, "maxItems": MAX_EVENTS, "title": "Events"}
        },
        "required": ["events"],
        "additionalProperties": False,
    }
    return {**found, "UsageEventBatch": batch}
