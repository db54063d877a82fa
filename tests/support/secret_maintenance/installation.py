"""An installation for tests of the operator's commands: a database, a keyset file, credentials and webhook endpoints."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.principal import Caller
from app.composition.reconciler import Reconciler
from app.core.clock import new_id, now
from app.core.keys.api_key import ApiKey
from app.core.keys.signing_secret import SigningSecret
from app.core.services import Services
from app.credentials.deletion import DeletionService
from app.credentials.service import CredentialService
from app.credentials.validation_results import Reason, ValidationResult, ValidationStatus
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.provider_url.endpoint import ProviderEndpoint
from app.provider_url.url_policy import OutboundUrl
from app.rotation.service import RotationService
from app.secret_store.binding import bind_store
from app.secret_store.embedded.keyring import Keyring
from app.secret_store.embedded.store import EmbeddedSecretStore
from app.secret_store.embedded.table import EncryptedSecretList
from app.secret_store.port import SecretKind, SecretRef, SecretStore
from app.webhooks.service import WebhookService
from app.webhooks.signing_secrets import signing_secret_ref
from tests.support.credentials.operations import new_key
from tests.support.credentials.organization_harness import make_key, new_credential
from tests.support.database.rows import change, fetch, make_due
from tests.support.fault_injection import ApprovingProber, Crash, DelayedWriteStore
from tests.support.service_builder import assemble

_TABLES = (
    "secret_rewrap, credential_rotation, credential_lease, credential_validation, fingerprint_claim, credential_version,"
    " usage_mode_change, provider_credential, webhook_delivery, webhook_endpoint, audit_event, rate_counter, job_queue,"
    " sealed_secret, sealing_keyset"
)
_BLOB = "sealed"  # the column of the embedded store's table
READABLE_STATES = ("stored", "active", "previous")
WEBHOOK_URL = OutboundUrl(host="hooks.example.com", path="/in")


class TimeoutProber:
    """A provider that never responds."""

    async def probe(
        self,
        key: ApiKey,  # noqa: ARG002  # the port's signature
        endpoint: ProviderEndpoint,  # noqa: ARG002  # the port's signature
        *,
        previously_valid: bool,  # noqa: ARG002  # the port's signature
        timeout_seconds: float | None = None,  # noqa: ARG002  # the port's signature
    ) -> ValidationResult:
        return ValidationResult(
            status=ValidationStatus.INDETERMINATE, reason=Reason.TIMEOUT, checked_at=now()
        )


@dataclass(kw_only=True)
class Installation:
    """The embedded store with its services, and the secrets that were saved in it."""

    base_services: Services
    database: Database
    superuser: AsyncEngine
    keyset_path: Path
    progress_lines: list[str] = field(default_factory=list)
    keys: dict[tuple[UUID, int], ApiKey] = field(default_factory=dict)  # by credential and key version
    refs: list[SecretRef] = field(default_factory=list)  # of credentials
    secrets: dict[SecretRef, SigningSecret] = field(default_factory=dict)  # of webhook endpoints

    @property
    def units(self) -> UnitsOfWork:
        return UnitsOfWork(self.database)

    @property
    def encrypted(self) -> EncryptedSecretList:
        return EncryptedSecretList(self.database)

    def keyring(self) -> Keyring:
        return Keyring.load_or_create(self.keyset_path)

    def embedded(self, keys: Keyring | None = None) -> EmbeddedSecretStore:
        """The store of an instance that starts now."""
        return EmbeddedSecretStore(self.database, keys or self.keyring())

    def services(self, store: SecretStore | None = None, *, prober: Any = None) -> Services:
        return assemble(
            self.base_services,
            units=self.units,
            store=store or self.embedded(),
            prober=prober or ApprovingProber(),
        )

    async def reset(self) -> None:
        """Empty the database and create a new keyset file."""
        await change(self.superuser, f"TRUNCATE {_TABLES}")
        self.keyset_path.unlink(missing_ok=True)
        self.progress_lines.clear()
        self.keys.clear()
        self.refs.clear()
        self.secrets.clear()
        await bind_store(self.database, self.keyring().keyset.identity)

    async def fill(self, store: SecretStore | None = None) -> None:
        """Save credentials and endpoints in every state.

        The first organization has a credential with one key, one with a previous key and a wasted store
        version, and an endpoint. The second has a credential with a pending rotation, a deleted
        credential and a deleted endpoint. The third has only an endpoint.
        """
        store = store or self.embedded()
        first, second, third = (
            Caller(subject="ada@example.com", organization_id=f"org_{uuid4().hex[:16]}", request_id="req")
            for _ in range(3)
        )
        services = self.services(store)
        await self._save(services, first)
        replaced = await self._save(services, first)
        await self._waste_store_version(store, first, replaced)
        await self._rotate(services, first, replaced, key_version=3)
        pending = await self._save(services, second)
        await self._rotate(self.services(store, prober=TimeoutProber()), second, pending, key_version=2)
        deleted = await self._save(services, second)
        await services[DeletionService].delete(second, deleted, force=False)
        await self.add_endpoint(services, first)
        await self.add_endpoint(services, third)
        gone, _ = await services[WebhookService].create(second, WEBHOOK_URL)
        await services[WebhookService].delete(second, gone.id)

    async def add_endpoint(self, services: Services, caller: Caller) -> SecretRef:
        endpoint, secret = await services[WebhookService].create(caller, WEBHOOK_URL)
        ref = signing_secret_ref(caller.organization_id, endpoint.id)
        self.secrets[ref] = secret
        return ref

    async def _save(self, services: Services, caller: Caller) -> UUID:
        key = make_key()
        record = await services[CredentialService].register(
            caller, new_credential(key), credential_id=new_id()
        )
        self.keys[record.id, 1] = key
        self.refs.append(SecretRef(organization_id=caller.organization_id, credential_id=record.id))
        return record.id

    async def _rotate(
        self, services: Services, caller: Caller, credential_id: UUID, *, key_version: int
    ) -> None:
        key = make_key()
        await services[RotationService].rotate(caller, credential_id, new_key(key), rotation_id=new_id())
        self.keys[credential_id, key_version] = key

    async def _waste_store_version(self, store: SecretStore, caller: Caller, credential_id: UUID) -> None:
        services = self.services(DelayedWriteStore(store, Crash))
        with suppress(Crash):
            await services[RotationService].rotate(
                caller, credential_id, new_key(make_key()), rotation_id=new_id()
            )
        await make_due(self.superuser, caller.organization_id)
        await self.services(store)[Reconciler].run()

    async def rows(self, table: str, where: str = "true") -> list[dict[str, Any]]:
        return await fetch(self.superuser, f"SELECT * FROM {table} WHERE {where}")

    async def encrypted_rows(self) -> list[dict[str, Any]]:
        """The rows of the embedded store that hold a secret."""
        return [row for row in await self.rows("sealed_secret") if row[_BLOB] is not None]

    async def toggle_corruption(self, ref: SecretRef) -> None:
        """Invert one byte of a credential's encrypted secrets. A second call restores them."""
        await change(
            self.superuser,
            f"UPDATE sealed_secret SET {_BLOB} = set_byte({_BLOB}, 60, 255 - get_byte({_BLOB}, 60))"
            " WHERE credential_id = :id",
            id=ref.credential_id,
        )

    async def actions(self) -> Sequence[str]:
        return [row["action"] for row in await self.rows("audit_event", "actor = 'operator'")]

    async def readable_secrets(self) -> dict[tuple[SecretRef, int], UUID]:
        """The secrets that rows of both kinds reference, each with the intent that wrote it first."""
        found = {}
        for row in await self.rows("credential_version"):
            if row["state"] in READABLE_STATES:
                ref = SecretRef(organization_id=row["organization_id"], credential_id=row["credential_id"])
                found[ref, row["store_version"]] = row["intent_id"]
        for row in await self.rows("webhook_endpoint", "state = 'active'"):
            found[signing_secret_ref(row["organization_id"], row["id"]), row["store_version"]] = row[
                "intent_id"
            ]
        return found

    async def assert_readable(self, store: SecretStore) -> None:
        """Assert that the store returns every readable secret, and that the rows are consistent.

        Each key has its fingerprint and its credential's claim on it, and each credential has one active key.
        """
        opened = {
            ref: await store.read_signing_secret(ref, number)
            for ref, number in await self.readable_secrets()
            if ref.kind is SecretKind.SIGNING_SECRET
        }
        assert opened == self.secrets
        versions = [row for row in await self.rows("credential_version") if row["state"] in READABLE_STATES]
        assert len(versions) == 5
        claims = set()
        for row in versions:
            ref = SecretRef(organization_id=row["organization_id"], credential_id=row["credential_id"])
            key = await store.read(ref, row["store_version"])
            assert key == self.keys[row["credential_id"], row["key_version"]]
            assert row["fingerprint"] == await store.fingerprint(row["organization_id"], key)
            claims.add((row["organization_id"], row["fingerprint"], row["credential_id"]))
        assert {tuple(row.values()) for row in await self.rows("fingerprint_claim")} == claims
        for credential in await self.rows("provider_credential", "state = 'active'"):
            active = [
                row["key_version"]
                for row in versions
                if row["credential_id"] == credential["id"] and row["state"] == "active"
            ]
            assert active == [credential["current_key_version"]]
