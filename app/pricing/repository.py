"""Reads and adds price override lists. Lists never change."""

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby

import sqlalchemy as sa

from app.database.bulk import found_for_each
from app.database.repository import Repository
from app.database.statements import Query, Row
from app.pricing.prices import OverrideList, PriceOverride
from app.pricing.rates import Rates
from app.pricing.tables import price_override as o
from app.pricing.tables import price_override_list as ol

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_RATES = ("uncached_input", "cache_write_5m", "cache_write_1h", "cache_read", "output", "web_search")
_CLOCK = Query(sa.select(sa.func.clock_timestamp().label("now")))
_LAST = Query(sa.select(sa.func.max(ol.c.number).label("last")).where(ol.c.organization_id == _ORGANIZATION))
# A list that was replaced before its `effective_from` never becomes active, whatever the start of its replacement.
_numbered = (
    sa.select(ol, sa.func.lead(ol.c.created_at).over(order_by=ol.c.number).label("replaced_at"))
    .where(ol.c.organization_id == _ORGANIZATION)
    .cte("numbered")
)
_kept = (
    sa.select(_numbered)
    .where(sa.func.coalesce(_numbered.c.effective_from <= _numbered.c.replaced_at, sa.true()))
    .cte("kept")
)
_ACTIVE_AT_START = (
    sa.select(sa.func.max(_kept.c.number))
    .where(_kept.c.effective_from <= sa.bindparam("since", type_=ol.c.effective_from.type))
    .scalar_subquery()
)
# Lists with a lower number than the one that is active at `since` never become active again.
# One row without a number if there is no list, because the row has the clock.
_clock = sa.select(sa.func.clock_timestamp().label("now")).cte("clock")
_override = found_for_each(
    sa.select(o.c.model, *(o.c[name] for name in _RATES)).where(
        o.c.organization_id == _ORGANIZATION, o.c.number == _kept.c.number
    ),
    "override",
)
_SINCE = Query(
    sa.select(_clock.c.now, _kept, *_override.c)
    .select_from(
        _clock.outerjoin(
            _kept, _kept.c.number >= sa.func.coalesce(_ACTIVE_AT_START, sa.literal_column("0"))
        ).outerjoin(_override, sa.true())
    )
    .order_by(_kept.c.number, _override.c.model)
)


def _insert(table: sa.Table) -> Query:
    return Query(
        sa.insert(table).values(
            {column.name: sa.bindparam(column.name, type_=column.type) for column in table.columns}
        )
    )


_INSERT_LIST = _insert(ol)
_INSERT = _insert(o)


class PriceRepository(Repository):
    """Price override lists of one organization."""

    async def clock(self) -> datetime:
        """Return the database's current time, not the start of the transaction."""
        row = await self._session.one(_CLOCK)
        now: datetime = row["now"]
        return now

    async def lists(self, *, since: datetime) -> Sequence[OverrideList]:
        """Return every list that is active at `since` or later, in the order in which they were set."""
        lists, _ = await self.lists_with_clock(since=since)
        return lists

    async def lists_with_clock(self, *, since: datetime) -> tuple[Sequence[OverrideList], datetime]:
        """Return the same lists, and the database's clock when they were read."""
        found = await self._session.rows(_SINCE, organization_id=self._organization_id, since=since)
        lists = [
            _list_of(list(rows))
            for number, rows in groupby(found, key=lambda row: row["number"])
            if number is not None
        ]
        return lists, found[0]["now"]

    async def last_number(self) -> int:
        """Return the number of the last list; 0 before the first list."""
        row = await self._session.first(_LAST, organization_id=self._organization_id)
        return 0 if row is None or row["last"] is None else int(row["last"])

    async def append(self, added: OverrideList) -> None:
        """Add a list. Take the ledger lock exclusively first: it orders lists, and separates them from ledger writes."""
        await self._session.execute(
            _INSERT_LIST,
            organization_id=self._organization_id,
            number=added.number,
            effective_from=added.effective_from,
            created_at=added.set_at,
            created_by=added.set_by,
        )
        for override in added.overrides:
            rates = override.rates
            await self._session.execute(
                _INSERT,
                organization_id=self._organization_id,
                number=added.number,
                model=override.model,
                **{name: getattr(rates, name) for name in _RATES},
            )


def _list_of(rows: Sequence[Row]) -> OverrideList:
    first = rows[0]
    return OverrideList(
        number=first["number"],
        effective_from=first["effective_from"],
        set_at=first["created_at"],
        set_by=first["created_by"],
        overrides=[
            PriceOverride(model=row["model"], rates=Rates(**{name: row[name] for name in _RATES}))
            for row in rows
            if row["model"] is not None
        ],
    )
