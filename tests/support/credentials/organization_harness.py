"""The services of one organization with one secret store, and invariants that must hold after reconciliation."""

import secrets
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.principal import Caller
from app.composition.reconciler import Reconciler
from app.core.clock import new_id
from app.core.errors import DuplicateKey
from app.core.keys.api_key import ApiKey
from app.core.services import Services
from app.credentials.records import CredentialRecord, CredentialState
from app.credentials.service import CredentialService, NewCredential
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.leases.service import Wrapper
from app.secret_store.port import SecretRef, SecretStore
from tests.support.credentials.store_variants import StoreVariant
from tests.support.database.rows import change, fetch_organization_rows, make_due
from tests.support.fault_injection import (
    ApprovingProber,
    FaultInjectingUnitsOfWork,
    FaultSchedule,
    OverloadedProber,
)
from tests.support.service_builder import assemble


def make_key() -> ApiKey:
    return ApiKey.parse(f"sk-ant-api03-{secrets.token_urlsafe(60)}AA")


def new_credential(key: ApiKey) -> NewCredential:
    return NewCredential(
        label="Acme", key=key, base_url=None, auth_style=None, workspace_id=None, probe_model=None
    )


@dataclass(frozen=True, kw_only=True)
class OrganizationHarness:
    """Builds services with or without faults, and reads and checks the organization's rows."""

    services: Services
    database: Database
    superuser: AsyncEngine
    store_variant: StoreVariant
    caller: Caller

    @property
    def organization(self) -> str:
        return self.caller.organization_id

    @property
    def healthy_services(self) -> Services:
        return self.services_with_store(self.store_variant.store)

    @property
    def services_with_overloaded_provider(self) -> Services:
        """Services with a provider that is overloaded, so that every validation is indeterminate."""
        return self._assemble(UnitsOfWork(self.database), self.store_variant.store, OverloadedProber())

    def services_with_store(self, store: SecretStore) -> Services:
        return self._assemble(UnitsOfWork(self.database), store, ApprovingProber())

    def services_with_faults(self, faults: FaultSchedule) -> Services:
        store = self.store_variant.inject_faults(self.store_variant.store, faults)
        return self._assemble(
            FaultInjectingUnitsOfWork(self.database, faults), store, ApprovingProber(faults)
        )

    def _assemble(self, units: UnitsOfWork, store: SecretStore, prober: ApprovingProber) -> Services:
        has_leases = self.store_variant.opens_token is not None
        return assemble(
            self.services,
            units=units,
            store=store,
            prober=prober,
            wrapper=cast("Wrapper", store) if has_leases else None,
            vault_address="https://vault.test" if has_leases else None,
        )

    async def register(self, services: Services, key: ApiKey) -> CredentialRecord:
        return await services[CredentialService].register(
            self.caller, new_credential(key), credential_id=new_id()
        )

    async def reconcile(self, services: Services | None = None) -> None:
        """Make all queue items due and reconcile."""
        await make_due(self.superuser, self.organization)
        await (services or self.healthy_services)[Reconciler].run()

    async def extend_retention(self) -> None:
        """Extend the retention of previous versions, as it appears to an instance whose clock is slow."""
        await change(
            self.superuser,
            "UPDATE credential_version SET retires_at = now() + interval '1 minute'"
            " WHERE organization_id = :organization_id AND state = 'previous'",
            organization_id=self.organization,
        )

    async def rows(self, table: str) -> list[dict[str, Any]]:
        return (await self.snapshot(table))[table]

    async def snapshot(self, *tables: str) -> dict[str, list[dict[str, Any]]]:
        """The rows of these tables. Scheduled validations are not work that an interrupted operation left."""
        found = await fetch_organization_rows(self.superuser, *tables, organization_id=self.organization)
        if "job_queue" in found:
            found["job_queue"] = [row for row in found["job_queue"] if row["kind"] != "revalidate"]
        return found

    async def assert_store_and_database_agree(self, key: ApiKey) -> list[UUID]:
        """Check that database and store agree and nothing is pending. Returns the ids of all credentials."""
        assert await self.rows("job_queue") == [], "queue items are left"
        credentials = await self.rows("provider_credential")
        versions = await self.rows("credential_version")
        assert {row["state"] for row in credentials} <= {"active"}, "a credential is not active"
        assert {row["state"] for row in versions} <= {"active"}, "a version is not active"
        referenced = {(row["credential_id"], row["store_version"]) for row in versions}
        assert await self.store_variant.secrets(self.organization) == referenced, (
            "an orphaned secret or a dangling row"
        )
        validations = await self.rows("credential_validation")
        assert "pending" not in {row["status"] for row in validations}, "a validation is pending"
        ids = [row["id"] for row in credentials]
        for table in ("credential_version", "fingerprint_claim"):
            assert [row["credential_id"] for row in await self.rows(table)] == ids, table
        created = [row for row in await self.rows("audit_event") if row["action"] == "credential.created"]
        assert [row["credential_id"] for row in created] == ids, "the audit log differs"
        for version in versions:
            ref = SecretRef(organization_id=self.organization, credential_id=version["credential_id"])
            assert await self.store_variant.store.read(ref, version["store_version"]) == key
        return ids

    async def assert_key_can_be_registered(self, key: ApiKey, ids: list[UUID]) -> None:
        """Check that the key can be registered, or that the error names the credential that has it."""
        if ids:
            with pytest.raises(DuplicateKey) as refused:
                await self.register(self.healthy_services, key)
            assert [refused.value.credential_id] == ids
            return
        record = await self.register(self.healthy_services, key)
        assert record.state is CredentialState.ACTIVE
