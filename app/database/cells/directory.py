"""Cells: schemas that have all tables of their organizations. A directory says in which cell an organization lives.

Without cells, all organizations live in the schema `public`, and transactions are as if cells did not exist. With cells,
the round trip that begins a transaction also calls `cells.enter`. That function sets the organization and the search
path, locks the organization's place in the directory until the transaction ends, and refuses a cell that it has left. So
no statement runs in the wrong cell, however old this cache is. See docs/explanation/adr/0040-cells.md.
"""

import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import asyncpg

# The first cell, and the home of what belongs to no organization.
HOME = "public"
# No character of a name needs quoting.
CELL_PATTERN = r"[a-z][a-z0-9_]{0,30}"
NAMES = "SELECT name FROM cells.cell ORDER BY name <> 'public', name"
# Before the migration that adds the directory, there are no cells.
HAVE_BEEN_ADDED = "SELECT to_regclass('cells.cell') IS NOT NULL"
ARE_ON_CITUS = "SELECT to_regclass('pg_catalog.pg_dist_transaction') IS NOT NULL"

_CELL = re.compile(CELL_PATTERN)
# The SQLSTATE with which `cells.enter` refuses. The detail of the error names the organization's cell.
_LIVES_ELSEWHERE = "BY001"
# The cell that was chosen for a new organization has just been deleted.
_IS_DELETED = "23503"
_MAX_KNOWN = 100_000
_current: ContextVar[str] = ContextVar("cell", default=HOME)


@contextmanager
def in_cell(name: str) -> Iterator[None]:
    """Let transactions without an organization use the tables of this cell: those of background jobs."""
    token = _current.set(name)
    try:
        yield
    finally:
        _current.reset(token)


class CellDirectory:
    """Where organizations live, as far as this process knows. `cells.enter` corrects what is out of date."""

    def __init__(self, *, is_on_citus: bool = False) -> None:
        self.is_on_citus = is_on_citus  # so that cells may be on workers
        self._known: OrderedDict[str, str] = OrderedDict()
        self._listed: set[str] = set()  # of those

    def entry(self, organization_id: str | None) -> str:
        """The SQL that sets a valid organization and enters its cell. It follows BEGIN."""
        if organization_id is None:
            # Not SET LOCAL: for each of those, Citus runs the whole text of the round trip once more on the worker.
            return f"; SELECT set_config('search_path', '{_valid(_current.get())}', true)"
        cell = _valid(self._known.get(organization_id, HOME))
        return f"; SELECT cells.enter('{organization_id}', '{cell}')"

    def is_to_list(self, organization_id: str | None) -> bool:
        """Whether a separate transaction has to list the organization before one that writes rows.

        On Citus, a worker commits before the coordinator does. If the coordinator is lost in between, the rows are there and
        an entry of the same transaction is not. So an organization without an entry could get another cell.
        """
        return self.is_on_citus and organization_id in self._known and organization_id not in self._listed

    def note_listed(self, organization_id: str) -> None:
        """A transaction that entered the organization's cell and might write has been committed."""
        self._listed.add(organization_id)

    def is_home(self, organization_id: str | None) -> bool:
        """Whether the transaction that has entered with `entry` is in the first cell."""
        cell = _current.get() if organization_id is None else self._known.get(organization_id, HOME)
        return cell == HOME

    def learn(self, organization_id: str, error: asyncpg.PostgresError) -> bool:
        """Note the cell that the error names. Returns False if another attempt has no other cell to try."""
        if error.sqlstate == _IS_DELETED:
            self._forget(organization_id)
            return True
        if error.sqlstate != _LIVES_ELSEWHERE:
            return False
        self._known[organization_id] = _valid(str(error.detail))
        self._known.move_to_end(organization_id)
        if len(self._known) > _MAX_KNOWN:
            self._forget(next(iter(self._known)))
        return True

    def _forget(self, organization_id: str) -> None:
        self._known.pop(organization_id, None)
        self._listed.discard(organization_id)


def _valid(cell: str) -> str:
    if not _CELL.fullmatch(cell):
        raise ValueError("not the name of a cell")
    return cell
