"""The secrets of a credential or endpoint that may be read: their store versions and fingerprints."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.credentials.records import LIVE_VERSION_STATES, VersionState
from app.credentials.tables import credential_version as v
from app.credentials.tables import fingerprint_claim
from app.database.repository import Repository
from app.database.statements import Query
from app.webhooks.endpoints import EndpointState
from app.webhooks.tables import webhook_endpoint as e

# Without INTENT: whether the secret of an intent was written is not known.
STATES_WITH_SECRET: Sequence[sa.ColumnClause[Any]] = [
    sa.literal_column(f"'{state}'") for state in LIVE_VERSION_STATES if state is not VersionState.INTENT
]
_OF_CREDENTIAL = (
    v.c.organization_id == sa.bindparam("organization_id", type_=sa.Text),
    v.c.credential_id == sa.bindparam("credential_id", type_=v.c.credential_id.type),
)
# Secrets of endpoints in other states are removed when the interrupted write is reconciled.
ENDPOINT_HAS_SECRET = e.c.state == sa.literal_column(f"'{EndpointState.ACTIVE}'")
_LIST = Query(
    sa.union_all(
        sa.select(v.c.key_version, v.c.store_version, v.c.fingerprint).where(
            *_OF_CREDENTIAL, v.c.state.in_(STATES_WITH_SECRET)
        ),
        sa.select(sa.cast(sa.null(), sa.Integer), e.c.store_version, sa.cast(sa.null(), sa.Text)).where(
            e.c.organization_id == sa.bindparam("organization_id", type_=sa.Text),
            e.c.id == sa.bindparam("credential_id", type_=e.c.id.type),
            ENDPOINT_HAS_SECRET,
        ),
    ).order_by("store_version")
)
_REFINGERPRINT = Query(
    sa.update(v)
    .where(*_OF_CREDENTIAL, v.c.key_version == sa.bindparam("key_version_", type_=sa.Integer))
    .values(fingerprint=sa.bindparam("new_fingerprint", type_=sa.Text))
)
_RELEASE_CLAIMS = Query(
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
    """A secret in the store. Only a provider key has a `key_version` and a `fingerprint`."""

    key_version: int | None
    store_version: int
    fingerprint: str | None


class SecretInventoryRepository(Repository):
    """The stored secrets of one organization."""

    async def list_for(self, credential_id: UUID) -> Sequence[StoredSecret]:
        """List the secrets of a credential or endpoint, oldest first. Ids are unique across both."""
        found = await self._session.rows(_LIST, **self._owner(credential_id))
        return [StoredSecret(**row) for row in found]

    async def set_fingerprints(self, credential_id: UUID, secrets: Iterable[StoredSecret]) -> None:
        """Replace the fingerprints of these versions and the credential's claims on them, after a change of the store."""
        owner = self._owner(credential_id)
        claimed = set()
        await self._session.execute(_RELEASE_CLAIMS, **owner)
        for secret in secrets:
            await self._session.execute(
                _REFINGERPRINT,
                **owner,
                key_version_=secret.key_version,
                new_fingerprint=secret.fingerprint,
            )
            if secret.fingerprint not in claimed:
                claimed.add(secret.fingerprint)
                await self._session.execute(_CLAIM, **owner, fingerprint=secret.fingerprint)

    def _owner(self, credential_id: UUID) -> dict[str, object]:
        return {"organization_id": self._organization_id, "credential_id": credential_id}
