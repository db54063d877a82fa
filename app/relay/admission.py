"""Admits calls: who pays, whether the key is valid, and whether every limit has room, decided in one transaction."""

from collections.abc import Sequence
from typing import TypeAlias

from app.billing.subscription_repository import SubscriptionRepository
from app.core.errors import ConcurrentChange, NotReady
from app.database.group_commit import GroupCommit
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.relay.errors import MANAGED_NOT_ENABLED, RelayError
from app.relay.payer_repository import Payer, PayerRepository
from app.relay.records import RESERVATION_TTL, AdmittedCall, CallRequest, Destination
from app.relay.repository import CallRepository
from app.spend_limits.limits import ExpectedUsage
from app.spend_limits.reservation_service import ReservationRequest, ReservationService, WantedReservation
from app.spend_limits.reservations import Reservation
from app.usage_mode.modes import UsageMode

# How often a group is decided again because its key version was replaced, or a scheduled mode took effect, meanwhile.
_ATTEMPTS = 4
# Bounds how long one transaction holds the counters of an organization.
_LARGEST_GROUP = 128
# More than any model can give. A request for more fails at the provider.
_MOST_OUTPUT_TOKENS = 1_000_000

_Admitted: TypeAlias = tuple[AdmittedCall, Destination | None]


class Admission:
    """Reserves spend for calls and records them as open, together for calls of one organization that arrive together.

    Everything is judged at one point of the database's clock, the `started_at` of the call. The usage mode and the limits
    cannot change meanwhile, because the transaction holds the ledger lock.

    Args:
        units: opens transactions.
        reservations: decides about the limits.
        is_managed_enabled: whether the operator's key may be used at all.
    """

    def __init__(
        self, units: UnitsOfWork, reservations: ReservationService, *, is_managed_enabled: bool
    ) -> None:
        self._units = units
        self._reservations = reservations
        self._is_managed_enabled = is_managed_enabled
        self._groups = GroupCommit(self._admit_group, at_most=_LARGEST_GROUP)

    async def admit(
        self, organization_id: str, request: CallRequest
    ) -> tuple[AdmittedCall, Destination | None]:
        """Admit one call. Its reservation stays open until its event or its release ends it.

        Returns the call and where to send it; no destination in managed mode.

        Raises:
            RelayError: managed usage is not enabled.
            NotReady, SpendLimitExceeded, ConcurrentChange, DatabaseUnavailable
        """
        return await self._groups.submit(organization_id, request)

    async def require_managed(self, uow: UnitOfWork) -> None:
        """Raise RelayError unless the operator pays for this organization.

        Unknown organizations are managed by contract, and must not spend the operator's money.
        """
        if not self._is_managed_enabled or await uow[SubscriptionRepository].find() is None:
            raise RelayError(MANAGED_NOT_ENABLED)

    async def _admit_group(
        self, organization_id: str, requests: Sequence[CallRequest]
    ) -> Sequence[_Admitted | Exception]:
        for _ in range(_ATTEMPTS):
            decided = await self._decide(organization_id, requests)
            if decided is not None:
                return decided
        raise ConcurrentChange

    async def _decide(
        self, organization_id: str, requests: Sequence[CallRequest]
    ) -> Sequence[_Admitted | Exception] | None:
        """Decide about all requests. None: what they were judged by changed meanwhile, and nothing was recorded."""
        async with self._units.writing_with_shared_lock(organization_id, has_few_rows=True) as uow:
            payer = await uow[PayerRepository].payer()
            refusal = await self._refusal(uow, payer)
            if refusal is not None:
                return [refusal] * len(requests)
            made = await self._reservations.reserve_within(
                uow,
                [_wanted(one) for one in requests],
                has_price_overrides=payer.has_price_overrides,
            )
            by_id = {one.id: one for one in made if isinstance(one, Reservation)}
            granted = [one for one in requests if one.id in by_id]
            if granted:
                if _has_passed(payer, by_id[granted[0].id]):
                    return None
                if not await uow[CallRepository].record(granted, payer.destination):
                    return None
                await uow.commit()
        return [
            (_call(organization_id, request, payer, one), payer.destination)
            if isinstance(one, Reservation)
            else one
            for request, one in zip(requests, made, strict=True)
        ]

    async def _refusal(self, uow: UnitOfWork, payer: Payer) -> Exception | None:
        """Why no call of this organization may start; None if they may, as far as the limits allow."""
        if payer.mode is not UsageMode.MANAGED:
            return NotReady(payer.blockers) if payer.blockers else None
        try:
            await self.require_managed(uow)
        except RelayError as error:
            return error
        return None


def _wanted(request: CallRequest) -> WantedReservation:
    return WantedReservation(
        id=request.id,
        created_by=request.subject,
        request=ReservationRequest(
            amount=None,
            model=request.model,
            endpoint_id=request.dimensions.endpoint_id,
            feature=request.dimensions.feature,
            ttl=RESERVATION_TTL,
            expected=ExpectedUsage(
                model=request.model,
                input_tokens=request.input_tokens,
                max_output_tokens=min(request.max_tokens, _MOST_OUTPUT_TOKENS),
            ),
        ),
    )


def _has_passed(payer: Payer, reservation: Reservation) -> bool:
    """Whether a scheduled mode took effect between the two readings of the clock."""
    return payer.next_change_at is not None and reservation.created_at >= payer.next_change_at


def _call(organization_id: str, request: CallRequest, payer: Payer, reservation: Reservation) -> AdmittedCall:
    destination = payer.destination
    return AdmittedCall(
        organization_id=organization_id,
        request=request,
        started_at=reservation.created_at,
        mode=payer.mode,
        credential_id=None if destination is None else destination.credential_id,
        key_version=None if destination is None else destination.key_version,
    )
