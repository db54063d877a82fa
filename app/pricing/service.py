"""Prices as an organization pays them, and setting its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.audit import service as audit
from app.audit.events import AuditAction
from app.auth.principal import Caller
from app.core.clock import now
from app.core.errors import InvalidInput, PreconditionFailed
from app.database.ledger_lock import LedgerLock
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.pricing.prices import OrganizationPrices, OverrideList, PriceList, PriceOverride, in_force_at
from app.pricing.repository import PriceRepository
from app.usage.records import FURTHEST_BACK

# Clocks of two machines may differ by this much.
_LEEWAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideState:
    """The list in force, and the one that takes its place later. None: there is none."""

    in_force: OverrideList | None
    scheduled: OverrideList | None

    @property
    def revision(self) -> int:
        """For the ETag: the number of the last list set; 0 before the first."""
        last = self.scheduled or self.in_force
        return 0 if last is None else last.number


class PriceService:
    """The list is shared and read once, at start; overrides are read in the transaction that prices by them."""

    def __init__(self, units: UnitsOfWork, listed: PriceList) -> None:
        self._units = units
        self.listed = listed

    async def of(self, uow: UnitOfWork, *, since: datetime | None = None) -> OrganizationPrices:
        """For instants from `since` on; by default as far back as an event may start.

        Take the lock of the usage mode before, at least shared: then no list that counts is missing.
        """
        since = now() - FURTHEST_BACK - _LEEWAY if since is None else since
        return OrganizationPrices(self.listed, await uow[PriceRepository].lists(since=since))

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
        """The whole list from now or `effective_at` on; takes the place of whatever is scheduled.

        The list in force once more, from now on, with nothing scheduled, changes nothing.

        Raises:
            InvalidInput, PreconditionFailed, DatabaseUnavailable
        """
        async with self._units.writing(caller.organization_id) as uow:
            await uow[LedgerLock].exclusive()
            clock = await uow[PriceRepository].clock()
            before = await _state(uow, clock)
            if revisions is not None and before.revision not in revisions:
                raise PreconditionFailed
            if effective_at is not None and effective_at < clock:
                raise InvalidInput.of(
                    "effective_at",
                    "effective_at_in_past",
                    "A price counts from now on or later, never from the past.",
                )
            if effective_at is None and before.scheduled is None and _is_same(before.in_force, overrides):
                return before
            added = OverrideList(
                number=await uow[PriceRepository].last_number() + 1,
                effective_from=effective_at or clock,
                overrides=overrides,
                set_at=clock,
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
            await uow.commit()
        if added.effective_from <= clock:
            return OverrideState(in_force=added, scheduled=None)
        return OverrideState(in_force=before.in_force, scheduled=added)


async def _state(uow: UnitOfWork, clock: datetime) -> OverrideState:
    lists = await uow[PriceRepository].lists(since=clock)
    in_force = in_force_at(lists, clock)
    last = lists[-1] if lists else None
    return OverrideState(in_force=in_force, scheduled=None if last is in_force else last)


def _is_same(in_force: OverrideList | None, overrides: Sequence[PriceOverride]) -> bool:
    return set(overrides) == (set() if in_force is None else set(in_force.overrides))
