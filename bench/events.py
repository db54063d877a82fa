"""Generates usage events like those of a day: some models, features and sessions, cache use, time-ordered ids."""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from app.core.clock import new_id

_MODELS = ("claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5")
_FEATURES = ("support", "search", "drafts", "agents")


def events(count: int) -> Iterator[dict[str, Any]]:
    """Yield events in the format of the API."""
    start = datetime.now(UTC) - timedelta(hours=20)
    for number in range(count):
        started_at = start + timedelta(milliseconds=number % 70_000_000)
        yield {
            "event_id": str(new_id()),
            "started_at": _instant(started_at),
            "completed_at": _instant(started_at + timedelta(seconds=3)),
            "model": random.choice(_MODELS),
            "endpoint_id": "chat",
            "feature": random.choice(_FEATURES),
            "session_id": f"session-{number // 8}",
            "outcome": "succeeded",
            "usage_source": "reported",
            "provider_request_id": f"req_{new_id().hex}",  # ordered by time, like the provider's
            "usage": {
                "input_tokens": random.randrange(5000),
                "cache_creation_input_tokens": 100,
                "cache_read_input_tokens": random.randrange(20_000),
                "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 0},
                "output_tokens": random.randrange(2000),
                "service_tier": "standard",
                "inference_geo": "global",
                "speed": "standard",
            },
        }


def ndjson(count: int) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events(count))


def _instant(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
