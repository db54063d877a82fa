"""Rows of the ledger as records, by keyset pages."""

from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from app.database.engine import Query, Row, Session
from app.usage.filters import RowCursor, UsageFilter
from app.usage.records import LedgerRow, Outcome, TokenUsage, UsageFlag, UsageSource
from app.usage.tables import usage_event as t
from app.usage_mode.modes import UsageMode

_FILTERS = tuple(field.name for field in fields(UsageFilter))
_ORDER = (t.c.started_at, t.c.event_id, t.c.correction)
_SHOWN = [column for column in t.c if column.name not in {"organization_id", "ingest_xid"}]


def _condition(name: str) -> sa.ColumnElement[bool]:
    if name == "starting_at":
        return t.c.started_at >= sa.bindparam(name, type_=t.c.started_at.type)
    if name == "ending_at":
        return t.c.started_at < sa.bindparam(name, type_=t.c.started_at.type)
    column = t.c["mode" if name == "usage_mode" else name]
    return column == sa.bindparam(name, type_=column.type)


@lru_cache(maxsize=256)
def _page(filtered: frozenset[str], *, is_first: bool) -> Query:
    """One statement for each set of filters, so that each has the plan that its conditions allow."""
    conditions = [_condition(name) for name in _FILTERS if name in filtered]
    if not is_first:
        place = sa.tuple_(*(sa.bindparam(f"last_{it.name}", type_=it.type) for it in _ORDER))
        conditions.append(sa.tuple_(*_ORDER) < place)
    return Query(
        sa.select(*_SHOWN)
        .where(t.c.organization_id == sa.bindparam("organization_id", type_=sa.Text), *conditions)
        .order_by(*(column.desc() for column in _ORDER))
        .limit(sa.bindparam("at_most", type_=sa.Integer))
    )


class UsageListingRepository:
    """One organization's ledger, as readers see it."""

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self._organization_id = organization_id

    async def page(
        self, found_by: UsageFilter, *, at_most: int, after: RowCursor | None
    ) -> Sequence[LedgerRow]:
        """Newest first."""
        values: dict[str, Any] = {
            name: value for name in _FILTERS if (value := getattr(found_by, name)) is not None
        }
        statement = _page(frozenset(values), is_first=after is None)
        if after is not None:
            values |= {f"last_{column.name}": getattr(after, column.name) for column in _ORDER}
        found = await self._session.rows(
            statement, organization_id=self._organization_id, at_most=at_most, **values
        )
        return [ledger_row(row) for row in found]


def ledger_row(row: Row) -> LedgerRow:
    """A row of the table as a record."""
    return LedgerRow(
        started_at=row["started_at"],
        event_id=row["event_id"],
        correction=row["correction"],
        completed_at=row["completed_at"],
        ingested_at=row["ingested_at"],
        mode=UsageMode(row["mode"]),
        credential_id=row["credential_id"],
        key_version=row["key_version"],
        model=row["model"],
        endpoint_id=row["endpoint_id"],
        feature=row["feature"],
        session_id=row["session_id"],
        prompt_id=row["prompt_id"],
        outcome=Outcome(row["outcome"]),
        usage_source=UsageSource(row["usage_source"]),
        service_tier=row["service_tier"],
        speed=row["speed"],
        inference_geo=row["inference_geo"],
        tokens=TokenUsage(
            uncached_input=row["uncached_input_tokens"],
            cache_write_5m=row["cache_write_5m_tokens"],
            cache_write_1h=row["cache_write_1h_tokens"],
            cache_read=row["cache_read_tokens"],
            output=row["output_tokens"],
            web_search_requests=row["web_search_requests"],
        ),
        cost=row["cost"],
        billed=row["billed"],
        price_version=row["price_version"],
        flags=UsageFlag(row["flags"]),
        provider_request_id=row["provider_request_id"],
        reservation_id=row["reservation_id"],
    )
