"""Events of the ledger without a cost, and the corrections that give them one."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, insert

from app.credentials.tables import credential_version as v
from app.database.engine import Query, Row, Session
from app.pricing.corrections import Correction, UnpricedEvent
from app.usage.records import LedgerRow, Outcome, TokenUsage, UsageFlag, UsageSource
from app.usage.tables import usage_event as t
from app.usage_mode.modes import UsageMode

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_HASHED_ORGANIZATION = sa.func.hashtext(_ORGANIZATION)


def _lock_word(word: str) -> sa.ColumnElement[int]:
    return sa.func.hashtext(sa.literal_column(f"'{word}'"))


# The ledger's lock first, as everybody who writes to it; then one back-fill at a time.
_LOCK_LEDGER = Query(
    sa.select(sa.func.pg_advisory_xact_lock_shared(_lock_word("byok.usage_mode"), _HASHED_ORGANIZATION))
)
_LOCK = Query(
    sa.select(sa.func.pg_advisory_xact_lock(_lock_word("byok.price_backfill"), _HASHED_ORGANIZATION))
)
_CLOCK = Query(sa.select(sa.func.clock_timestamp().label("now")))

# A look-up for each event of a page. As a condition it would be a join that reads the ledger from its beginning.
_corrected = t.alias("corrected")
_CORRECTED_BY = (
    sa.select(sa.func.max(_corrected.c.correction))
    .where(
        _corrected.c.organization_id == _ORGANIZATION,
        _corrected.c.started_at == t.c.started_at,
        _corrected.c.event_id == t.c.event_id,
        _corrected.c.cost.is_not(None),
    )
    .scalar_subquery()
)
# As ingestion decides: by the key's own destination, or by any of them where the version is not known.
_IS_COMPATIBLE = sa.exists(
    sa.select(sa.literal_column("1")).where(
        v.c.organization_id == _ORGANIZATION,
        v.c.credential_id == t.c.credential_id,
        v.c.key_version == sa.func.coalesce(t.c.key_version, v.c.key_version),
        v.c.base_url.is_not(None),
    )
)
_UNPRICED = Query(
    sa.select(t, _CORRECTED_BY.label("corrected_by"), _IS_COMPATIBLE.label("is_compatible"))
    .where(
        t.c.organization_id == _ORGANIZATION,
        t.c.cost.is_(None),
        sa.tuple_(t.c.started_at, t.c.event_id)
        > sa.tuple_(
            sa.bindparam("after_instant", type_=t.c.started_at.type),
            sa.bindparam("after_event", type_=sa.Text),
        ),
        t.c.correction == sa.literal_column("0"),
    )
    .order_by(t.c.started_at, t.c.event_id)
    .limit(sa.bindparam("at_most", type_=sa.Integer))
)

_GIVEN = {
    name: t.c[name].type for name in ("started_at", "event_id", "cost", "billed", "price_version", "flags")
}
_given = (
    sa.func.unnest(*(sa.bindparam(f"{name}_of_all", type_=ARRAY(kind)) for name, kind in _GIVEN.items()))
    .table_valued(*(sa.column(name, kind) for name, kind in _GIVEN.items()), name="given")
    .render_derived()
)
_COUNTERS = tuple(column.name for column in t.columns if column.name.endswith(("_tokens", "_requests")))
_earlier = t.alias("earlier")
_NEXT_CORRECTION = (
    sa.select(sa.func.max(_earlier.c.correction) + sa.literal_column("1"))
    .where(
        _earlier.c.organization_id == _ORGANIZATION,
        _earlier.c.started_at == t.c.started_at,
        _earlier.c.event_id == t.c.event_id,
    )
    .scalar_subquery()
)
_OWN = {
    "correction": _NEXT_CORRECTION,
    "ingested_at": sa.bindparam("now", type_=t.c.ingested_at.type),
    "ingest_xid": sa.literal_column("(SELECT pg_current_xact_id()::text::bigint)"),
    **{name: _given.c[name] for name in ("cost", "billed", "price_version", "flags")},
    **dict.fromkeys(_COUNTERS, sa.literal_column("0")),
}
_APPEND = Query(
    insert(t)
    .from_select(
        [column.name for column in t.columns],
        sa.select(*(_OWN.get(column.name, column) for column in t.columns))
        .select_from(
            t.join(_given, sa.and_(t.c.started_at == _given.c.started_at, t.c.event_id == _given.c.event_id))
        )
        .where(t.c.organization_id == _ORGANIZATION, t.c.correction == sa.literal_column("0"))
        .order_by(t.c.started_at, t.c.event_id),
    )
    .returning(*t.columns)
)


Position = tuple[datetime, str]
BEGINNING: Position = (datetime(1970, 1, 1, tzinfo=UTC), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpricedPage:
    """Events without a cost. `last`: where the next page begins; None at the end."""

    events: Sequence[UnpricedEvent]
    last: Position | None


class PriceBackfillRepository:
    """One organization's events without a cost."""

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self._organization_id = organization_id

    async def begin(self) -> datetime:
        """Wait for other back-fills of this organization; the instant from which on none is under way."""
        await self._session.first(_LOCK_LEDGER, organization_id=self._organization_id)
        await self._session.first(_LOCK, organization_id=self._organization_id)
        row = await self._session.first(_CLOCK)
        assert row is not None
        now: datetime = row["now"]
        return now

    async def unpriced(self, *, after: Position, at_most: int) -> UnpricedPage:
        """The next ones, by instant and id, but for those that a correction has given a cost."""
        found = await self._session.rows(
            _UNPRICED,
            organization_id=self._organization_id,
            after_instant=after[0],
            after_event=after[1],
            at_most=at_most,
        )
        last = (found[-1]["started_at"], found[-1]["event_id"]) if len(found) == at_most else None
        events = [_event_of(row) for row in found if row["corrected_by"] is None]
        return UnpricedPage(events=events, last=last)

    async def append(self, corrections: Sequence[Correction], *, now: datetime) -> Sequence[LedgerRow]:
        """Each beside the event that it corrects, with its dimensions. Call `begin` first."""
        arrays = {f"{name}_of_all": [getattr(one, name) for one in corrections] for name in _GIVEN}
        # As plain numbers: flags can be iterated over, and the driver would take them for arrays.
        arrays["flags_of_all"] = [int(one.flags) for one in corrections]
        found = await self._session.rows(_APPEND, organization_id=self._organization_id, now=now, **arrays)
        return [_row_of(row) for row in found]


