"""Time and identifiers: UTC instants with microseconds, RFC 3339 text, UUIDv7."""

from datetime import UTC, datetime
from uuid import UUID

import uuid_utils.compat


def now() -> datetime:
    """The present instant, in UTC."""
    return datetime.now(UTC)


def new_id() -> UUID:
    """A UUIDv7 (RFC 9562): sorts by time of creation, which keeps indexes dense."""
    return uuid_utils.compat.uuid7()


def rfc3339(instant: datetime) -> str:
    """`2026-11-23T14:05:06.123456Z`."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
