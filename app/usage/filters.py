"""Which rows of the ledger are asked for, and after which one to go on."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.usage.records import LedgerRow, Outcome
from app.usage_mode.modes import UsageMode


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageFilter:
    """Rows that have all of these; None asks for nothing. `starting_at` is inclusive, `ending_at` exclusive."""

    usage_mode: UsageMode | None = None
    model: str | None = None
    endpoint_id: str | None = None
    feature: str | None = None
    session_id: str | None = None
    prompt_id: str | None = None
    credential_id: UUID | None = None
    key_version: int | None = None
    outcome: Outcome | None = None
    starting_at: datetime | None = None
    ending_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCursor:
    """A row's place in the order: newest first, then by event id and correction."""

    started_at: datetime
    event_id: str
    correction: int

    @classmethod
    def of(cls, row: LedgerRow) -> "RowCursor":
        return cls(started_at=row.started_at, event_id=row.event_id, correction=row.correction)
