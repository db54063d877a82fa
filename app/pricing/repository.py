"""An organization's own prices: lists are added, never changed."""

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby

import sqlalchemy as sa

from app.database.engine import Query, Row, Session
from app.pricing.prices import OverrideList, PriceOverride
from app.pricing.rates import Rates
from app.pricing.tables import price_override as o
from app.pricing.tables import price_override_list as ol

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_RATES = ("uncached_input", "cache_write_5m", "cache_write_1h", "cache_read", "output", "web_search")
_CLOCK = Query(sa.select(sa.func.clock_timestamp().label("now")))
_LAST = Query(sa.select(sa.func.max(ol.c.number).label("last")).where(ol.c.organization_id == _ORGANIZATION))
# A list that was replaced before its instant came never begins, whatever the instant of the one in its place.
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
_IN_FORCE_SINCE = (
    sa.select(sa.func.max(_kept.c.number))
    .where(_kept.c.effective_from <= sa.bindparam("since", type_=ol.c.effective_from.type))
    .scalar_subquery()
)
# A list with a lower number than the one in force at `since` is never in force again.
_SINCE = Query(
    sa.select(_kept, o.c.model, *(o.c[name] for name in _RATES))
    .select_from(
        _kept.outerjoin(o, sa.and_(o.c.organization_id == _ORGANIZATION, o.c.number == _kept.c.number))
    )
    .where(_kept.c.number >= sa.func.coalesce(_IN_FORCE_SINCE, sa.literal_column("0")))
    .order_by(_kept.c.number, o.c.model)
)


def _insert(table: sa.Table) -> Query:
    return Query(
        sa.insert(table).values(
            {column.name: sa.bindparam(column.name, type_=column.type) for column in table.columns}
        )
    )


_INSERT_LIST = _insert(ol)
_INSERT = _insert(o)


class PriceRepository:
    """One organization's own prices."""

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self._organization_id = organization_id

    async def clock(self) -> datetime:
        """The database's clock now, not when the transaction began."""
        row = await self._session.first(_CLOCK)
        assert row is not None
        now: datetime = row["now"]
        return now

    async def lists(self, *, since: datetime) -> Sequence[OverrideList]:
        """Every list that is in force at some instant from `since` on, the first set first."""
        found = await self._session.rows(_SINCE, organization_id=self._organization_id, since=since)
        return [_list_of(list(rows)) for _, rows in groupby(found, key=lambda row: row["number"])]

    async def last_number(self) -> int:
        """0 before the first list."""
        row = await self._session.first(_LAST, organization_id=self._organization_id)
        return 0 if row is None or row["last"] is None else int(row["last"])

    async def append(self, added: OverrideList) -> None:
        """Take the lock of the usage mode first: it orders lists among each other and against the ledger."""
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
