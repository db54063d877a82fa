"""Reads a secret whose store version may change between reading the row and reading the store."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from app.secret_store.port import SecretMissing

Result = TypeVar("Result")


class HasStoreVersion(Protocol):
    """A version of a credential, or a delivery to an endpoint."""

    @property
    def store_version(self) -> int: ...


async def read_with_retry(
    row: HasStoreVersion,
    read: Callable[[int], Awaitable[Result]],
    reload: Callable[[], Awaitable[HasStoreVersion | None]],
) -> Result:
    """Read at the row's store version. If a rewrap has moved the secret, reload the row and read once more.

    Raises:
        SecretMissing: the secret is gone.
    """
    try:
        return await read(row.store_version)
    except SecretMissing:
        reloaded = await reload()
        if reloaded is None or reloaded.store_version == row.store_version:
            raise
    return await read(reloaded.store_version)
