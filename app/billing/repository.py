"""Closed statements, and the data from which open statements are computed."""

from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import date, datetime

import sqlalchemy as sa

from app.billing import statements as d
from app.billing.ledger_totals import FIRST_USAGE, LEDGER, RETAINED_MONTHS
from app.billing.month import BillingMonth
from app.billing.statement_rows import COUNTERS, columns_of, key_of, line_of, totals_of
from app.billing.subscription_repository import SubscriptionRepository
from app.billing.tables import endpoint_count as n
from app.billing.tables import statement as s
from app.billing.tables import statement_line as li
from app.core.event_loop import in_slices, list_in_slices
from app.database.repository import Repository
from app.database.statements import Query, Row

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_MONTH: sa.ColumnElement[str] = sa.literal_column("'month'")
_first = sa.bindparam("first", type_=sa.Date)
_last = sa.bindparam("last", type_=sa.Date)

# When this transaction began. Its snapshot is later, so it sees all that was committed before this time.
_BEGUN = Query(sa.select(sa.func.transaction_timestamp().label("begun_at")))
_CLOSED = Query(sa.select(s.c.month, s.c.closed_at).where(s.c.organization_id == _ORGANIZATION))
_PEAKS = Query(
    sa.select(
        sa.cast(sa.func.date_trunc(_MONTH, sa.cast(n.c.day, sa.DateTime)), sa.Date).label("month"),
        sa.func.max(n.c.endpoints).label("peak"),
    )
    .where(n.c.organization_id == _ORGANIZATION, n.c.day.between(_first, _last))
    .group_by(sa.literal_column("1"))
)
_usage_month = sa.func.coalesce(li.c.adjusts_month, li.c.month)
_CLOSED_TOTALS = Query(
    sa.select(
        _usage_month.label("month"),
        li.c.mode,
        li.c.model,
        *(
            sa.func.sum(li.c[name]).label(name)
            for name in ("requests", "unpriced_requests", *COUNTERS, "estimated")
        ),
        sa.func.sum(li.c.exact).label("billed"),
    )
    .where(li.c.organization_id == _ORGANIZATION, li.c.mode.is_not(None), _usage_month.between(_first, _last))
    .group_by(_usage_month, li.c.mode, li.c.model)
)
_LINES = Query(
    sa.select(li)
    .where(li.c.organization_id == _ORGANIZATION, li.c.month.between(_first, _last))
    .order_by(li.c.month, li.c.position)
)
# The first usage, the first endpoint count and the first closed month.
_FIRST_MONTHS = Query(
    sa.select(
        FIRST_USAGE.label("used_at"),
        sa.select(sa.func.min(n.c.day))
        .where(n.c.organization_id == _ORGANIZATION)
        .scalar_subquery()
        .label("counted_on"),
        sa.select(sa.func.min(s.c.month))
        .where(s.c.organization_id == _ORGANIZATION)
        .scalar_subquery()
        .label("closed"),
    )
)
_INSERT = Query(
    sa.insert(s).values({column.name: sa.bindparam(column.name, type_=column.type) for column in s.columns})
)
_INSERT_LINE = Query(
    sa.insert(li).values({column.name: sa.bindparam(column.name, type_=column.type) for column in li.columns})
)
# Each takes up to 10 microseconds.
_ROWS_AT_ONCE = 20


