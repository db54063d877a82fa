"""Keeps keys out of the fields of a credential that are stored in clear text and shown to others."""

from uuid import UUID

from app.core.errors import InvalidInput
from app.core.keys.api_key import ApiKey
from app.core.keys.key_lookalike import looks_like_key, may_contain_part
from app.credentials.version_repository import SecretLocation, VersionRepository
from app.database.unit_of_work import UnitsOfWork
from app.secret_store.port import SecretCorrupt, SecretMissing, SecretRef, SecretStore
from app.secret_store.read_retry import read_with_retry


def reject_key_in(field: str, value: str | None, key: ApiKey | None = None) -> None:
    """Reject a field that contains what looks like a key, or `key` or 12 consecutive characters of it.

    Raises:
        InvalidInput
    """
    if value and (looks_like_key(value) or (key is not None and key.is_found_in(value))):
        raise InvalidInput.of(
            field,
            "looks_like_key",
            "Must not contain a key or a part of one. Send the key only in `api_key`.",
        )


class StoredKeyCheck:
    """Compares a text with the keys of a credential, which a request that changes only the label does not carry."""

    def __init__(self, units: UnitsOfWork, store: SecretStore) -> None:
        self._units = units
        self._store = store

    async def reject_key_in(
        self, field: str, value: str, *, organization_id: str, credential_id: UUID
    ) -> None:
        """Reject a field that contains 12 consecutive characters of a key that the store still holds.

        The store is asked only if the text has a word that is long enough for that. A key stays in memory only while
        it is compared.

        Raises:
            InvalidInput, SecretStoreUnavailable, DatabaseUnavailable
        """
        if not may_contain_part(value):
            return
        async with self._units.reading(organization_id) as uow:
            locations = await uow[VersionRepository].live_locations(credential_id)
        ref = SecretRef(organization_id=organization_id, credential_id=credential_id)
        for location in locations:
            reject_key_in(field, value, await self._read(ref, location))

    async def _read(self, ref: SecretRef, location: SecretLocation) -> ApiKey | None:
        async def reload() -> SecretLocation | None:
            async with self._units.reading(ref.organization_id) as uow:
                return await uow[VersionRepository].find_location(ref.credential_id, location.key_version)

        try:
            return await read_with_retry(location, lambda version: self._store.read(ref, version), reload)
        except (SecretMissing, SecretCorrupt):
            return None  # destroyed meanwhile, or lost
