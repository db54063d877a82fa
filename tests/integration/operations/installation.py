"""A database, a keyset file, credentials of every kind and webhook endpoints: what an operator's command meets."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.principal import Caller
from app.composition.reconciler import Reconciler
from app.core.api_key import ApiKey
from app.core.clock import new_id, now
from app.core.services import Services
from app.core.signing_secret import SigningSecret
from app.credentials.deletion import DeletionService
from app.credentials.service import CredentialService
from app.credentials.verdicts import Reason, ValidationStatus, Verdict
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.provider_url.endpoint import ProviderEndpoint
from app.provider_url.url_policy import OutboundUrl
from app.rotation.service import RotationService
from app.secret_store.binding import bind_store
from app.secret_store.embedded.keyring import Keyring
from app.secret_store.embedded.store import EmbeddedSecretStore
from app.secret_store.embedded.table import SealedList
from app.secret_store.port import SecretKind, SecretRef, SecretStore
from app.webhooks.service import WebhookService
from app.webhooks.signing_secrets import ref_of
from tests.assembly import assemble
from tests.integration.services.deeds import new_key
from tests.integration.services.workplace import make_key, new_credential
from tests.interruptions import ApprovingProber, Crash, HoldingStore
from tests.rows import change, fetch, make_due

_TABLES = (
    "secret_rewrap, credential_rotation, credential_lease, credential_validation, fingerprint_claim, credential_version,"
    " usage_mode_change, provider_credential, webhook_delivery, webhook_endpoint, audit_event, rate_counter, job_queue,"
    " sealed_secret, sealing_keyset"
)
HELD = ("stored", "active", "previous")
WEBHOOK_URL = OutboundUrl(host="hooks.example.com", path="/in")


class UndecidedProber:
    """A provider that nobody reaches."""

    async def probe(
        self,
        key: ApiKey,  # noqa: ARG002  # the port's signature
        destination: ProviderEndpoint,  # noqa: ARG002  # likewise
        *,
        previously_valid: bool,  # noqa: ARG002  # likewise
        timeout_seconds: float | None = None,  # noqa: ARG002  # likewise
    ) -> Verdict:
        return Verdict(status=ValidationStatus.INDETERMINATE, reason=Reason.TIMEOUT, checked_at=now())


@dataclass(kw_only=True)
class Installation:
    """The embedded store and its services, and what was saved in it."""

    parts: Services
    database: Database
    owner: AsyncEngine
    keyset_path: Path
    told: list[str] = field(default_factory=list)
    keys: dict[tuple[UUID, int], ApiKey] = field(default_factory=dict)  # by credential and key version
    refs: list[SecretRef] = field(default_factory=list)  # of credentials
    secrets: dict[SecretRef, SigningSecret] = field(default_factory=dict)  # of webhook endpoints

    @property
    def units(self) -> UnitsOfWork:
        return UnitsOfWork(self.database)

    @property
    def sealed(self) -> SealedList:
        return SealedList(self.database)

    def keyring(self) -> Keyring:
        return Keyring.load_or_create(self.keyset_path)

    def embedded(self, keys: Keyring | None = None) -> EmbeddedSecretStore:
        """As an instance that starts now has it."""
        return EmbeddedSecretStore(self.database, keys or self.keyring())

    def services(self, store: SecretStore | None = None, *, prober: Any = None) -> Services:
        return assemble(
            self.parts,
            units=self.units,
            store=store or self.embedded(),
            prober=prober or ApprovingProber(),
        )

    async def empty(self) -> None:
        """As if new."""
        await change(self.owner, f"TRUNCATE {_TABLES}")
        self.keyset_path.unlink(missing_ok=True)
        self.told.clear()
        self.keys.clear()
        self.refs.clear()
        self.secrets.clear()
        await bind_store(self.database, self.keyring().keyset.identity)

    async def fill(self, store: SecretStore | None = None) -> None:
        """A key; one with a key before and a number lost; one on its way; a deleted one. Endpoints, one of them deleted.

        Two organizations have keys, the third has nothing but an endpoint.
        """
        store = store or self.embedded()
        first, second, third = (
            Caller(subject="ada@example.com", organization_id=f"org_{uuid4().hex[:16]}", request_id="req")
            for _ in range(3)
        )
        services = self.services(store)
        await self._save(services, first)
        replaced = await self._save(services, first)
        await self._lose_a_number(store, first, replaced)
        await self._rotate(services, first, replaced, key_version=3)
        pending = await self._save(services, second)
        await self._rotate(self.services(store, prober=UndecidedProber()), second, pending, key_version=2)
        deleted = await self._save(services, second)
        await services[DeletionService].delete(second, deleted, force=False)
        await self.add_endpoint(services, first)
        await self.add_endpoint(services, third)
        gone, _ = await services[WebhookService].add(second, WEBHOOK_URL)
        await services[WebhookService].delete(second, gone.id)

    async def add_endpoint(self, services: Services, caller: Caller) -> SecretRef:
        endpoint, secret = await services[WebhookService].add(caller, WEBHOOK_URL)
        ref = ref_of(caller.organization_id, endpoint.id)
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

    async def _lose_a_number(self, store: SecretStore, caller: Caller, credential_id: UUID) -> None:
        services = self.services(HoldingStore(store, Crash))
        with suppress(Crash):
            await services[RotationService].rotate(
                caller, credential_id, new_key(make_key()), rotation_id=new_id()
            )
        await make_due(self.owner, caller.organization_id)
        await self.services(store)[Reconciler].run()

    async def rows(self, table: str, where: str = "true") -> list[dict[str, Any]]:
        return await fetch(self.owner, f"SELECT * FROM {table} WHERE {where}")

    async def actions(self) -> Sequence[str]:
        return [row["action"] for row in await self.rows("audit_event", "actor = 'operator'")]

    async def held(self) -> dict[tuple[SecretRef, int], UUID]:
        """What the rows of either kind point to, and the intents that wrote it first."""
        found = {}
        for row in await self.rows("credential_version"):
            if row["state"] in HELD:
                ref = SecretRef(organization_id=row["organization_id"], credential_id=row["credential_id"])
                found[ref, row["store_version"]] = row["intent_id"]
        for row in await self.rows("webhook_endpoint", "state = 'active'"):
            found[ref_of(row["organization_id"], row["id"]), row["store_version"]] = row["intent_id"]
        return found

    async def assert_readable(self, store: SecretStore) -> None:
        """Every key that may be used again opens, under its fingerprint, which its credential claims; one is in use.

        Every endpoint's secret opens too.
        """
        opened = {
            ref: await store.read_signing_secret(ref, number)
            for ref, number in await self.held()
            if ref.kind is SecretKind.SIGNING_SECRET
        }
        assert opened == self.secrets
        versions = [row for row in await self.rows("credential_version") if row["state"] in HELD]
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
