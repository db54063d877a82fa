"""Reads the key of an admitted request. Nothing is cached: a destroyed key must not stay in memory."""

import asyncio
from contextlib import suppress

from app.core.errors import SecretStoreUnavailable
from app.core.keys.api_key import ApiKey
from app.observability.tracing import client_span
from app.relay.records import Destination
from app.secret_store.port import SecretCorrupt, SecretRef, SecretStore


class KeyReader:
    """Reads of one key version that are under way at the same time are shared. Each result is forgotten at once."""

    def __init__(self, store: SecretStore) -> None:
        self._store = store
        self._reads: dict[tuple[SecretRef, int], asyncio.Task[ApiKey]] = {}

    async def read(self, destination: Destination) -> ApiKey:
        """Decrypt the key of this version.

        Raises:
            SecretMissing: it was destroyed or moved since the request was admitted.
            SecretStoreUnavailable
        """
        ref = SecretRef(organization_id=destination.organization_id, credential_id=destination.credential_id)
        name = ref, destination.store_version
        reading = self._reads.get(name)
        if reading is None:
            reading = self._reads[name] = asyncio.create_task(self._read(*name))
            reading.add_done_callback(_retrieve_error)
        # A request that ends must not cancel the read that others wait for.
        return await asyncio.shield(reading)

    async def _read(self, ref: SecretRef, store_version: int) -> ApiKey:
        try:
            with client_span("relay.secret_read"):
                return await self._store.read(ref, store_version)
        except SecretCorrupt:
            raise SecretStoreUnavailable from None
        finally:
            del self._reads[ref, store_version]


def _retrieve_error(reading: "asyncio.Task[ApiKey]") -> None:
    """Mark the error as seen. Otherwise asyncio would log it if all requests that wait for it have ended."""
    with suppress(asyncio.CancelledError):
        reading.exception()
