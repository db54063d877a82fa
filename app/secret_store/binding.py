"""Records which secret store holds a database's keys. Checked at every start and before every write.

Without this record the service would keep running after a lost keyset file, with a second instance
that has a separate data directory, or after a switch to another store, as if no key were missing.
"""

import hmac
from dataclasses import dataclass

import sqlalchemy as sa
from asyncpg import PostgresError
from sqlalchemy.dialects.postgresql import insert

from app.core.errors import DatabaseUnavailable, SecretStoreUnavailable
from app.database.cells.directory import HOME
from app.database.engine import Database
from app.database.sessions import Session
from app.database.statements import Query

VAULT = "vault"

metadata = sa.MetaData()

sealing_keyset = sa.Table(
    "sealing_keyset",
    metadata,
    sa.Column("singleton", sa.Boolean, primary_key=True),
    sa.Column("identity", sa.Text, nullable=False),
    # After a rotation, the only KEK that may encrypt: the older ones are about to be removed from the keyset.
    sa.Column("root_id", sa.Text),
    # The store that the keys are being moved to. While it is set, only the moving command may write.
    sa.Column("moving_to", sa.Text),
    sa.CheckConstraint("singleton", name="ck_sealing_keyset_singleton"),
)

# The record is in the first cell, for all of them.
_home = sealing_keyset.to_metadata(sa.MetaData(), schema=HOME)
_t = _home.c
_COLUMNS = (_t.identity, _t.root_id.label("kek_id"), _t.moving_to)
_BIND = Query(
    insert(_home)
    .values(singleton=sa.true(), identity=sa.bindparam("identity", type_=sa.Text))
    .on_conflict_do_nothing()
)
_READ = Query(sa.select(*_COLUMNS))
# An update of the row waits until every transaction that has read it with this lock has ended.
_READ_LOCKED = Query(sa.select(*_COLUMNS).with_for_update(read=True))
_SET_KEK = Query(sa.update(_home).values(root_id=sa.bindparam("kek_id", type_=sa.Text)))
_SET_MOVING = Query(sa.update(_home).values(moving_to=sa.bindparam("target", type_=sa.Text)))
_MOVE = Query(
    sa.update(_home).values(
        identity=sa.bindparam("target", type_=sa.Text), root_id=sa.null(), moving_to=sa.null()
    )
)


class StoreMismatch(Exception):
    """The database's keys are in another store. The message names the remedy."""

    def __init__(
        self,
        message: str = "This database's keys are encrypted with another keyset file, or stored in another secret store."
        " Restore that file or setting. All instances must use the same one.",
    ) -> None:
        super().__init__(message)


class StoreMoving(StoreMismatch):
    """The keys are being moved to another store."""

    def __init__(self) -> None:
        super().__init__(
            "This database's keys are being moved to Vault, and the move is not complete. Run `byok migrate-secrets` to"
            " complete it, or `byok migrate-secrets --cancel` to keep the embedded store. Then start again."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What the database records about its secret store."""

    identity: str
    kek_id: str | None
    moving_to: str | None

    @property
    def is_embedded_store_closed(self) -> bool:
        """Whether writes to the embedded store are refused, during a move to Vault or after it."""
        return self.moving_to is not None or self.identity == VAULT


class KeysetOutdated(StoreMismatch):
    """The keyset file is older than the last rotation."""

    def __init__(self) -> None:
        super().__init__(
            "The keyset file lacks the key-encryption key that this database's keys are encrypted with. Install the"
            " newest keyset file. If the database was restored from a backup, install the keyset file of that backup."
        )


async def bind_store(database: Database, identity: str) -> Binding:
    """Record this store as the database's store, unless one is recorded already.

    Args:
        database: the service's database.
        identity: names the store without revealing its keys.

    Raises:
        StoreMismatch: another store is recorded.
        StoreMoving: the keys are being moved to Vault.
        SecretStoreUnavailable: the database cannot be reached.
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
    """Return the record, or None before the first start."""
    row = await session.first(_READ)
    return None if row is None else Binding(**row)


async def lock_binding_shared(session: Session) -> Binding | None:
    """Return the record and lock it against changes until the session's transaction ends."""
    row = await session.first(_READ_LOCKED)
    return None if row is None else Binding(**row)


async def require_kek(session: Session, kek_id: str) -> None:
    """Allow only this KEK to encrypt, from the commit on. Waits for writes that are under way."""
    await session.execute(_SET_KEK, kek_id=kek_id)


async def begin_move(session: Session) -> None:
    """Refuse writes to the embedded store, from the commit on. Waits for writes that are under way."""
    await session.execute(_SET_MOVING, target=VAULT)


async def cancel_move(session: Session) -> None:
    """Allow writes to the embedded store again."""
    await session.execute(_SET_MOVING, target=None)


async def complete_move(session: Session) -> None:
    """Record Vault as the database's store, from the commit on."""
    await session.execute(_MOVE, target=VAULT)
