"""Leases: an internal service fetches the key in force straight from Vault; it never passes through us."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from app.domain.audit import AuditAction
from app.domain.auth import Caller
from app.domain.billing import UsageMode
from app.domain.clock import new_id, now
from app.domain.credentials import AuthStyle, Destination
from app.domain.errors import LeaseRequiresVault, ModeIsManaged, NotReady, SecretStoreUnavailable
from app.repositories.leases import LeaseRow
from app.repositories.unit_of_work import UnitsOfWork
from app.repositories.versions import SealedVersion
from app.secret_store.base import SecretCorrupt, SecretMissing, SecretRef, WrappedSecret
from app.services import audit
from app.services.secret_reads import use_where_it_lies

LONGEST_TTL = timedelta(seconds=300)


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
    destination: Destination

    def __repr__(self) -> str:
        return f"Lease(id={self.id!r})"

    @property
    def auth_style(self) -> AuthStyle:
        return self.destination.auth_style


class Leases:
    """One use case. Without a wrapper (embedded store) there are none."""

    def __init__(self, units: UnitsOfWork, wrapper: Wrapper | None, *, vault_address: str | None) -> None:
        self._units = units
        self._wrapper = wrapper
        self._vault_address = vault_address

    async def create(self, caller: Caller, *, ttl: timedelta) -> Lease:
        """Wrap the key in force. Counts as a use, and is on record before it is handed out.

        Raises:
            LeaseRequiresVault, ModeIsManaged, NotReady, SecretStoreUnavailable, DatabaseUnavailable
        """
        if self._wrapper is None or self._vault_address is None:
            raise LeaseRequiresVault
        organization_id = caller.organization_id
        async with self._units.reading(organization_id) as uow:
            readiness = await uow.billing.readiness()
            if readiness.mode is UsageMode.MANAGED:
                raise ModeIsManaged
            if not readiness.is_ready or readiness.credential_id is None:
                raise NotReady(readiness.blockers)
            credential_id = readiness.credential_id
            credential = await uow.credentials.find(credential_id)
            assert credential is not None
            sealed = await uow.versions.find_sealed(credential_id, credential.current.key_version)
            assert sealed is not None
        ref = SecretRef(organization_id=organization_id, credential_id=credential_id)
        instant = now()
        wrapper, seconds, key_version = self._wrapper, int(ttl.total_seconds()), sealed.key_version

        async def find_again() -> SealedVersion | None:
            async with self._units.reading(organization_id) as uow:
                return await uow.versions.find_sealed(credential_id, key_version)

        try:
            wrapped = await use_where_it_lies(
                sealed, lambda number: wrapper.wrap_for_lease(ref, number, seconds), find_again
            )
        except SecretMissing:
            raise NotReady(["credential_deleted"]) from None  # destroyed between the two looks
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
        if not await self._record(caller, row):
            # Switched or destroyed meanwhile: what we hold must not be opened.
            await self._wrapper.revoke_wrapping(wrapped.accessor)
            raise NotReady(["credential_not_valid"])
        return Lease(
            id=row.id,
            wrapping_token=wrapped.token,
            creation_path=wrapped.creation_path,
            expires_at=row.expires_at,
            vault_address=self._vault_address,
            credential_id=credential_id,
            key_version=sealed.key_version,
            destination=sealed.destination,
        )

    async def revoke(self, organization_id: str, credential_id: UUID, key_version: int | None = None) -> None:
        """Tokens not yet opened go with the key.

        Raises:
            SecretStoreUnavailable, DatabaseUnavailable
        """
        if self._wrapper is None:
            return
        async with self._units.reading(organization_id) as uow:
            accessors = await uow.leases.unexpired(credential_id, key_version, now=now())
        for accessor in accessors:
            await self._wrapper.revoke_wrapping(accessor)

    async def _record(self, caller: Caller, row: LeaseRow) -> bool:
        async with self._units.writing(caller.organization_id) as uow:
            if not await uow.versions.note_use(row.credential_id, row.key_version, now=row.created_at):
                return False
            await uow.credentials.note_use(row.credential_id, now=row.created_at)
            await uow.leases.insert(row)
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