class StatementRepository(Repository):
    """The statements of one organization."""

    async def begun_at(self) -> datetime:
        """When the transaction began, by the database's clock. It sees all that was committed before."""
        row = await self._session.one(_BEGUN)
        begun_at: datetime = row["begun_at"]
        return begun_at

    async def closed(self) -> Mapping[BillingMonth, datetime]:
        """All closed months, and when each was closed."""
        found = await self._session.rows(_CLOSED, organization_id=self._organization_id)
        return {BillingMonth.of_day(row["month"]): row["closed_at"] for row in found}

    async def first_month(self) -> BillingMonth | None:
        """The first month that has usage, an endpoint count or a closed statement."""
        row = await self._session.one(_FIRST_MONTHS, organization_id=self._organization_id)
        days = [BillingMonth.of_day(row[name]) for name in ("counted_on", "closed") if row[name] is not None]
        used = [] if row["used_at"] is None else [BillingMonth.of(row["used_at"])]
        return min((*days, *used), default=None)

    async def inputs(
        self, months: Sequence[BillingMonth], closed: Mapping[BillingMonth, datetime]
    ) -> d.StatementInputs:
        """The data for the statements of these open months, including the closed months that they adjust."""
        needed = {earlier for month in months for earlier in d.adjusted_by(month, closed.keys())}
        first, last = min((*needed, *months)), max(months)
        current = await SubscriptionRepository(self._session, self._organization_id).find()
        return d.StatementInputs(
            subscription=None if current is None else current.subscription,
            closed=closed.keys(),
            retained_months=await self._retained_months(sorted(needed)),
            peaks=await self._peaks(first, last),
            ledger=await self._ledger(sorted({*needed, *months})),
            closed_totals=await self._closed_totals(first, last) if needed else {},
        )

    async def find_closed(
        self, closed: Mapping[BillingMonth, datetime], months: Sequence[BillingMonth]
    ) -> Mapping[BillingMonth, d.Statement]:
        """The statements of the closed months among these."""
        closed_months = [month for month in months if month in closed]
        if not closed_months:
            return {}
        found = await self._session.rows(_LINES, **self._between(min(closed_months), max(closed_months)))
        lines: dict[BillingMonth, list[d.StatementLine]] = {month: [] for month in closed_months}
        converted = await list_in_slices(
            map(line_of, found), in_transaction=True, items_per_step=_ROWS_AT_ONCE
        )
        for row, line in zip(found, converted, strict=True):
            lines.setdefault(BillingMonth.of_day(row["month"]), []).append(line)
        return {
            month: d.Statement(month=month, closed_at=closed[month], all_lines=tuple(lines[month]))
            for month in closed_months
        }

    async def insert_closed(self, statement: d.Statement, *, closed_at: datetime, closed_by: str) -> None:
        """Store a statement as closed. It never changes afterwards."""
        await self._session.execute(
            _INSERT,
            organization_id=self._organization_id,
            month=statement.month.first_day,
            closed_at=closed_at,
            closed_by=closed_by,
            total=statement.total,
        )
        for position, line in enumerate(statement.all_lines, start=1):
            await self._session.execute(
                _INSERT_LINE,
                organization_id=self._organization_id,
                month=statement.month.first_day,
                position=position,
                **columns_of(line),
            )

    async def _retained_months(self, months: Sequence[BillingMonth]) -> frozenset[BillingMonth]:
        found = await self._session.rows(
            RETAINED_MONTHS,
            organization_id=self._organization_id,
            months=[month.first_day for month in months],
        )
        return frozenset(BillingMonth.of_day(row["month"]) for row in found)

    async def _peaks(self, first: BillingMonth, last: BillingMonth) -> Mapping[BillingMonth, int]:
        found = await self._session.rows(
            _PEAKS,
            organization_id=self._organization_id,
            first=first.first_day,
            last=date.fromordinal(last.next.first_day.toordinal() - 1),
        )
        return {BillingMonth.of_day(row["month"]): row["peak"] for row in found}

    async def _ledger(self, months: Sequence[BillingMonth]) -> Mapping[BillingMonth, d.MonthTotals]:
        found = await self._session.rows(
            LEDGER,
            organization_id=self._organization_id,
            starting_at=[month.starts_at for month in months],
            ending_at=[month.ends_at for month in months],
        )
        return await in_slices(
            _by_month(found, lambda row: BillingMonth.of(row["month"]), estimated="cost"), in_transaction=True
        )

    async def _closed_totals(
        self, first: BillingMonth, last: BillingMonth
    ) -> Mapping[BillingMonth, d.MonthTotals]:
        found = await self._session.rows(_CLOSED_TOTALS, **self._between(first, last))
        return await in_slices(
            _by_month(found, lambda row: BillingMonth.of_day(row["month"]), estimated="estimated"),
            in_transaction=True,
        )

    def _between(self, first: BillingMonth, last: BillingMonth) -> dict[str, str | date]:
        return {
            "organization_id": self._organization_id,
            "first": first.first_day,
            "last": last.first_day,
        }


def _by_month(
    rows: Sequence[Row], month_of: Callable[[Row], BillingMonth], *, estimated: str
) -> Generator[None, None, dict[BillingMonth, dict[d.UsageKey, d.UsageTotals]]]:
    """Convert totals, one for each month, mode and model. Yields after some rows."""
    found: dict[BillingMonth, dict[d.UsageKey, d.UsageTotals]] = {}
    for number, row in enumerate(rows, start=1):
        month = month_of(row)
        found.setdefault(month, {})[key_of(month, row)] = totals_of(row, estimated=estimated)
        if number % _ROWS_AT_ONCE == 0:
            yield
    return found
