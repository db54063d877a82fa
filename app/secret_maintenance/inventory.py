"""What the operator's commands do alike with secrets of both kinds: provider keys and webhook signing secrets."""

from dataclasses import dataclass, replace

from app.audit import service as audit
from app.audit.events import AuditAction
from app.core.keys.api_key import ApiKey
from app.core.keys.signing_secret import SigningSecret
from app.credentials.records import VersionState
from app.credentials.version_repository import VersionRepository
from app.database.unit_of_work import UnitOfWork
from app.secret_maintenance.progress import operator_caller
from app.secret_store.port import SecretKind, SecretRef, SecretStore
from app.webhooks.repository import WebhookRepository


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveVersions:
    """The versions of a credential or endpoint whose secret may still be in the store."""

    store_versions: tuple[int, ...]
    is_writing: bool  # another write is under way


async def resolve_kind(uow: UnitOfWork, ref: SecretRef) -> SecretRef:
    """Return the ref with its kind, which lists of secrets do not know. Without a row, the kind is PROVIDER_KEY."""
    is_endpoint = await uow[WebhookRepository].exists(ref.credential_id)
    return replace(ref, kind=SecretKind.SIGNING_SECRET if is_endpoint else SecretKind.PROVIDER_KEY)


async def lock_row(uow: UnitOfWork, ref: SecretRef) -> None:
    """Lock the row of the credential or endpoint until the transaction ends."""
    if ref.kind is SecretKind.PROVIDER_KEY:
        await uow[VersionRepository].lock(ref.credential_id)
    else:
        await uow[WebhookRepository].lock(ref.credential_id)


async def lock_live_versions(uow: UnitOfWork, ref: SecretRef) -> LiveVersions:
    """Lock the row, and return its live versions."""
    if ref.kind is SecretKind.SIGNING_SECRET:
        endpoint = await uow[WebhookRepository].lock(ref.credential_id)
        return LiveVersions(
            store_versions=() if endpoint is None else (endpoint.store_version,), is_writing=False
        )
    live_versions = await uow[VersionRepository].lock_live_versions(ref.credential_id)
    numbers = [version.store_version for version in live_versions]
    return LiveVersions(
        store_versions=tuple(number for number in numbers if number is not None),
        is_writing=any(version.state is VersionState.INTENT for version in live_versions),
    )


async def read_secret(store: SecretStore, ref: SecretRef, store_version: int) -> ApiKey | SigningSecret:
    """Read a secret of either kind. Raises SecretMissing, SecretCorrupt, SecretStoreUnavailable."""
    if ref.kind is SecretKind.PROVIDER_KEY:
        return await store.read(ref, store_version)
    return await store.read_signing_secret(ref, store_version)


async def record_event(
    uow: UnitOfWork, ref: SecretRef, action: AuditAction, **details: str | int | bool | None
) -> None:
    """Write an entry to the organization's audit log, under the id of the credential or endpoint."""
    is_key = ref.kind is SecretKind.PROVIDER_KEY
    ids = {} if is_key else {"webhook_endpoint_id": str(ref.credential_id)}
    await audit.record(
        uow,
        operator_caller(ref.organization_id),
        action,
        ref.credential_id if is_key else None,
        **{**ids, **details},
    )
