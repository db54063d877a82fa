"""Units of work: one transaction for one organization, with the repositories that run in it.

Leaving a writing unit of work without `commit` rolls it back. Make no network call inside one: read, close,
call out, open, write.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, TypeVar, cast

import sqlalchemy as sa

from app.database.engine import Database
from app.database.ledger_lock import BEGIN_WITH_SHARED_LOCK
from app.database.repository import Repository
from app.database.sessions import Session
from app.database.statements import FixedStatement, Query

# Lets an unscoped transaction continue in another cell.
USE_CELL = Query(sa.text("SELECT set_config('search_path', CAST(:cell AS text), true)"))

Joined = TypeVar("Joined")
Kind = TypeVar("Kind", bound=Repository)


class UnitOfWork:
    """One transaction and its repositories: `uow[CredentialRepository]` creates one on first use.

    On a replica, all that was committed before `complete_until` is visible. None: this is the primary.
    """

    def __init__(
        self, session: Session, organization_id: str, *, complete_until: datetime | None = None
    ) -> None:
        self.complete_until = complete_until
        self._session = session
        self._organization_id = organization_id
        self._repositories: dict[type[Any], Repository] = {}

    @property
    def organization_id(self) -> str:
        return self._organization_id

    def __getitem__(self, kind: type[Kind]) -> Kind:
        found = self._repositories.get(kind)
        if found is None:
            found = self._repositories[kind] = kind(self._session, self._organization_id)
        return cast("Kind", found)

    def join(self, open_store: Callable[[Session, str], Joined]) -> Joined:
        """Let a store in the same database take part in this transaction."""
        return open_store(self._session, self._organization_id)

    async def commit(self, *, last_statement: FixedStatement | None = None) -> None:
        """Commit, and run a last statement before that in the same round trip."""
        await self._session.commit(last_statement=last_statement)


class UnitsOfWork:
    """Opens units of work on a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def writing(self, organization_id: str) -> AsyncIterator[UnitOfWork]:
        """Open a writing unit of work.

        Raises:
            DatabaseUnavailable
        """
        async with self._database.session(organization_id) as session:
            yield UnitOfWork(session, organization_id)

    @asynccontextmanager
    async def writing_with_shared_lock(
        self, organization_id: str, *, has_few_rows: bool | None = None
    ) -> AsyncIterator[UnitOfWork]:
        """Open a writing unit of work that holds the ledger lock shared.

        It begins after running changes of limits and of the usage mode have ended, and delays new ones until it ends.

        Args:
            organization_id: whose rows.
            has_few_rows: True if its statements write at most about a hundred rows: PostgreSQL keeps their plans. False if they
                may write more: it plans them each time. None leaves that to PostgreSQL.
        """
        async with self._database.session(
            organization_id, first_statement=BEGIN_WITH_SHARED_LOCK, keeps_plans=has_few_rows
        ) as session:
            yield UnitOfWork(session, organization_id)

    @asynccontextmanager
    async def reading(self, organization_id: str) -> AsyncIterator[UnitOfWork]:
        """Open a read-only unit of work. PostgreSQL rejects writes in it."""
        async with self._database.session(organization_id, read_only=True) as session:
            yield UnitOfWork(session, organization_id)

    @asynccontextmanager
    async def reading_snapshot(self, organization_id: str) -> AsyncIterator[UnitOfWork]:
        """Open a read-only unit of work whose reads all see one snapshot. It never uses a reserved connection."""
        async with self._database.session(
            organization_id, read_only=True, is_bulk=True, is_snapshot=True
        ) as session:
            yield UnitOfWork(session, organization_id)

    def autocommit_read(self, organization_id: str, *, is_bulk: bool = False) -> UnitOfWork:
        """A read-only unit of work whose statements are transactions of their own, one round trip each.

        For reads that usually run one statement. It needs no closing.

        Args:
            organization_id: whose rows.
            is_bulk: a list, which never uses a reserved connection.
        """
        return UnitOfWork(self._database.autocommit_read(organization_id, is_bulk=is_bulk), organization_id)

    def autocommit_call(self, organization_id: str) -> UnitOfWork:
        """A unit of work for one call of a database function, which is committed with its round trip.

        The call may be repeated if the connection breaks, or if the failure of another organization's call undoes the
        transaction that they share. So the function must allow that. It needs no closing.
        """
        return UnitOfWork(self._database.autocommit_call(organization_id), organization_id)

    @asynccontextmanager
    async def reading_in_bulk(self, organization_id: str) -> AsyncIterator[UnitOfWork]:
        """Open a read-only unit of work for a list, a report or an export. It never uses a reserved connection."""
        async with self._database.session(organization_id, read_only=True, is_bulk=True) as session:
            yield UnitOfWork(session, organization_id)

    async def cells(self) -> Sequence[str]:
        """The names of all cells, the first one first.

        Raises:
            DatabaseUnavailable
        """
        return await self._database.cells()

    @asynccontextmanager
    async def unscoped(self, kind: type[Kind]) -> AsyncIterator[tuple[Kind, Session]]:
        """Open a writing transaction without an organization, for the job queue and the ledger's partitions.

        It uses the tables of one cell: the first one, or the one of `app.database.cells.directory.in_cell`.
        """
        async with self._database.session(None) as session:
            yield kind(session, ""), session
