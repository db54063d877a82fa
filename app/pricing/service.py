"""Loads an organization's prices, and changes its price overrides."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.audit import service as audit
from app.audit.events import AuditAction
from app.auth.principal import Caller
from app.core.clock import now
from app.core.errors import InvalidInput
from app.core.revisions import require_revision
from app.database.ledger_lock import LedgerLock
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.pricing.prices import OrganizationPrices, OverrideList, PriceList, PriceOverride, active_list_at
from app.pricing.repository import PriceRepository
from app.usage_events.records import MAX_EVENT_AGE

# Tolerance for the difference between the clocks of two machines.
_LEEWAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideState:
    """The active list and the scheduled one. `None` means that no such list exists."""

    active: OverrideList | None
    scheduled: OverrideList | None

    @property
    def revision(self) -> int:
        """The number of the last list that was set, for the ETag. 0 if no list was ever set."""
        last = self.scheduled or self.active
        return 0 if last is None else last.number


class PriceService:
    """All organizations share the price list, which is loaded at start. Overrides are read in the transaction that uses them."""

    def __init__(self, units: UnitsOfWork, price_list: PriceList, *, max_models: int = 200) -> None:
        self._units = units
        self._max_models = max_models
        self.price_list = price_list

    async def load(self, uow: UnitOfWork, *, since: datetime | None = None) -> OrganizationPrices:
        """Load the prices from `since` on. Default: the earliest time at which an event may start.

        Take the ledger lock first, at least shared, so that no applicable list is missing.
        """
        since = _earliest_start() if since is None else since
        return OrganizationPrices(self.price_list, await uow[PriceRepository].lists(since=since))

    def without_overrides(self) -> OrganizationPrices:
        """The prices of an organization that has never set an override list."""
        return OrganizationPrices(self.price_list, ())

    async def load_with_clock(self, uow: UnitOfWork) -> tuple[OrganizationPrices, datetime]:
        """Load the prices, and the database's clock in the same round trip."""
        lists, clock = await uow[PriceRepository].lists_with_clock(since=_earliest_start())
        return OrganizationPrices(self.price_list, lists), clock

    async def overrides(self, organization_id: str) -> OverrideState:
        async with self._units.reading(organization_id) as uow:
            return await _state(uow, await uow[PriceRepository].clock())

    async def set_overrides(
        self,
        caller: Caller,
        overrides: Sequence[PriceOverride],
        *,
        effective_at: datetime | None = None,
        revisions: frozenset[int] | None = None,
    ) -> OverrideState:
        """Replace all overrides, from now or from `effective_at`. This replaces a scheduled list.

        Setting the active list again, from now and with nothing scheduled, changes nothing.

        Raises:
            InvalidInput, PreconditionFailed, DatabaseUnavailable
        """
        if len(overrides) > self._max_models:
            raise InvalidInput.invalid_field("overrides", "too_long", "The list is too long.")
        async with self._units.writing(caller.organization_id) as uow:
            await uow[LedgerLock].lock_exclusively()
            clock = await uow[PriceRepository].clock()
            before = await _state(uow, clock)
            require_revision(before.revision, revisions)
            if effective_at is not None and effective_at < clock:
                raise InvalidInput.of("effective_at", "effective_at_in_past", "Must not be in the past.")
            if effective_at is None and before.scheduled is None and _is_same(before.active, overrides):
                return before
            added = await _append(uow, caller, overrides, effective_from=effective_at or clock, set_at=clock)
            await uow.commit()
        if added.effective_from <= clock:
            return OverrideState(active=added, scheduled=None)
        return OverrideState(active=before.active, scheduled=added)


def _earliest_start() -> datetime:
    return now() - MAX_EVENT_AGE - _LEEWAY


async def _append(
    uow: UnitOfWork,
    caller: Caller,
    overrides: Sequence[PriceOverride],
    *,
    effective_from: datetime,
    set_at: datetime,
) -> OverrideList:
    added = OverrideList(
        number=await uow[PriceRepository].last_number() + 1,
        effective_from=effective_from,
        overrides=overrides,
        set_at=set_at,
        set_by=caller.subject,
    )
    await uow[PriceRepository].append(added)
    await audit.record(
        uow,
        caller,
        AuditAction.PRICES_OVERRIDDEN,
        None,
        number=added.number,
        models=len(added.overrides),
        effective_from=added.effective_from.isoformat(),
    )
    return added


async def _state(uow: UnitOfWork, clock: datetime) -> OverrideState:
    lists = await uow[PriceRepository].lists(since=clock)
    active = active_list_at(lists, clock)
    last = lists[-1] if lists else None
    return OverrideState(active=active, scheduled=None if last is active else last)


def _is_same(active: OverrideList | None, overrides: Sequence[PriceOverride]) -> bool:
    return set(overrides) == (set() if active is None else set(active.overrides))
