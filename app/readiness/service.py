"""Use case: check readiness."""

import asyncio
from dataclasses import replace
from typing import Protocol

import structlog

from app.core.errors import SecretStoreUnavailable
from app.credentials.version_repository import SecretLocation, VersionRepository
from app.database.unit_of_work import UnitsOfWork
from app.readiness.readiness import Blocker, Readiness
from app.readiness.repository import ReadinessRepository
from app.secret_store.port import SecretRef
from app.usage_mode.modes import UsageMode

# A store that is slower than this does not delay the response.
_STORE_SECONDS = 1.0

log = structlog.get_logger("byok.readiness")


class StoredSecrets(Protocol):
    """A store outside the database, in which a key may be deleted without this service."""

    async def has(self, ref: SecretRef, store_version: int) -> bool:
        """Whether the store version has a secret. Raises SecretStoreUnavailable."""
        ...


class ReadinessService:
    """Checks whether provider-backed work of an organization may start.

    Args:
        units: the database.
        stored: asked whether the active key is still there, as a lease would find out. None: the keys are in the
            database, so that the database knows it.
    """

    def __init__(self, units: UnitsOfWork, stored: StoredSecrets | None = None) -> None:
        self._units = units
        self._stored = stored

    async def read(self, organization_id: str) -> Readiness:
        """The readiness right now. While the secret store does not respond, the database decides."""
        readiness, location = await self._from_database(organization_id)
        if self._stored is None or readiness.credential_id is None:
            return readiness
        missing: SecretLocation | None = None
        # A key that was rotated or rewrapped since the query is missing at its old place: look for its successor.
        while location is not None and location != missing and readiness.credential_id is not None:
            ref = SecretRef(organization_id=organization_id, credential_id=readiness.credential_id)
            try:
                async with asyncio.timeout(_STORE_SECONDS):
                    if await self._stored.has(ref, location.store_version):
                        return readiness
            except (SecretStoreUnavailable, TimeoutError):
                return readiness
            missing = location
            readiness, location = await self._from_database(organization_id)
        if missing is None or location is None:
            return readiness
        log.error(
            "key_missing_in_store",
            organization_id=organization_id,
            credential_id=str(readiness.credential_id),
            key_version=missing.key_version,
            store_version=missing.store_version,
        )
        return replace(readiness, blockers=(*readiness.blockers, Blocker.CREDENTIAL_DELETED))

    async def _from_database(self, organization_id: str) -> tuple[Readiness, SecretLocation | None]:
        """The readiness, and where the active key is stored if BYO work is ready to start with it."""
        async with self._units.reading(organization_id) as uow:
            readiness = await uow[ReadinessRepository].readiness()
            if (
                readiness.mode is UsageMode.MANAGED
                or not readiness.is_ready
                or readiness.credential_id is None
            ):
                return readiness, None
            return readiness, await uow[VersionRepository].find_active_location(readiness.credential_id)
