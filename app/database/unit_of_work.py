"""One transaction of one organization, with the repositories that work in it.

`writing` keeps nothing unless `commit` is called; leaving without it rolls back. No network call
belongs inside: read, close, call out, open, write.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar, cast

from app.database.engine import Database, Session
from app.database.ledger_lock import STAND_STILL

Joined = TypeVar("Joined")


class Repository(Protocol):
    """What works within a unit of work. `organization_id` is empty outside any organization."""

    def __init__(self, session: Session, organization_id: str) -> None: ...


Kind = TypeVar("Kind", bound=Repository)


class UnitOfWork:
    """One transaction, and the repositories that work in it: `uow[CredentialRepository]`."""

    def __init__(self, session: Session, organization_id: str) -> None:
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

    def join(self, work_on: Callable[[Session, str], Joined]) -> Joined:
        """Let a store that rests in the same database take part in this transaction."""
        return work_on(self._session, self._organization_id)

    async def commit(self) -> None:
        await self._session.commit()


class UnitsOfWork:
    """Opens units of work on a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def writing(self, organization_id: str) -> AsyncIterator[UnitOfWork]:
        """Raises DatabaseUnavailable, besides what the repositories raise."""
        async with self._database.session(organization_id) as session:
            yield UnitOfWork(session, organization_id)

    @asynccontextmanager
    async def counting(self, organization_id: str) -> AsyncIterator[UnitOfWork]:
        """A writing one in which limits and the usage mode stand still: it begins once no change of them is under way."""
        async with self._database.session(organization_id, opening=STAND_STILL) as session:
            yield UnitOfWork(session, organization_id)

    @asynccontextmanager
    async def reading(self, organization_id: str) -> AsyncIterator[UnitOfWork]:
        """A read-only one; PostgreSQL refuses writes in it."""
        async with self._database.session(organization_id, read_only=True) as session:
            yield UnitOfWork(session, organization_id)

    @asynccontextmanager
    async def across(self, kind: type[Kind]) -> AsyncIterator[tuple[Kind, Session]]:
        """A repository of rows that belong to no organization: the job queue, the ledger's partitions."""
        async with self._database.session(None) as session:
            yield kind(session, ""), session
