"""Which secret store a database's keys lie in: noted once, checked at every start and at every write.

Otherwise a lost keyset file, a second instance with a data directory of its own, or a change from
one store to another would go on as if nothing were missing.
"""

import hmac
from dataclasses import dataclass

import sqlalchemy as sa
from asyncpg import PostgresError
from sqlalchemy.dialects.postgresql import insert

from app.core.errors import DatabaseUnavailable, SecretStoreUnavailable
from app.database.engine import Database, Query, Session

VAULT = "vault"

metadata = sa.MetaData()

sealing_keyset = sa.Table(
    "sealing_keyset",
    metadata,
    sa.Column("singleton", sa.Boolean, primary_key=True),
    sa.Column("identity", sa.Text, nullable=False),
    # The root key that may seal, once it was rotated: nobody seals with one that is about to be dropped.
    sa.Column("root_id", sa.Text),
    # Where the keys are being moved: until they are there, nobody but the command that moves them works.
    sa.Column("moving_to", sa.Text),
    sa.CheckConstraint("singleton", name="ck_sealing_keyset_singleton"),
)

_t = sealing_keyset.c
_BIND = Query(
    insert(sealing_keyset)
    .values(singleton=sa.true(), identity=sa.bindparam("identity", type_=sa.Text))
    .on_conflict_do_nothing()
)
_READ = Query(sa.select(_t.identity, _t.root_id, _t.moving_to))
# Whoever changes the row waits for those who have read it like this to end their transaction.
_HOLD = Query(sa.select(_t.identity, _t.root_id, _t.moving_to).with_for_update(read=True))
_SET_ROOT = Query(sa.update(sealing_keyset).values(root_id=sa.bindparam("root", type_=sa.Text)))
_SET_MOVING = Query(sa.update(sealing_keyset).values(moving_to=sa.bindparam("target", type_=sa.Text)))
_MOVE = Query(
    sa.update(sealing_keyset).values(
        identity=sa.bindparam("target", type_=sa.Text), root_id=sa.null(), moving_to=sa.null()
    )
)


class StoreMismatch(Exception):
    """The database's keys lie in another store. Says how to mend it."""

    def __init__(
        self,
        message: str = "This database's keys are sealed with another keyset file, or lie in another secret store. "
        "Put that file or setting back; all instances share one.",
    ) -> None:
        super().__init__(message)


class StoreMoving(StoreMismatch):
    """The keys are on their way to another store."""

    def __init__(self) -> None:
        super().__init__(
            "This database's keys are being moved to Vault, and are not all there. Run `byok migrate-secrets` to its"
            " end, or `byok migrate-secrets --cancel` to stay with the embedded store; then start again."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What the database notes of its store."""

    identity: str
    root_id: str | None
    moving_to: str | None

    @property
    def is_left(self) -> bool:
        """Whether the embedded store may not be written to any more, or not for now."""
        return self.moving_to is not None or self.identity == VAULT


class RootOutdated(StoreMismatch):
    """The keyset file is older than the last rotation."""

    def __init__(self) -> None:
        super().__init__(
            "The keyset file does not hold the root key that this database's keys are sealed with. Put the newest keyset"
            " file in its place; with a database from a backup, the one that belongs to it."
        )


async def bind_store(database: Database, identity: str) -> Binding:
    """Make this store the database's, if it has none yet.

    Args:
        database: the service's.
        identity: names the store, and tells nothing of its keys.

    Raises:
        StoreMismatch, SecretStoreUnavailable
    """
    try:
        async with database.session(None) as session:
            await session.execute(_BIND, identity=identity)
            bound = await read_binding(session)
            await session.commit()
    except (DatabaseUnavailable, PostgresError):
        raise SecretStoreUnavailable from None
    if bound is not None and bound.moving_to is not None:
        raise StoreMoving
    if bound is None or not hmac.compare_digest(bound.identity, identity):
        raise StoreMismatch
    return bound


async def read_binding(session: Session) -> Binding | None:
    """What is noted; None before the first start."""
    row = await session.first(_READ)
    return None if row is None else Binding(**row)


async def hold_binding(session: Session) -> Binding | None:
    """What is noted, and stays so until the session's transaction ends."""
    row = await session.first(_HOLD)
    return None if row is None else Binding(**row)


async def allow_root(session: Session, root_id: str) -> None:
    """From the commit on, only this root key seals. Waits for those who are sealing."""
    await session.execute(_SET_ROOT, root=root_id)


async def begin_move(session: Session) -> None:
    """From the commit on, nobody writes to the embedded store. Waits for those who do."""
    await session.execute(_SET_MOVING, target=VAULT)


async def cancel_move(session: Session) -> None:
    await session.execute(_SET_MOVING, target=None)


async def complete_move(session: Session) -> None:
    """From the commit on, the keys lie in Vault."""
    await session.execute(_MOVE, target=VAULT)
