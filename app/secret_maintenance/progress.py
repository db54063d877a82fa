"""What the commands of an operator share: who acts, progress in words, and a refusal that says how to mend it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeAlias

from app.auth.principal import Caller
from app.core.organizations import OPERATOR_ORGANIZATION
from app.secret_store.port import SecretRef

OPERATOR_ACTOR = "operator"
PAGE = 200

Progress: TypeAlias = Callable[[str], None]
ListPage: TypeAlias = Callable[[SecretRef | None, int], Awaitable[Sequence[SecretRef]]]


class OperationRefused(Exception):
    """The command cannot go on. Says how to mend it; may name credentials, never a key."""

    def __init__(self, mend: str, *places: str) -> None:
        super().__init__(f"{mend}: {names(places)}" if places else mend)


def operator(organization_id: str = OPERATOR_ORGANIZATION) -> Caller:
    """Whoever runs the command, acting on that organization."""
    return Caller(subject=OPERATOR_ACTOR, organization_id=organization_id, request_id="")


async def every(list_page: ListPage) -> AsyncIterator[SecretRef]:
    """All that the list has, page by page; what comes in behind the cursor is left for the next time."""
    after: SecretRef | None = None
    while page := await list_page(after, PAGE):
        for ref in page:
            yield ref
        after = page[-1]


class Count:
    """Tells progress at every so many, and at the end."""

    def __init__(self, progress: Progress, what: str, total: int, *, each: int = 100) -> None:
        self._progress = progress
        self._what = what
        self._total = total
        self._each = each
        self._told = -1
        self.done = 0

    def add(self) -> None:
        self.done += 1
        if self.done % self._each == 0:
            self.tell()

    def tell(self) -> None:
        if self._told != self.done:
            self._told = self.done
            self._progress(f"{self._what}: {self.done} of {max(self._total, self.done)}")


def names(places: Sequence[str], *, at_most: int = 10) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(places) - at_most} more" if len(places) > at_most else ""
    return ", ".join(places[:at_most]) + more
