"""From rows of the ledger and ended reservations to what each limit's counters gain. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from app.spend_limits.limits import CounterIncrement, LimitPeriod, Spend, Spender, SpendLimit
from app.spend_limits.reservations import Reservation
from app.usage.records import Charge
from app.usage_mode.modes import UsageMode


@dataclass(slots=True)
class _Sum:
    managed: int = 0
    byo: int = 0
    reserved: int = 0
    unpriced: int = 0

    def add(self, other: "_Sum") -> None:
        self.managed += other.managed
        self.byo += other.byo
        self.reserved += other.reserved
        self.unpriced += other.unpriced


def increments_for(
    limits: Sequence[SpendLimit], rows: Sequence[Charge], ended: Sequence[Reservation]
) -> Sequence[CounterIncrement]:
    """One for each limit and period that gains anything, in the order in which counters are locked.

    Args:
        limits: all of the organization.
        rows: newly in the ledger, corrections among them.
        ended: reservations that are no longer held.
    """
    by_counter: dict[tuple[UUID, datetime], _Sum] = {}
    # Days are never split between periods, and a batch has few kinds of spenders.
    for (spender, day), gained in _by_spender_and_day(rows, ended).items():
        for limit in limits:
            if limit.counts(spender, day):
                counter = limit.id, limit.terms.period.start_of(day)
                by_counter.setdefault(counter, _Sum()).add(gained)
    return [
        CounterIncrement(
            limit_id=limit_id,
            period_starts_at=period,
            spend=Spend(
                managed=gained.managed,
                byo=gained.byo,
                reserved=gained.reserved,
                unpriced=gained.unpriced,
            ),
        )
        for (limit_id, period), gained in sorted(by_counter.items())
    ]


def _by_spender_and_day(
    rows: Sequence[Charge], ended: Sequence[Reservation]
) -> dict[tuple[Spender, datetime], _Sum]:
    # By plain values first: a batch has many rows, and few kinds of them.
    by_kind: dict[tuple[UsageMode, str, str | None, str | None, int], _Sum] = {}
    for row in rows:
        day = row.started_at.astimezone(UTC).toordinal()
        kind = row.mode, row.model, row.endpoint_id, row.feature, day
        gained = by_kind.get(kind)
        if gained is None:
            gained = by_kind[kind] = _Sum()
        if row.mode is UsageMode.MANAGED:
            gained.managed += row.billed  # nothing where the organization's own key was used after all
        else:
            gained.byo += row.cost or 0  # never billed: by its estimate
        gained.unpriced += _unpriced(row)
    sums: dict[tuple[Spender, datetime], _Sum] = {}
    for (mode, model, endpoint_id, feature, ordinal), gained in by_kind.items():
        spender = Spender(mode=mode, model=model, endpoint_id=endpoint_id, feature=feature)
        sums[spender, datetime.fromordinal(ordinal).replace(tzinfo=UTC)] = gained
    for reservation in ended:
        began = LimitPeriod.DAY.start_of(reservation.created_at)
        sums.setdefault((reservation.spender, began), _Sum()).reserved -= reservation.held
    return sums


def _unpriced(row: Charge) -> int:
    if row.correction == 0:
        return 1 if row.cost is None else 0
    # The first correction brings the cost that the event lacked.
    return -1 if row.correction == 1 and row.cost is not None else 0
