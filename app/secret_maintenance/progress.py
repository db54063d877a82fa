"""What the operator's commands share: the caller, progress lines, lists in all cells, and refusals with the remedy."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeAlias

from app.auth.principal import Caller
from app.core.organizations import OPERATOR_ORGANIZATION
from app.database.cells.directory import in_cell
from app.database.unit_of_work import UnitsOfWork
from app.secret_store.port import SecretRef

OPERATOR_ACTOR = "operator"
PAGE = 200
_ALL = (1 << 31) - 1

Progress: TypeAlias = Callable[[str], None]
ListPage: TypeAlias = Callable[[SecretRef | None, int], Awaitable[Sequence[SecretRef]]]


class OperationRefused(Exception):
    """The command cannot continue. The message names the remedy and may name credentials, never a key."""

    def __init__(self, message: str, *affected: str) -> None:
        super().__init__(f"{message}: {join_names(affected)}" if affected else message)


def operator_caller(organization_id: str = OPERATOR_ORGANIZATION) -> Caller:
    """The operator who runs the command, acting on that organization."""
    return Caller(subject=OPERATOR_ACTOR, organization_id=organization_id, request_id="")


async def iterate_pages(units: UnitsOfWork, list_page: ListPage) -> AsyncIterator[SecretRef]:
    """Yield every entry of a list in all cells, page by page. Entries added before the cursor are left for the next run."""
    for cell in await units.cells():
        after: SecretRef | None = None
        while page := await _page(cell, list_page, after, PAGE):
            for ref in page:
                yield ref
            after = page[-1]


async def count_entries(units: UnitsOfWork, list_page: ListPage, *, at_most: int = _ALL) -> int:
    """The number of entries of a list in all cells, of which `at_most` are counted in each cell."""
    return sum([len(await _page(cell, list_page, None, at_most)) for cell in await units.cells()])


async def _page(cell: str, list_page: ListPage, after: SecretRef | None, at_most: int) -> Sequence[SecretRef]:
    with in_cell(cell):
        return await list_page(after, at_most)


class ProgressCounter:
    """Reports progress after each `each` entries, and at the end."""

    def __init__(self, progress: Progress, label: str, total: int, *, each: int = 100) -> None:
        self._progress = progress
        self._label = label
        self._total = total
        self._each = each
        self._reported = -1
        self.done = 0

    def add(self) -> None:
        self.done += 1
        if self.done % self._each == 0:
            self.report()

    def report(self) -> None:
        if self._reported != self.done:
            self._reported = self.done
            self._progress(f"{self._label}: {self.done} of {max(self._total, self.done)}")


def join_names(names: Sequence[str], *, at_most: int = 10) -> str:
    """The first names, and the number of the others."""
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more
