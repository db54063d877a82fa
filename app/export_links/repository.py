"""Links to exports, in SQL. Exact under concurrency: the deletion of its row decides which request opens a link."""

from collections.abc import Collection
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from app.auth.principal import Scope
from app.database.repository import Repository
from app.database.statements import Query
from app.export_links.records import Export
from app.export_links.tables import export_link as t

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_NOW = sa.bindparam("now", type_=t.c.expires_at.type)
_COUNT = Query(
    sa.select(sa.func.count().label("links")).where(
        t.c.organization_id == _ORGANIZATION, t.c.expires_at > _NOW
    )
)
# Serializes creations: two concurrent ones would both see room.
_LOCK_COUNT = Query(
    sa.select(
        sa.func.pg_advisory_xact_lock(
            sa.func.hashtext(sa.literal_column("'byok.export_links'")), sa.func.hashtext(_ORGANIZATION)
        )
    )
)
_INSERT = Query(
    sa.insert(t).values({column.name: sa.bindparam(column.name, type_=column.type) for column in t.columns})
)
_TAKE = Query(
    sa.delete(t)
    .where(
        t.c.organization_id == _ORGANIZATION,
        t.c.code_digest == sa.any_(sa.bindparam("digests", type_=ARRAY(sa.LargeBinary))),
        t.c.expires_at > _NOW,
    )
    .returning(t.c.code_digest, t.c.path, t.c.query, t.c.scope, t.c.subject)
)


class ExportLinkRepository(Repository):
    """The links of one organization."""

    async def lock_count(self) -> None:
        """Block other transactions that create links until this transaction ends."""
        await self._session.first(_LOCK_COUNT, organization_id=self._organization_id)

    async def count(self, *, now: datetime) -> int:
        """Count the links that may still be opened."""
        row = await self._session.one(_COUNT, organization_id=self._organization_id, now=now)
        return int(row["links"])

    async def insert(self, code_digest: bytes, export: Export, *, expires_at: datetime) -> None:
        await self._session.execute(
            _INSERT,
            organization_id=self._organization_id,
            code_digest=code_digest,
            path=export.path,
            query=export.query,
            scope=export.scope,
            subject=export.subject,
            expires_at=expires_at,
        )

    async def take(self, code_digests: Collection[bytes], *, now: datetime) -> dict[bytes, Export]:
        """Delete the links that exist and have not expired. Returns what each of them is for."""
        rows = await self._session.rows(
            _TAKE, organization_id=self._organization_id, digests=list(code_digests), now=now
        )
        return {
            row["code_digest"]: Export(
                path=row["path"], query=row["query"], scope=Scope(row["scope"]), subject=row["subject"]
            )
            for row in rows
        }
