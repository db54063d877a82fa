"""Time and identifiers: UTC instants and UUIDv7."""

from datetime import UTC, datetime
from uuid import UUID

import uuid_utils.compat


def now() -> datetime:
    """The present instant, in UTC."""
    return datetime.now(UTC)


def new_id() -> UUID:
    """A UUIDv7 (RFC 9562): sorts by time of creation, which keeps indexes dense."""
    return uuid_utils.compat.uuid7()
