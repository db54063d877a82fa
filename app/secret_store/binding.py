"""Which secret store a database's keys lie in: noted once, checked at every start.

Otherwise a lost keyset file, a second instance with a data directory of its own, or a change from
one store to another would go on as if nothing were missing.
"""

import hmac

import sqlalchemy as sa
from asyncpg import PostgresError
from sqlalchemy.dialects.postgresql import insert

from app.core.database import Database, Statement
from app.domain.errors import DatabaseUnavailable, SecretStoreUnavailable

metadata = sa.MetaData()

sealing_keyset = sa.Table(
    "sealing_keyset",
    metadata,
    sa.Column("singleton", sa.Boolean, primary_key=True),
    sa.Column("identity", sa.Text, nullable=False),
    sa.CheckConstraint("singleton", name="ck_sealing_keyset_singleton"),
)

_BIND = Statement(
    insert(sealing_keyset)
    .values(singleton=sa.true(), identity=sa.bindparam("identity", type_=sa.Text))
    .on_conflict_do_nothing()
)
_BOUND_TO = Statement(sa.select(sealing_keyset.c.identity))


class StoreMismatch(Exception):
    """The database's keys lie in another store. Says how to mend it."""

    def __init__(self) -> None:
        super().__init__(
            "This database's keys are sealed with another keyset file, or lie in another secret store. "
            "Put that file or setting back; all instances share one."
        )


async def bind_store(database: Database, identity: str) -> None:
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
            bound = await session.first(_BOUND_TO)
            await session.commit()
    except (DatabaseUnavailable, PostgresError):
        raise SecretStoreUnavailable from None
    if bound is None or not hmac.compare_digest(bound["identity"], identity):
        raise StoreMismatch
