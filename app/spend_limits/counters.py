"""Turns ledger rows and ended reservations into increments of the limits' counters. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias
from uuid import UUID

from app.core.model_identity import model_identity
from app.spend_limits.limits import CounterIncrement, LimitPeriod, LimitScope, Spend, Spender, SpendLimit
from app.spend_limits.reservations import Reservation
from app.usage_events.records import Charge, unpriced_change
from app.usage_mode.modes import UsageMode

_Dimensions: TypeAlias = tuple[str | None, str | None, str | None]


@dataclass(slots=True)
class _Total:
    managed: int = 0
    byo: int = 0
    reserved: int = 0
    unpriced: int = 0

    def add(self, other: "_Total") -> None:
        self.managed += other.managed
        self.byo += other.byo
        self.reserved += other.reserved
        self.unpriced += other.unpriced

    def to_spend(self) -> Spend:
        return Spend(managed=self.managed, byo=self.byo, reserved=self.reserved, unpriced=self.unpriced)


class CountedCharges:
    """Adds up charges for the counters of an organization's limits.

    A charge is looked up once for each combination of dimensions that scopes use, not compared with each limit: a batch
    may have thousands of spenders, and an organization a hundred limits.
    """

    def __init__(self, limits: Sequence[SpendLimit]) -> None:
        self._limits = limits
        self._by_scope: dict[_Dimensions, dict[tuple[UsageMode, int], _Total]] = {
            _dimensions(limit.terms.scope): {} for limit in limits
        }
        self._combinations = {
            (model is not None, endpoint_id is not None, feature is not None)
            for model, endpoint_id, feature in self._by_scope
        }

    def add_rows(self, rows: Sequence[Charge]) -> None:
        """Add rows that are new in the ledger, including corrections."""
        # Group by plain values first, because a batch has many rows and usually few different groups.
        by_kind: dict[tuple[UsageMode, str, str | None, str | None, int], _Total] = {}
        for row in rows:
            day = row.started_at.astimezone(UTC).toordinal()
            kind = row.mode, row.model, row.endpoint_id, row.feature, day
            total = by_kind.get(kind)
            if total is None:
                total = by_kind[kind] = _Total()
            if row.mode is UsageMode.MANAGED:
                total.managed += row.billed  # 0 if the organization's own key was used after all
            else:
                total.byo += row.cost or 0  # the estimated cost, because BYO usage is never billed
            total.unpriced += unpriced_change(row)
        for (mode, model, endpoint_id, feature, day), total in by_kind.items():
            self._add((model_identity(model), endpoint_id, feature), mode, day, total)

    def add_reservations(self, reservations: Sequence[Reservation], *, sign: int) -> None:
        """Add reservations that are charged again, or with the sign -1 subtract those that are no longer charged."""
        for reservation in reservations:
            spender, day = reservation.spender, LimitPeriod.DAY.start_of(reservation.created_at).toordinal()
            change = _Total(reserved=sign * reservation.reserved_amount)
            self._add(_dimensions(spender), spender.mode, day, change)

    def increments(self) -> Sequence[CounterIncrement]:
        """The increments, at most one for each limit and period, in the order in which counters are locked."""
        by_counter: dict[tuple[UUID, datetime], _Total] = {}
        for limit in self._limits:
            scope = limit.terms.scope
            for (mode, ordinal), total in self._by_scope[_dimensions(scope)].items():
                day = datetime.fromordinal(ordinal).replace(tzinfo=UTC)
                if day >= limit.counts_from and scope.mode.covers(mode):
                    counter = limit.id, limit.terms.period.start_of(day)
                    by_counter.setdefault(counter, _Total()).add(total)
        return [
            CounterIncrement(limit_id=limit_id, period_starts_at=period, spend=total.to_spend())
            for (limit_id, period), total in sorted(by_counter.items(), key=lambda item: item[0])
        ]

    def _add(self, own: _Dimensions, mode: UsageMode, day: int, total: _Total) -> None:
        """Add to each scope that has the same value in every dimension that it uses. No period splits a day."""
        model, endpoint_id, feature = own
        for with_model, with_endpoint, with_feature in self._combinations:
            if (
                (with_model and model is None)
                or (with_endpoint and endpoint_id is None)
                or (with_feature and feature is None)
            ):
                continue
            key = (
                model if with_model else None,
                endpoint_id if with_endpoint else None,
                feature if with_feature else None,
            )
            found = self._by_scope.get(key)
            if found is not None:
                found.setdefault((mode, day), _Total()).add(total)


def increments_for(
    limits: Sequence[SpendLimit],
    rows: Sequence[Charge],
    ended: Sequence[Reservation],
    charged_again: Sequence[Reservation] = (),
) -> Sequence[CounterIncrement]:
    """The increments for a few rows and ended reservations.

    Args:
        limits: all limits of the organization.
        rows: the rows that are new in the ledger, including corrections.
        ended: the reservations that are no longer charged.
        charged_again: the reservations that had ended and are charged again.
    """
    charges = CountedCharges(limits)
    charges.add_rows(rows)
    charges.add_reservations(ended, sign=-1)
    charges.add_reservations(charged_again, sign=1)
    return charges.increments()


def _dimensions(of: LimitScope | Spender) -> _Dimensions:
    """The dimensions that decide what a scope covers, besides the mode. All spellings of a model are one model."""
    return None if of.model is None else model_identity(of.model), of.endpoint_id, of.feature


def unpriced_by_reservation(rows: Sequence[Charge]) -> Mapping[UUID, int]:
    """The reservations that these rows name, each with the change of the number of its rows without a price.

    Rows that change or cancel others are included only if they change that number.
    """
    found: dict[UUID, int] = {}
    for row in rows:
        if row.reservation_id is not None and (row.correction == 0 or unpriced_change(row)):
            found[row.reservation_id] = found.get(row.reservation_id, 0) + unpriced_change(row)
    return found
