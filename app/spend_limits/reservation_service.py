"""Reservations: put spend aside before a request is made, so that no two requests spend the same rest of a limit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from app.auth.principal import Caller
from app.core.errors import NotFound, ReservationEnded, SpendLimitExceeded
from app.credentials.repository import CredentialRepository
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.spend_limits.counters import increments_for
from app.spend_limits.limits import Enforcement, Spender, SpendLimit, estimate
from app.spend_limits.repository import LimitRepository
from app.spend_limits.reservation_repository import ReservationRepository
from app.spend_limits.reservations import Reservation, ReservationState
from app.usage.ports import PriceSource
from app.usage_mode.modes import UsageModePoint


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationRequest:
    """What is about to be spent: an amount, or a model with how many tokens at most."""

    amount: int | None
    model: str | None
    input_tokens: int
    max_output_tokens: int
    endpoint_id: str | None
    feature: str | None
    ttl: timedelta


class ReservationService:
    """Granted and released while limits stand still; the guard is one statement over all limits that apply.

    Args:
        units: of work.
        prices: as the organization pays them.
    """

    def __init__(self, units: UnitsOfWork, prices: PriceSource) -> None:
        self._units = units
        self._prices = prices

    async def reserve(
        self, caller: Caller, request: ReservationRequest, *, reservation_id: UUID
    ) -> Reservation:
        """Put the amount aside in every limit that applies, or in none.

        The mode is the one in force now. Without a known price a blocking limit refuses: it cannot tell.

        Raises:
            SpendLimitExceeded, DatabaseUnavailable
        """
        async with self._units.counting(caller.organization_id) as uow:
            standing = await uow[LimitRepository].standing()
            now = standing.now
            reservation = Reservation(
                id=reservation_id,
                spender=Spender(
                    mode=standing.in_force.mode,
                    model=request.model,
                    endpoint_id=request.endpoint_id,
                    feature=request.feature,
                ),
                amount=await self._amount(uow, request, standing.in_force, now),
                state=ReservationState.OPEN,
                created_at=now,
                created_by=caller.subject,
                expires_at=now + request.ttl,
            )
            limits = [limit for limit in standing.limits if limit.counts(reservation.spender, now)]
            await _hold(uow, reservation, limits)
            await uow.commit()
        return reservation

    async def find(self, organization_id: str, reservation_id: UUID) -> Reservation | None:
        async with self._units.reading(organization_id) as uow:
            return await uow[ReservationRepository].find(reservation_id)

    async def release(self, caller: Caller, reservation_id: UUID) -> Reservation:
        """No request was made: give the amount back. A second time changes nothing.

        Raises:
            NotFound, ReservationEnded, DatabaseUnavailable
        """
        async with self._units.writing(caller.organization_id) as uow:
            now = await uow[LimitRepository].lock_shared()
            found = await uow[ReservationRepository].lock([reservation_id])
            if not found:
                raise NotFound
            (reservation,) = found
            if reservation.state is ReservationState.OPEN:
                if reservation.expires_at <= now:
                    raise ReservationEnded
                await uow[ReservationRepository].end([reservation_id], ReservationState.RELEASED, now=now)
                await uow[LimitRepository].add(increments_for(await uow[LimitRepository].all(), [], found))
                await uow.commit()
            elif reservation.state is ReservationState.SETTLED:
                raise ReservationEnded
        return replace(reservation, state=ReservationState.RELEASED)

    async def _amount(
        self, uow: UnitOfWork, request: ReservationRequest, in_force: UsageModePoint, now: datetime
    ) -> int | None:
        if request.model is None or request.amount is not None:
            return request.amount
        prices = await self._prices.of(uow)
        is_compatible = await _is_compatible_endpoint(uow, in_force)
        return estimate(
            lambda usage: prices.price([usage], at=now, is_compatible_endpoint=is_compatible).cost,
            model=request.model,
            input_tokens=request.input_tokens,
            max_output_tokens=request.max_output_tokens,
        )


async def _is_compatible_endpoint(uow: UnitOfWork, in_force: UsageModePoint) -> bool:
    """Whether the request would go to an endpoint that is not Anthropic's, whose prices only the organization knows."""
    if in_force.credential_id is None:
        return False
    credential = await uow[CredentialRepository].find(in_force.credential_id)
    return credential is not None and credential.current.destination.base_url is not None


async def _hold(uow: UnitOfWork, reservation: Reservation, limits: Sequence[SpendLimit]) -> None:
    periods = {limit.id: limit.terms.period.start_of(reservation.created_at) for limit in limits}
    if reservation.amount is None:
        for limit in limits:
            if limit.terms.enforcement is Enforcement.BLOCK:
                raise _exceeded(limit, "price_unknown")
        periods = {}  # there is nothing to put aside
    held = await uow[ReservationRepository].insert(reservation, periods)
    for limit in limits:
        if limit.id in periods and limit.id not in held:
            raise _exceeded(limit, "limit_reached")


def _exceeded(limit: SpendLimit, reason: str) -> SpendLimitExceeded:
    return SpendLimitExceeded(limit_id=limit.id, limit_name=limit.terms.name, reason=reason)
