"""What a switch of the usage mode would change. A projection is a projection: nothing here is billed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.billing.month import BillingMonth
from app.core.money import round_to_cent
from app.readiness.readiness import Blocker
from app.spend_limits.limits import SpendLimit
from app.usage_mode.modes import UsageMode, UsageModePoint, UsageModeState

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """Managed usage of the whole month, in pico-USD, rounded: as planned now, and after the switch."""

    as_planned: int
    after_switch: int

    @property
    def difference(self) -> int:
        """Negative: avoided."""
        return self.after_switch - self.as_planned


@dataclass(frozen=True, slots=True, kw_only=True)
class ModePreview:
    """The answer of a dry run."""

    month: BillingMonth
    current: UsageModeState
    point: UsageModePoint
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
    """The month at the rate of its days so far: what all usage cost by then, whoever paid, goes on evenly.

    Args:
        now: within the month.
        month: the present one.
        cost_so_far: of all usage of the month, whatever its mode.
        managed_so_far: what of it is billed; no switch changes that.
        planned: what is in force and to come.
        switched: the same after the switch.
    """
    elapsed = max((now - month.starts_at) // _MICROSECOND, 1)

    def whole_month(state: UsageModeState) -> int:
        ahead = _managed_time(state, now, month.ends_at) // _MICROSECOND
        return round_to_cent(managed_so_far + cost_so_far * ahead // elapsed)

    return Projection(as_planned=whole_month(planned), after_switch=whole_month(switched))


def _managed_time(state: UsageModeState, start: datetime, end: datetime) -> timedelta:
    """How long of that time the mode would be managed."""
    coming = state.scheduled
    change = end if coming is None or coming.effective_from is None else coming.effective_from
    change = min(max(change, start), end)
    before = change - start if state.in_force.mode is UsageMode.MANAGED else timedelta()
    is_managed_then = coming is not None and coming.mode is UsageMode.MANAGED
    return before + (end - change if is_managed_then else timedelta())