def _tokens_of(row: Row) -> TokenUsage:
    return TokenUsage(
        uncached_input=row["uncached_input_tokens"],
        cache_write_5m=row["cache_write_5m_tokens"],
        cache_write_1h=row["cache_write_1h_tokens"],
        cache_read=row["cache_read_tokens"],
        output=row["output_tokens"],
        web_search_requests=row["web_search_requests"],
    )


def _event_of(row: Row) -> UnpricedEvent:
    return UnpricedEvent(
        started_at=row["started_at"],
        event_id=row["event_id"],
        ingested_at=row["ingested_at"],
        mode=UsageMode(row["mode"]),
        model=row["model"],
        service_tier=row["service_tier"],
        speed=row["speed"],
        inference_geo=row["inference_geo"],
        tokens=_tokens_of(row),
        flags=UsageFlag(row["flags"]),
        is_compatible_endpoint=row["is_compatible"],
    )


def _row_of(row: Row) -> LedgerRow:
    same = (
        *("started_at", "event_id", "correction", "completed_at", "ingested_at", "credential_id"),
        *("key_version", "model", "endpoint_id", "feature", "session_id", "prompt_id", "service_tier"),
        *("speed", "inference_geo", "cost", "billed", "price_version", "provider_request_id"),
        "reservation_id",
    )
    return LedgerRow(
        mode=UsageMode(row["mode"]),
        outcome=Outcome(row["outcome"]),
        usage_source=UsageSource(row["usage_source"]),
        tokens=_tokens_of(row),
        flags=UsageFlag(row["flags"]),
        **{name: row[name] for name in same},
    )
