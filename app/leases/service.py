"""Leases: an internal service fetches the key in force straight from Vault; it never passes through us."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from app.audit import service as audit
from app.audit.events import AuditAction
from app.auth.principal import Caller
from app.core.clock import new_id, now
from app.core.errors import (
    ConcurrentChange,
    LeaseRequiresVault,
    ModeIsManaged,
    NotReady,
    SecretStoreUnavailable,
)
from app.credentials.version_repository import SealedVersion, VersionRepository
from app.database.unit_of_work import UnitsOfWork
from app.leases.repository import LeaseRepository, LeaseRow
from app.provider_url.endpoint import AuthStyle, ProviderEndpoint
from app.readiness.readiness import Blocker
from app.readiness.repository import ReadinessRepository
from app.secret_store.port import SecretCorrupt, SecretMissing, SecretRef, WrappedSecret
from app.usage_mode.modes import UsageMode

LONGEST_TTL = timedelta(seconds=300)

# So often in a row is a key looked up that is replaced before it can be handed out.
_ATTEMPTS = 4
_AT_ONCE = 16


class Wrapper(Protocol):
    """A store that hands a key over in a single-use token that only the consumer opens."""

    async def wrap_for_lease(self, ref: SecretRef, store_version: int, ttl_seconds: int) -> WrappedSecret:
        """Raises SecretMissing or SecretStoreUnavailable."""
        ...

    async def revoke_wrapping(self, accessor: str) -> None:
        """Unopened tokens cannot be opened any more; those gone are no error."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What the consumer needs. `wrapping_token` opens once."""

    id: UUID
    wrapping_token: str
    creation_path: str
    expires_at: datetime
    vault_address: str
    credential_id: UUID
    key_version: int
    destination: ProviderEndpoint

    def __repr__(self) -> str:
        return f"Lease(id={self.id!r})"

    @property
    def auth_style(self) -> AuthStyle:
        return self.destination.auth_style


class LeaseService:
    """One use case. Without a wrapper (embedded store) there are none."""

    def __init__(self, units: UnitsOfWork, wrapper: Wrapper | None, *, vault_address: str | None) -> None:
        self._units = units
        self._wrapper = wrapper
        self._vault_address = vault_address

    async def create(self, caller: Caller, *, ttl: timedelta) -> Lease:
        """Wrap the key in force. Counts as a use, and is on record before it is handed out.

        A key that is replaced meanwhile is not handed out: its successor is.

        Raises:
            LeaseRequiresVault, ModeIsManaged, NotReady, ConcurrentChange, SecretStoreUnavailable, DatabaseUnavailable
        """
        if self._wrapper is None or self._vault_address is None:
            raise LeaseRequiresVault
        missing: tuple[int, int] | None = None
        for _ in range(_ATTEMPTS):
            credential_id, sealed = await self._in_force(caller.organization_id)
            if sealed is None:
                continue  # replaced between two looks
            ref = SecretRef(organization_id=caller.organization_id, credential_id=credential_id)
            instant = now()
            try:
                wrapped = await self._wrapper.wrap_for_lease(
                    ref, sealed.store_version, int(ttl.total_seconds())
                )
            except SecretMissing:
                if missing == (sealed.key_version, sealed.store_version):
                    raise NotReady([Blocker.CREDENTIAL_DELETED]) from None
                missing = sealed.key_version, sealed.store_version  # destroyed or rewrapped since, or lost
                continue
            except SecretCorrupt:
                raise SecretStoreUnavailable from None
            row = LeaseRow(
                id=new_id(),
                credential_id=credential_id,
                key_version=sealed.key_version,
                accessor=wrapped.accessor,
                created_at=instant,
                created_by=caller.subject,
                expires_at=instant + ttl,
            )
            if await self._record(caller, row):
                return _lease(row, wrapped, sealed.destination, self._vault_address)
            # Replaced, disabled or destroyed meanwhile: what we hold must not be opened.
            await self._wrapper.revoke_wrapping(wrapped.accessor)
        raise ConcurrentChange

    async def revoke(self, organization_id: str, credential_id: UUID, key_version: int | None = None) -> None:
        """Tokens not yet opened go with the key.

        Raises:
            SecretStoreUnavailable, DatabaseUnavailable
        """
        if self._wrapper is None:
            return
        async with self._units.reading(organization_id) as uow:
            accessors = await uow[LeaseRepository].unexpired(credential_id, key_version, now=now())
        # By turns, so that a key with thousands of leases does not keep a deletion waiting for each.
        for first in range(0, len(accessors), _AT_ONCE):
            turn = accessors[first : first + _AT_ONCE]
            await asyncio.gather(*(self._wrapper.revoke_wrapping(accessor) for accessor in turn))

    async def _in_force(self, organization_id: str) -> tuple[UUID, SealedVersion | None]:
        """The credential that pays, and its version in use; None where that is not the one found ready."""
        async with self._units.reading(organization_id) as uow:
            readiness = await uow[ReadinessRepository].readiness()
            if readiness.mode is UsageMode.MANAGED:
                raise ModeIsManaged
            if not readiness.is_ready or readiness.credential_id is None:
                raise NotReady(readiness.blockers)
            sealed = await uow[VersionRepository].find_active(readiness.credential_id)
        return readiness.credential_id, sealed if sealed is not None and sealed.was_valid else None

    async def _record(self, caller: Caller, row: LeaseRow) -> bool:
        async with self._units.writing(caller.organization_id) as uow:
            if not await uow[LeaseRepository].record(row):
                return False
            await audit.record(
                uow,
                caller,
                AuditAction.CREDENTIAL_LEASED,
                row.credential_id,
                key_version=row.key_version,
                lease_id=str(row.id),
            )
            await uow.commit()
        return True


def _lease(row: LeaseRow, wrapped: WrappedSecret, destination: ProviderEndpoint, vault_address: str) -> Lease:
    return Lease(
        id=row.id,
        wrapping_token=wrapped.token,
        creation_path=wrapped.creation_path,
        expires_at=row.expires_at,
        vault_address=vault_address,
        credential_id=row.credential_id,
        key_version=row.key_version,
        destination=destination,
    )
