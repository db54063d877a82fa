"""Unfinished rewraps, and their update of the credential's version or the endpoint."""

from uuid import UUID

import sqlalchemy as sa

from app.credentials.tables import credential_version as v
from app.database.repository import Repository
from app.database.statements import Query, Row
from app.secret_maintenance.inventory_repository import ENDPOINT_HAS_SECRET, STATES_WITH_SECRET
from app.secret_maintenance.records import Rewrap, RewrapState
from app.secret_maintenance.tables import secret_rewrap as t
from app.webhooks.tables import webhook_endpoint as e

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_COLUMNS = tuple(column.name for column in t.columns)
_OF_INTENT = (
    t.c.organization_id == _ORGANIZATION,
    t.c.intent_id == sa.bindparam("intent_id", type_=t.c.intent_id.type),
)
_OF_CREDENTIAL = (
    t.c.organization_id == _ORGANIZATION,
    t.c.credential_id == sa.bindparam("credential_id", type_=t.c.credential_id.type),
)
_INSERT = Query(sa.insert(t).values({name: sa.bindparam(name, type_=t.c[name].type) for name in _COLUMNS}))
_LOCK = Query(sa.select(t).where(*_OF_INTENT).with_for_update())
_FIND = Query(sa.select(t).where(*_OF_CREDENTIAL))
_MOVE = Query(
    sa.update(t)
    .where(*_OF_INTENT, t.c.state == sa.bindparam("expected", type_=sa.Text))
    .values(state=sa.bindparam("new_state", type_=sa.Text))
)
_DELETE = Query(sa.delete(t).where(*_OF_INTENT))
_SET_STORE_VERSION = Query(
    sa.update(v)
    .where(
        v.c.organization_id == _ORGANIZATION,
        v.c.credential_id == sa.bindparam("credential_id", type_=v.c.credential_id.type),
        v.c.key_version == sa.bindparam("key_version_", type_=sa.Integer),
        v.c.store_version == sa.bindparam("from_store_version", type_=sa.Integer),
        v.c.state.in_(STATES_WITH_SECRET),
    )
    .values(store_version=sa.bindparam("to_store_version", type_=sa.Integer))
)
_SET_ENDPOINT_STORE_VERSION = Query(
    sa.update(e)
    .where(
        e.c.organization_id == _ORGANIZATION,
        e.c.id == sa.bindparam("credential_id", type_=e.c.id.type),
        e.c.store_version == sa.bindparam("from_store_version", type_=sa.Integer),
        ENDPOINT_HAS_SECRET,
    )
    .values(store_version=sa.bindparam("to_store_version", type_=sa.Integer))
)


class RewrapRepository(Repository):
    """The rewraps of one organization. A credential or endpoint has at most one at a time."""

    async def insert(self, rewrap: Rewrap) -> None:
        await self._session.execute(
            _INSERT,
            organization_id=self._organization_id,
            intent_id=rewrap.intent_id,
            credential_id=rewrap.credential_id,
            key_version=rewrap.key_version,
            state=rewrap.state,
            from_store_version=rewrap.from_store_version,
            expected_store_version=rewrap.expected_store_version,
        )

    async def lock(self, intent_id: UUID) -> Rewrap | None:
        return _rewrap(
            await self._session.first(_LOCK, organization_id=self._organization_id, intent_id=intent_id)
        )

    async def find(self, credential_id: UUID) -> Rewrap | None:
        """The unfinished rewrap of a credential or endpoint, if any."""
        return _rewrap(
            await self._session.first(
                _FIND, organization_id=self._organization_id, credential_id=credential_id
            )
        )

    async def transition(self, intent_id: UUID, *, expected: RewrapState, to: RewrapState) -> bool:
        """Change the state. Returns False if another process changed it first."""
        moved = await self._session.execute(
            _MOVE,
            organization_id=self._organization_id,
            intent_id=intent_id,
            expected=expected,
            new_state=to,
        )
        return bool(moved)

    async def set_store_version(self, rewrap: Rewrap, store_version: int) -> bool:
        """Set the row's store version. Returns False if its secret was destroyed or its store version has changed."""
        updated = await self._session.execute(
            _SET_ENDPOINT_STORE_VERSION if rewrap.is_signing_secret else _SET_STORE_VERSION,
            organization_id=self._organization_id,
            credential_id=rewrap.credential_id,
            key_version_=rewrap.key_version,
            from_store_version=rewrap.from_store_version,
            to_store_version=store_version,
        )
        return bool(updated)

    async def delete(self, intent_id: UUID) -> None:
        await self._session.execute(_DELETE, organization_id=self._organization_id, intent_id=intent_id)


def _rewrap(row: Row | None) -> Rewrap | None:
    if row is None:
        return None
    return Rewrap(
        intent_id=row["intent_id"],
        credential_id=row["credential_id"],
        key_version=row["key_version"],
        state=RewrapState(row["state"]),
        from_store_version=row["from_store_version"],
        expected_store_version=row["expected_store_version"],
    )
