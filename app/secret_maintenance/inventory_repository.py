"""Secrets that may be used again: where those of a credential's versions lie, with their fingerprints, or an endpoint's."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.credentials.records import LIVE_VERSION_STATES, VersionState
from app.credentials.tables import credential_version as v
from app.credentials.tables import fingerprint_claim
from app.database.engine import Query, Session
from app.webhooks.endpoints import EndpointState
from app.webhooks.tables import webhook_endpoint as e

# An intent's secret is not known to be there.
HELD: Sequence[sa.ColumnClause[Any]] = [
    sa.literal_column(f"'{state}'") for state in LIVE_VERSION_STATES if state is not VersionState.INTENT
]
_OF_CREDENTIAL = (
    v.c.organization_id == sa.bindparam("organization_id", type_=sa.Text),
    v.c.credential_id == sa.bindparam("credential_id", type_=v.c.credential_id.type),
)
# An endpoint that is on its way in or out has none: the settling of it sees to that.
IS_HELD_BY_ENDPOINT = e.c.state == sa.literal_column(f"'{EndpointState.ACTIVE}'")
_HELD = Query(
    sa.union_all(
        sa.select(v.c.key_version, v.c.store_version, v.c.fingerprint).where(
            *_OF_CREDENTIAL, v.c.state.in_(HELD)
        ),
        sa.select(sa.cast(sa.null(), sa.Integer), e.c.store_version, sa.cast(sa.null(), sa.Text)).where(
            e.c.organization_id == sa.bindparam("organization_id", type_=sa.Text),
            e.c.id == sa.bindparam("credential_id", type_=e.c.id.type),
            IS_HELD_BY_ENDPOINT,
        ),
    ).order_by("store_version")
)
_REFINGERPRINT = Query(
    sa.update(v)
    .where(*_OF_CREDENTIAL, v.c.key_version == sa.bindparam("key_version_", type_=sa.Integer))
    .values(fingerprint=sa.bindparam("new_fingerprint", type_=sa.Text))
)
_UNCLAIM = Query(
    sa.delete(fingerprint_claim).where(
        fingerprint_claim.c.organization_id == sa.bindparam("organization_id", type_=sa.Text),
        fingerprint_claim.c.credential_id == sa.bindparam("credential_id", type_=v.c.credential_id.type),
    )
)
_CLAIM = Query(
    sa.insert(fingerprint_claim).values(
        organization_id=sa.bindparam("organization_id", type_=sa.Text),
        credential_id=sa.bindparam("credential_id", type_=v.c.credential_id.type),
        fingerprint=sa.bindparam("fingerprint", type_=sa.Text),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSecret:
    """One of them. Only a key has a version in its credential, and a fingerprint."""

    key_version: int | None
    store_version: int
    fingerprint: str | None


class SecretInventoryRepository:
    """One organization's."""

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self._organization_id = organization_id

    async def of(self, credential_id: UUID) -> Sequence[StoredSecret]:
        """In the order in which they were written. The id may be an endpoint's: ids are unique over both."""
        found = await self._session.rows(_HELD, **self._names(credential_id))
        return [StoredSecret(**row) for row in found]

    async def set_fingerprints(self, credential_id: UUID, secrets: Iterable[StoredSecret]) -> None:
        """Another store, other fingerprints: of these versions, and the claims of the credential with them."""
        names = self._names(credential_id)
        claimed = set()
        await self._session.execute(_UNCLAIM, **names)
        for secret in secrets:
            await self._session.execute(
                _REFINGERPRINT, **names, key_version_=secret.key_version, new_fingerprint=secret.fingerprint
            )
            if secret.fingerprint not in claimed:
                claimed.add(secret.fingerprint)
                await self._session.execute(_CLAIM, **names, fingerprint=secret.fingerprint)

    def _names(self, credential_id: UUID) -> dict[str, object]:
        return {"organization_id": self._organization_id, "credential_id": credential_id}
