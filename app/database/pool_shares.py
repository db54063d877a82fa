"""Shares of the connection pool: a quota for each organization, and a reserve that bulk reads never use."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass

from app.core.admission import OrganizationSlots
from app.core.errors import ConcurrencyLimited, DatabaseUnavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolQuotas:
    """How the connections of the pool are shared.

    Attributes:
        per_organization: how many connections one organization may use at a time.
        reserved: how many connections lists, reports and exports never use, so that readiness, reservations and saves
            find one.

    For lists, reports and exports, one organization uses at most half of its connections.
    """

    per_organization: int
    reserved: int


class PoolShares:
    """Admits sessions to the pool. Sessions without an organization, which background jobs open, have no quota.

    Args:
        pool_size: the connections of the pool.
        quotas: how they are shared.
        timeout_seconds: how long a session waits.
    """

    def __init__(self, pool_size: int, quotas: PoolQuotas, *, timeout_seconds: float) -> None:
        self._organizations = OrganizationSlots(min(quotas.per_organization, pool_size))
        self._organizations_in_bulk = OrganizationSlots(max(1, min(quotas.per_organization, pool_size) // 2))
        self._bulk = asyncio.Semaphore(max(1, pool_size - quotas.reserved))
        self._timeout_seconds = timeout_seconds

    def share(self, organization_id: str | None, *, is_bulk: bool) -> AbstractAsyncContextManager[None]:
        """The right to one connection, to hold while a block runs.

        Raises:
            ConcurrencyLimited: the organization's quota stayed in use.
            DatabaseUnavailable: the connections for bulk reads stayed in use.
        """
        return self._bulk_share(organization_id) if is_bulk else PoolShare(self, organization_id)

    async def acquire_quota(self, organization_id: str) -> None:
        await self._acquire(self._organizations, organization_id)

    def release_quota(self, organization_id: str) -> None:
        self._organizations.release(organization_id)

    @asynccontextmanager
    async def _bulk_share(self, organization_id: str | None) -> AsyncIterator[None]:
        with ExitStack() as held:
            if organization_id is not None:
                for organizations in (self._organizations_in_bulk, self._organizations):
                    await self._acquire(organizations, organization_id)
                    held.callback(organizations.release, organization_id)
            await self._acquire_bulk()
            held.callback(self._bulk.release)
            yield

    async def _acquire(self, organizations: OrganizationSlots, organization_id: str) -> None:
        if organizations.is_free(organization_id):
            await organizations.acquire(organization_id)
            return
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await organizations.acquire(organization_id)
        except TimeoutError:
            raise ConcurrencyLimited from None

    async def _acquire_bulk(self) -> None:
        if not self._bulk.locked():
            await self._bulk.acquire()
            return
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._bulk.acquire()
        except TimeoutError:
            raise DatabaseUnavailable from None


class PoolShare(AbstractAsyncContextManager[None]):
    """Holds a share of the pool. A class, because every statement of a read enters one: generators cost twice as much."""

    __slots__ = ("_organization_id", "_shares")

    def __init__(self, shares: PoolShares, organization_id: str | None) -> None:
        self._shares = shares
        self._organization_id = organization_id

    async def __aenter__(self) -> None:
        if self._organization_id is not None:
            await self._shares.acquire_quota(self._organization_id)

    async def __aexit__(self, *_: object) -> None:
        if self._organization_id is not None:
            self._shares.release_quota(self._organization_id)
