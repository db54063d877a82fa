"""When each key version was active, and when it was last used."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.core.event_loop import list_in_slices
from app.credentials.tables import credential_version as v
from app.credentials.tables import provider_credential as c
from app.database.bulk import bulk_params, found_for_each, unnest
from app.database.repository import Repository
from app.database.statements import Query, Row
from app.usage_mode.history import KeyVersionActivation, KeyVersionHistory

# The last use of a key is recorded at most this often, so that its row does not become a hot spot.
USE_RECORDING_INTERVAL = timedelta(minutes=1)

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)

# Of each credential that exists: the version that was active at `since`, all that were activated later, those that events name,
# and whether any key is sent to another endpoint than Anthropic's. There may be thousands of earlier versions. Each
# ORDER BY is for the index, as in `app.database.bulk.found_for_each`; the subquery of the versions that events name is hashed.
_VERSIONS = Query(
    sa.text("""
    WITH wanted AS (
        SELECT w.credential_id, s.active_since, s.is_any_compatible
        FROM unnest(CAST(:credential_ids AS uuid[])) AS w (credential_id)
        CROSS JOIN LATERAL (
            SELECT max(v.activated_at) FILTER (WHERE v.activated_at < CAST(:since AS timestamptz)) AS active_since,
                bool_or(v.base_url IS NOT NULL) AS is_any_compatible
            FROM (
                SELECT * FROM credential_version v
                WHERE v.organization_id = CAST(:organization_id AS text) AND v.credential_id = w.credential_id
                    AND v.state NOT IN ('intent', 'abandoned') ORDER BY v.key_version) v) s
        WHERE s.is_any_compatible IS NOT NULL
    )
    SELECT w.credential_id, w.is_any_compatible, v.key_version, v.activated_at, v.base_url, r.decided_at
    FROM wanted w
    LEFT JOIN LATERAL (
        SELECT * FROM credential_version v
        WHERE v.organization_id = CAST(:organization_id AS text) AND v.credential_id = w.credential_id
            AND v.state NOT IN ('intent', 'abandoned')
            AND (v.activated_at >= coalesce(w.active_since, CAST(:since AS timestamptz))
                OR v.key_version IN (SELECT unnest(CAST(:key_versions AS integer[]))))
        ORDER BY v.key_version) v ON true
    LEFT JOIN LATERAL (
        SELECT r.decided_at FROM credential_rotation r
        WHERE r.organization_id = CAST(:organization_id AS text) AND r.credential_id = v.credential_id
            AND r.key_version BETWEEN v.key_version AND v.key_version AND r.state = 'activated'
        ORDER BY r.key_version LIMIT 1) r ON true
""")
)
# Each takes up to 5 microseconds.
_ROWS_AT_ONCE = 50

_USE_COLUMNS = {"credential_id": v.c.credential_id.type, "used_at": v.c.last_used_at.type}
_used = unnest(key_version=sa.Integer, **_USE_COLUMNS)
# Until then, leases issued earlier explain uses of a replaced key. The first later use is recorded even within the
# interval: it shows that the key is still in use.
_accounted_until = sa.func.greatest(v.c.replaced_at, v.c.leased_until)
_stale_version = found_for_each(
    sa.select(v.c.credential_id, v.c.key_version)
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
    .with_for_update(key_share=True, of=v),
    "stale_version",
)
# It locks the rows in the order of the batch.
_STALE_VERSIONS = sa.select(*_stale_version.c).select_from(_used.join(_stale_version, sa.true())).cte("stale")


def _in_stale(stale: sa.CTE, *key: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """Whether a row is stale. Nothing is read if none is, which is most often so.

    IS TRUE makes it a lookup in a hash table, where a join might compare each row with each (`app.usage.repository`).
    """
    is_stale = sa.tuple_(*key).in_(sa.select(*stale.c)).is_(sa.true())
    return sa.and_(sa.exists(sa.select(stale.c[0])), is_stale)


_RECORD_VERSION_USES = Query(
    sa.update(v)
    .where(
        v.c.organization_id == _ORGANIZATION,
        v.c.credential_id == _used.c.credential_id,
        v.c.key_version == _used.c.key_version,
        _in_stale(_STALE_VERSIONS, v.c.credential_id, v.c.key_version),
    )
    .values(last_used_at=sa.func.greatest(v.c.last_used_at, _used.c.used_at))
)
_used_credentials = unnest(**_USE_COLUMNS)
_stale_credential = found_for_each(
    sa.select(c.c.id)
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
    .with_for_update(key_share=True, skip_locked=True, of=c),
    "stale_credential",
)
_STALE_CREDENTIALS = (
    sa.select(*_stale_credential.c)
    .select_from(_used_credentials.join(_stale_credential, sa.true()))
    .cte("stale")
)
_RECORD_CREDENTIAL_USES = Query(
    sa.update(c)
    .where(
        c.c.organization_id == _ORGANIZATION,
        c.c.id == _used_credentials.c.credential_id,
        _in_stale(_STALE_CREDENTIALS, c.c.id),
    )
    .values(last_used_at=sa.func.greatest(c.c.last_used_at, _used_credentials.c.used_at))
)


class KeyLastUsedRepository(Repository):
    """Reads and updates the key versions of one organization."""

    async def key_histories(
        self, credential_ids: Iterable[UUID], *, since: datetime, key_versions: Iterable[int]
    ) -> dict[UUID, KeyVersionHistory]:
        """Return the history of each credential that exists, including deleted ones.

        Args:
            credential_ids: the credentials.
            since: the histories are complete from then on.
            key_versions: the versions that they know besides, if they exist.
        """
        found = await self._session.rows(
            _VERSIONS,
            organization_id=self._organization_id,
            credential_ids=list(credential_ids),
            since=since,
            key_versions=list(key_versions),
        )
        activations = await list_in_slices(
            map(_activation, found), in_transaction=True, items_per_step=_ROWS_AT_ONCE
        )
        versions: dict[UUID, list[KeyVersionActivation]] = {row["credential_id"]: [] for row in found}
        for row, activation in zip(found, activations, strict=True):
            if activation is not None:
                versions[row["credential_id"]].append(activation)
        is_any_compatible = {row["credential_id"]: row["is_any_compatible"] for row in found}
        return {
            credential_id: KeyVersionHistory(its, is_any_compatible=is_any_compatible[credential_id])
            for credential_id, its in versions.items()
        }

    async def record_uses(self, uses: Mapping[tuple[UUID, int | None], datetime]) -> None:
        """Record when keys were last used.

        The time never moves back. A use less than a minute after the recorded one is skipped, unless it is the first
        one that earlier leases do not explain.
        """
        # Sorted, so that concurrent transactions lock them in the same order.
        versions = sorted((key[0], key[1], at) for key, at in uses.items() if key[1] is not None)
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


def _activation(row: Row) -> KeyVersionActivation | None:
    if row["key_version"] is None:
        return None
    return KeyVersionActivation(
        key_version=row["key_version"],
        activated_at=row["activated_at"],
        rotated_at=row["decided_at"],
        base_url=row["base_url"],
    )
