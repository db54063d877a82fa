"""Finds the keys of requests without a reservation of the same organization: those of requests without costs, and the operator's key.

Before such a key is read, its version is marked as in use for longer than the request can take. So it is not safe to
revoke while the request is in progress.
"""

from datetime import timedelta

from app.core.errors import ConcurrentChange, NotReady
from app.core.organizations import OPERATOR_ORGANIZATION
from app.database.unit_of_work import UnitsOfWork
from app.relay.admission import Admission
from app.relay.payer_repository import Payer, PayerRepository
from app.relay.records import Destination
from app.usage_mode.modes import UsageMode

_ATTEMPTS = 4
# The mark lasts this much longer than needed, so that a version is written to at most once in this time.
_MARGIN_SECONDS = 60


class Destinations:
    """Chooses the key by the usage mode. Neither mode ever falls back to the other's key.

    Args:
        units: opens transactions.
        admission: knows whether managed usage is enabled.
        small_seconds: the longest time of a request without a reservation.
        total_seconds: the longest time of a call.
    """

    def __init__(
        self, units: UnitsOfWork, admission: Admission, *, small_seconds: float, total_seconds: float
    ) -> None:
        self._units = units
        self._admission = admission
        self._small_seconds = small_seconds
        self._total_seconds = total_seconds

    async def for_small_request(self, organization_id: str) -> tuple[UsageMode, Destination]:
        """Whose key a request without a reservation uses, if the organization is ready.

        Raises:
            RelayError: managed usage is not enabled.
            NotReady, ConcurrentChange, DatabaseUnavailable
        """
        for _ in range(_ATTEMPTS):
            uow = self._units.autocommit_read(organization_id)
            payer = await uow[PayerRepository].payer(with_limits=True)
            if payer.mode is UsageMode.MANAGED:
                await self._admission.require_managed(uow)
            if payer.blockers:
                raise NotReady(payer.blockers)
            if payer.mode is UsageMode.MANAGED:
                return payer.mode, await self._operators(self._small_seconds)
            destination = await self._marked(payer, self._small_seconds)
            if destination is not None:
                return payer.mode, destination
        raise ConcurrentChange

    async def operators(self) -> Destination:
        """The operator's key for a call: that of the reserved organization, whose usage mode names it.

        Raises:
            NotReady, ConcurrentChange, DatabaseUnavailable
        """
        return await self._operators(self._total_seconds)

    async def _operators(self, seconds: float) -> Destination:
        for _ in range(_ATTEMPTS):
            payer = await self._units.autocommit_read(OPERATOR_ORGANIZATION)[PayerRepository].payer()
            if payer.mode is UsageMode.MANAGED or payer.blockers:
                raise NotReady(payer.blockers)
            destination = await self._marked(payer, seconds)
            if destination is not None:
                return destination
        raise ConcurrentChange

    async def _marked(self, payer: Payer, seconds: float) -> Destination | None:
        """The destination, marked as in use for at least so long. None if its version was replaced meanwhile."""
        destination = payer.destination
        if destination is None:
            return None
        needed_until = payer.read_at + timedelta(seconds=seconds)
        if payer.leased_until is not None and payer.leased_until >= needed_until:
            return destination
        async with self._units.writing(destination.organization_id) as uow:
            extended = await uow[PayerRepository].extend_use(
                destination, until=needed_until + timedelta(seconds=_MARGIN_SECONDS)
            )
            await uow.commit()
        return destination if extended else None
