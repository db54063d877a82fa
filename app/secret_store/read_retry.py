"""Using a secret at the number that its row points to, which may move on between the two looks."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from app.secret_store.port import SecretMissing

Result = TypeVar("Result")


class Row(Protocol):
    """A version of a credential, or a delivery to an endpoint."""

    @property
    def store_version(self) -> int: ...


async def read_with_retry(
    row: Row,
    use: Callable[[int], Awaitable[Result]],
    find_again: Callable[[], Awaitable[Row | None]],
) -> Result:
    """`use` at the store version, and once more where a rewrap has moved it meanwhile.

    Raises:
        SecretMissing: it is gone.
    """
    try:
        return await use(row.store_version)
    except SecretMissing:
        again = await find_again()
        if again is None or again.store_version == row.store_version:
            raise
    return await use(again.store_version)
