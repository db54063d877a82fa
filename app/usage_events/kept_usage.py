"""Usage objects as they were sent, compressed together for a whole batch.

Objects of one batch resemble each other, so together they take a tenth of their size. The price backfill reads them
again: a later release may know models, fields and rules that today's does not.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from app.usage_events.anthropic_usage import UsageObject
from app.usage_events.events import UsageEvent
from app.usage_events.usage_reader import decode_usage

# The fastest level: the other ones take several times as long to save some percent.
_LEVEL = 1
_encoder = msgspec.json.Encoder()


class ReadUsage(NamedTuple):
    """A kept usage object after decoding, with the rest that the cost of its event depends on."""

    model: str
    usage: UsageObject
    stop_reason: str | None
    refusal_category: str | None


class KeptUsage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the cost of one event depends on. `usage` is the JSON text that the client sent."""

    event_id: str
    model: str
    usage: msgspec.Raw
    stop_reason: str | None = None
    refusal_category: str | None = None

    def read(self) -> ReadUsage:
        """Decode the object again, by the rules of this release."""
        usage, _ = decode_usage(self.usage)
        return ReadUsage(self.model, usage, self.stop_reason, self.refusal_category)


_decoder = msgspec.json.Decoder(list[KeptUsage])


def month_of(instant: datetime) -> datetime:
    """Return the start of the instant's month in UTC, by which the ledger is partitioned."""
    return instant.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def pack(events: Iterable[tuple[UsageEvent, bytes | None]]) -> Mapping[datetime, bytes]:
    """Compress the usage objects that may be kept, by the month of their events."""
    by_month: dict[datetime, list[KeptUsage]] = {}
    last_day, month = None, None
    for event, usage in events:
        if usage is None:
            continue
        if (day := event.started_at.toordinal()) != last_day or month is None:
            last_day, month = day, month_of(event.started_at)
        by_month.setdefault(month, []).append(
            KeptUsage(
                event.event_id, event.model, msgspec.Raw(usage), event.stop_reason, event.refusal_category
            )
        )
    return {month: zlib.compress(_encoder.encode(kept), _LEVEL) for month, kept in by_month.items()}


def unpack(packed: bytes) -> Sequence[KeptUsage]:
    """Return the usage objects of a batch."""
    return _decoder.decode(zlib.decompress(packed))
