"""Previews what a switch of the usage mode would change. The projection is an estimate; nothing here is billed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.billing.month import BillingMonth
from app.core.money import round_to_cent
from app.readiness.readiness import Blocker
from app.spend_limits.limits import SpendLimit
from app.usage_mode.modes import ModeChange, UsageMode, UsageModeState

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """Managed usage of the whole month, in pico-USD and rounded to a cent: without and with the switch."""

    as_planned: int
    after_switch: int

    @property
    def difference(self) -> int:
        """Negative if the switch reduces managed usage."""
        return self.after_switch - self.as_planned


@dataclass(frozen=True, slots=True, kw_only=True)
class ModePreview:
    """The result of a dry run."""

    month: BillingMonth
    current: UsageModeState
    change: ModeChange
    total_so_far: int
    managed_so_far: int
    projection: Projection
    limits: Sequence[SpendLimit]
    blockers: tuple[Blocker, ...]


def project(
    *,
    now: datetime,
    month: BillingMonth,
    cost_so_far: int,
    managed_so_far: int,
    planned: UsageModeState,
    switched: UsageModeState,
) -> Projection:
    """Project the month at its rate so far: all usage, in both modes, continues at the average cost per time.

    Args:
        now: the current time, within the month.
        month: the current month.
        cost_so_far: the cost of all usage of the month so far, in both modes, in pico-USD.
        managed_so_far: the billed part of it; a switch does not change it.
        planned: the active mode and the scheduled change.
        switched: the same after the switch.
    """
    elapsed = max((now - month.starts_at) // _MICROSECOND, 1)

    def whole_month(state: UsageModeState) -> int:
        ahead = _managed_time(state, now, month.ends_at) // _MICROSECOND
        return round_to_cent(managed_so_far + cost_so_far * ahead // elapsed)

    return Projection(as_planned=whole_month(planned), after_switch=whole_month(switched))


def _managed_time(state: UsageModeState, start: datetime, end: datetime) -> timedelta:
    """How long the mode would be managed between start and end."""
    scheduled = state.scheduled
    change = end if scheduled is None or scheduled.effective_from is None else scheduled.effective_from
    change = min(max(change, start), end)
    before = change - start if state.active.mode is UsageMode.MANAGED else timedelta()
    is_managed_then = scheduled is not None and scheduled.mode is UsageMode.MANAGED
    return before + (end - change if is_managed_then else timedelta())
