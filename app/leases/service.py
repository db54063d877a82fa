"""Leases: an internal service fetches the active key directly from Vault. The key never passes through this service."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

import structlog

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
from app.credentials.version_repository import SecretLocation, VersionRepository
from app.database.unit_of_work import UnitsOfWork
from app.leases.repository import LeaseRepository, LeaseRow
from app.provider_url.endpoint import AuthStyle, ProviderEndpoint
from app.readiness.readiness import Blocker
from app.readiness.repository import ReadinessRepository
from app.secret_store.port import SecretCorrupt, SecretMissing, SecretRef, WrappedSecret
from app.usage_mode.modes import UsageMode

log = structlog.get_logger("byok.leases")

MAX_TTL = timedelta(seconds=300)

# How often the active key is looked up again when it is replaced before its lease is stored.
_ATTEMPTS = 4
_REVOCATION_BATCH = 16


class Wrapper(Protocol):
    """A store that wraps a key in a single-use token for a consumer."""

    async def wrap_for_lease(self, ref: SecretRef, store_version: int, ttl_seconds: int) -> WrappedSecret:
        """Wrap a key. Raises SecretMissing, SecretCorrupt or SecretStoreUnavailable."""
        ...

    async def revoke_wrapping(self, accessor: str) -> None:
        """Revoke a wrapping token. A token that was unwrapped or has expired is ignored."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What the consumer needs. `wrapping_token` can be unwrapped once."""

    id: UUID
    wrapping_token: str
    creation_path: str
    expires_at: datetime
    vault_address: str
    credential_id: UUID
    key_version: int
    endpoint: ProviderEndpoint

    def __repr__(self) -> str:
        return f"Lease(id={self.id!r})"

    @property
    def auth_style(self) -> AuthStyle:
        return self.endpoint.auth_style


class LeaseService:
    """Creates and revokes leases. Without a wrapper, as with the embedded store, leases are refused."""

    def __init__(self, units: UnitsOfWork, wrapper: Wrapper | None, *, vault_address: str | None) -> None:
        self._units = units
        self._wrapper = wrapper
        self._vault_address = vault_address

    async def create(self, caller: Caller, *, ttl: timedelta) -> Lease:
        """Wrap the active key. Counts as a use, and is stored with an audit event before it is returned.

        If the key is replaced in the meantime, its successor is leased instead.

        Raises:
            LeaseRequiresVault, ModeIsManaged, NotReady, ConcurrentChange, SecretStoreUnavailable, DatabaseUnavailable
        """
        if self._wrapper is None or self._vault_address is None:
            raise LeaseRequiresVault
        missing: tuple[int, int] | None = None
        for _ in range(_ATTEMPTS):
            credential_id, location = await self._find_active(caller.organization_id)
            if location is None:
                continue  # replaced between the two queries
            created_at = now()
            ref = SecretRef(organization_id=caller.organization_id, credential_id=credential_id)
            try:
                wrapped = await _wrap(self._wrapper, ref, location, ttl)
            except SecretMissing:
                # Destroyed or rewrapped since the query. If it is missing again at the same place, it is lost.
                if missing == (location.key_version, location.store_version):
                    _log_missing(ref, location)
                    raise NotReady([Blocker.CREDENTIAL_DELETED]) from None
                missing = location.key_version, location.store_version
                continue
            row = LeaseRow(
                id=new_id(),
                credential_id=credential_id,
                key_version=location.key_version,
                accessor=wrapped.accessor,
                created_at=created_at,
                created_by=caller.subject,
                expires_at=created_at + ttl,
            )
            if await self._record(caller, row):
                return _lease(row, wrapped, location.endpoint, self._vault_address)
            # Replaced, disabled or destroyed in the meantime: this token must not be unwrapped.
            await self._wrapper.revoke_wrapping(wrapped.accessor)
        raise ConcurrentChange

    async def revoke(self, organization_id: str, credential_id: UUID, key_version: int | None = None) -> None:
        """Revoke the tokens of a destroyed key that may still be unwrapped.

        Raises:
            SecretStoreUnavailable, DatabaseUnavailable
        """
        if self._wrapper is None:
            return
        async with self._units.reading(organization_id) as uow:
            accessors = await uow[LeaseRepository].unexpired_accessors(credential_id, key_version, now=now())
        # In batches, so that deleting a key with thousands of leases does not wait for one request after the other.
        for first in range(0, len(accessors), _REVOCATION_BATCH):
            batch = accessors[first : first + _REVOCATION_BATCH]
            await asyncio.gather(*(self._wrapper.revoke_wrapping(accessor) for accessor in batch))

    async def _find_active(self, organization_id: str) -> tuple[UUID, SecretLocation | None]:
        """Find the credential in use and its active version. None if that version is not the one found ready."""
        async with self._units.reading(organization_id) as uow:
            readiness = await uow[ReadinessRepository].readiness()
            if readiness.mode is UsageMode.MANAGED:
                raise ModeIsManaged
            if not readiness.is_ready or readiness.credential_id is None:
                raise NotReady(readiness.blockers)
            location = await uow[VersionRepository].find_active_location(readiness.credential_id)
        return readiness.credential_id, location if location is not None and location.was_valid else None

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


def _log_missing(ref: SecretRef, location: SecretLocation) -> None:
    log.error(
        "key_missing_in_store",
        organization_id=ref.organization_id,
        credential_id=str(ref.credential_id),
        key_version=location.key_version,
        store_version=location.store_version,
    )


async def _wrap(wrapper: Wrapper, ref: SecretRef, location: SecretLocation, ttl: timedelta) -> WrappedSecret:
    try:
        return await wrapper.wrap_for_lease(ref, location.store_version, int(ttl.total_seconds()))
    except SecretCorrupt:
        raise SecretStoreUnavailable from None


def _lease(row: LeaseRow, wrapped: WrappedSecret, endpoint: ProviderEndpoint, vault_address: str) -> Lease:
    return Lease(
        id=row.id,
        wrapping_token=wrapped.token,
        creation_path=wrapped.creation_path,
        expires_at=row.expires_at,
        vault_address=vault_address,
        credential_id=row.credential_id,
        key_version=row.key_version,
        endpoint=endpoint,
    )
