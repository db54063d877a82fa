"""Using a secret at the number that its row points to, which may move on between the two looks."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from app.repositories.versions import SealedVersion
from app.secret_store.base import SecretMissing

Result = TypeVar("Result")


async def use_where_it_lies(
    sealed: SealedVersion,
    use: Callable[[int], Awaitable[Result]],
    find_again: Callable[[], Awaitable[SealedVersion | None]],
) -> Result:
    """`use` at the store version, and once more where a rewrap has moved it meanwhile.

    Raises:
        SecretMissing: it is gone.
    """
    try:
        return await use(sealed.store_version)
    except SecretMissing:
        again = await find_again()
        if again is None or again.store_version == sealed.store_version:
            raise
    return await use(again.store_version)
