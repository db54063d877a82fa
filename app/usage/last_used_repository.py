"""When each key version was active, and when it was last used."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from app.credentials.tables import credential_rotation as r
from app.credentials.tables import credential_version as v
from app.credentials.tables import provider_credential as c
from app.database.bulk import bulk_params, unnest
from app.database.repository import Repository
from app.database.statements import Query
from app.usage_mode.history import KeyVersionActivation, KeyVersionHistory

# The last use of a key is recorded at most this often, so that its row does not become a hot spot.
USE_RECORDING_INTERVAL = timedelta(minutes=1)

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)

_VERSIONS = Query(
    sa.select(v.c.credential_id, v.c.key_version, v.c.activated_at, v.c.base_url, r.c.decided_at)
    .select_from(
        v.outerjoin(
            r,
            sa.and_(
                r.c.organization_id == v.c.organization_id,
                r.c.credential_id == v.c.credential_id,
                r.c.key_version == v.c.key_version,
                r.c.state == sa.literal_column("'activated'"),
            ),
        )
    )
    .where(
        v.c.organization_id == _ORGANIZATION,
        v.c.credential_id == sa.any_(sa.bindparam("credential_ids", type_=ARRAY(v.c.credential_id.type))),
        v.c.state.not_in(sa.literal_column(word) for word in ("'intent'", "'abandoned'")),
    )
)

_USE_COLUMNS = {"credential_id": v.c.credential_id.type, "used_at": v.c.last_used_at.type}
_used = unnest(key_version=sa.Integer, **_USE_COLUMNS)
# Until then, leases issued earlier explain uses of a replaced key. The first later use is recorded even within the
# interval: it shows that the key is still in use.
_accounted_until = sa.func.greatest(v.c.replaced_at, v.c.leased_until)
_STALE_VERSIONS = (
    sa.select(v.c.credential_id, v.c.key_version, _used.c.used_at)
    .where(
        v.c.organization_id == _ORGANIZATION,
        v.c.credential_id == _used.c.credential_id,
        v.c.key_version == _used.c.key_version,
        sa.or_(
            v.c.last_used_at.is_(None),
            v.c.last_used_at < _used.c.used_at - sa.bindparam("min_interval", type_=sa.Interval),
            sa.and_(v.c.last_used_at <= _accounted_until, _used.c.used_at > _accounted_until),
        ),
    )
    .order_by(v.c.credential_id, v.c.key_version)
    .with_for_update(key_share=True, of=v)
    .cte("stale")
)
_RECORD_VERSION_USES = Query(
    sa.update(v)
    .where(
        v.c.organization_id == _ORGANIZATION,
        v.c.credential_id == _STALE_VERSIONS.c.credential_id,
        v.c.key_version == _STALE_VERSIONS.c.key_version,
    )
    .values(last_used_at=sa.func.greatest(v.c.last_used_at, _STALE_VERSIONS.c.used_at))
)
_used_credentials = unnest(**_USE_COLUMNS)
_STALE_CREDENTIALS = (
    sa.select(c.c.id, _used_credentials.c.used_at)
    .where(
        c.c.organization_id == _ORGANIZATION,
        c.c.id == _used_credentials.c.credential_id,
        sa.or_(
            c.c.last_used_at.is_(None),
            c.c.last_used_at < _used_credentials.c.used_at - sa.bindparam("min_interval", type_=sa.Interval),
        ),
    )
    # Skip locked rows: a transaction that changes the credential may hold its row and wait for a version row that
    # this one has locked. A later event records the use.
    .with_for_update(key_share=True, skip_locked=True, of=c)
    .cte("stale")
)
_RECORD_CREDENTIAL_USES = Query(
    sa.update(c)
    .where(c.c.organization_id == _ORGANIZATION, c.c.id == _STALE_CREDENTIALS.c.id)
    .values(last_used_at=sa.func.greatest(c.c.last_used_at, _STALE_CREDENTIALS.c.used_at))
)


class KeyLastUsedRepository(Repository):
    """Reads and updates the key versions of one organization."""

    async def key_histories(self, credential_ids: Iterable[UUID]) -> dict[UUID, KeyVersionHistory]:
        """Return the history of each credential that exists, including deleted ones."""
        found = await self._session.rows(
            _VERSIONS, organization_id=self._organization_id, credential_ids=list(credential_ids)
        )
        versions: dict[UUID, list[KeyVersionActivation]] = {}
        for row in found:
            versions.setdefault(row["credential_id"], []).append(
                KeyVersionActivation(
                    key_version=row["key_version"],
                    activated_at=row["activated_at"],
                    rotated_at=row["decided_at"],
                    base_url=row["base_url"],
                )
            )
        return {credential_id: KeyVersionHistory(its) for credential_id, its in versions.items()}

    async def record_uses(self, uses: Mapping[tuple[UUID, int | None], datetime]) -> None:
        """Record when keys were last used.

        The time never moves back. A use less than a minute after the recorded one is skipped, unless it is the first
        one that earlier leases do not explain.
        """
        versions = [(key[0], key[1], at) for key, at in uses.items() if key[1] is not None]
        if versions:
            await self._session.execute(
                _RECORD_VERSION_USES,
                organization_id=self._organization_id,
                min_interval=USE_RECORDING_INTERVAL,
                **bulk_params(
                    credential_id=[it[0] for it in versions],
                    key_version=[it[1] for it in versions],
                    used_at=[it[2] for it in versions],
                ),
            )
        latest: dict[UUID, datetime] = {}
        for (credential_id, _), at in uses.items():
            latest[credential_id] = max(at, latest.get(credential_id, at))
        await self._session.execute(
            _RECORD_CREDENTIAL_USES,
            organization_id=self._organization_id,
            min_interval=USE_RECORDING_INTERVAL,
            **bulk_params(credential_id=list(latest), used_at=list(latest.values())),
        )
