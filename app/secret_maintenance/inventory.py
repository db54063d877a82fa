"""Secrets of either kind, as an operator's commands meet them: provider keys, and what webhooks are signed with."""

from dataclasses import dataclass, replace

from app.audit import service as audit
from app.audit.events import AuditAction
from app.core.api_key import ApiKey
from app.core.signing_secret import SigningSecret
from app.credentials.records import VersionState
from app.credentials.version_repository import VersionRepository
from app.database.unit_of_work import UnitOfWork
from app.secret_maintenance.progress import operator
from app.secret_store.port import SecretKind, SecretRef, SecretStore
from app.webhooks.repository import WebhookRepository


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveVersions:
    """What of a credential or an endpoint is not known to be gone."""

    store_versions: tuple[int, ...]
    is_writing: bool  # another write is announced


async def with_kind(uow: UnitOfWork, ref: SecretRef) -> SecretRef:
    """Lists name ids alone. Where no row is left of either kind, this says a key's."""
    is_endpoint = await uow[WebhookRepository].is_one(ref.credential_id)
    return replace(ref, kind=SecretKind.SIGNING_SECRET if is_endpoint else SecretKind.PROVIDER_KEY)


async def lock(uow: UnitOfWork, ref: SecretRef) -> None:
    """Its row stays as it is until the transaction ends."""
    if ref.kind is SecretKind.PROVIDER_KEY:
        await uow[VersionRepository].lock(ref.credential_id)
    else:
        await uow[WebhookRepository].lock(ref.credential_id)


async def lock_standing(uow: UnitOfWork, ref: SecretRef) -> LiveVersions:
    """The same, with what stands there."""
    if ref.kind is SecretKind.SIGNING_SECRET:
        endpoint = await uow[WebhookRepository].lock(ref.credential_id)
        return LiveVersions(
            store_versions=() if endpoint is None else (endpoint.store_version,), is_writing=False
        )
    standing = await uow[VersionRepository].lock_standing(ref.credential_id)
    numbers = [version.store_version for version in standing]
    return LiveVersions(
        store_versions=tuple(number for number in numbers if number is not None),
        is_writing=any(version.state is VersionState.INTENT for version in standing),
    )


async def read(store: SecretStore, ref: SecretRef, store_version: int) -> ApiKey | SigningSecret:
    """Raises SecretMissing, SecretCorrupt, SecretStoreUnavailable."""
    if ref.kind is SecretKind.PROVIDER_KEY:
        return await store.read(ref, store_version)
    return await store.read_signing_secret(ref, store_version)


async def record(
    uow: UnitOfWork, ref: SecretRef, action: AuditAction, **details: str | int | bool | None
) -> None:
    """In the trail of its organization, under the id that is known there."""
    is_key = ref.kind is SecretKind.PROVIDER_KEY
    named = {} if is_key else {"webhook_endpoint_id": str(ref.credential_id)}
    await audit.record(
        uow,
        operator(ref.organization_id),
        action,
        ref.credential_id if is_key else None,
        **{**named, **details},
    )
