"""One organization's services over a vessel, and what must be true once a run and the sweep are over."""

import secrets
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.principal import Caller
from app.composition.reconciler import Reconciler
from app.core.api_key import ApiKey
from app.core.clock import new_id
from app.core.errors import DuplicateKey
from app.core.services import Services
from app.credentials.records import CredentialRecord, CredentialState
from app.credentials.service import CredentialService, NewCredential
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.leases.service import Wrapper
from app.secret_store.port import SecretRef, SecretStore
from tests.assembly import assemble
from tests.integration.services.vessels import Vessel
from tests.interruptions import ApprovingProber, Course, InterruptedUnits, OverloadedProber
from tests.rows import change, look, make_due


def make_key() -> ApiKey:
    return ApiKey.parse(f"sk-ant-api03-{secrets.token_urlsafe(60)}AA")


def new_credential(key: ApiKey) -> NewCredential:
    return NewCredential(
        label="Acme", key=key, base_url=None, auth_style=None, workspace_id=None, probe_model=None
    )


@dataclass(frozen=True, kw_only=True)
class Workplace:
    services: Services
    database: Database
    owner: AsyncEngine
    vessel: Vessel
    caller: Caller

    @property
    def organization(self) -> str:
        return self.caller.organization_id

    @property
    def healthy(self) -> Services:
        return self.with_store(self.vessel.store)

    @property
    def undecided(self) -> Services:
        """While the provider says nothing of any key."""
        return self._assembled(UnitsOfWork(self.database), self.vessel.store, OverloadedProber())

    def with_store(self, store: SecretStore) -> Services:
        return self._assembled(UnitsOfWork(self.database), store, ApprovingProber())

    def interrupted(self, course: Course) -> Services:
        store = self.vessel.interrupted(self.vessel.store, course)
        return self._assembled(InterruptedUnits(self.database, course), store, ApprovingProber(course))

    def _assembled(self, units: UnitsOfWork, store: SecretStore, prober: ApprovingProber) -> Services:
        has_leases = self.vessel.opens is not None
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

    async def sweep(self, services: Services | None = None) -> None:
        """Let the deadlines pass and sweep."""
        await make_due(self.owner, self.organization)
        await (services or self.healthy)[Reconciler].run()

    async def prolong(self) -> None:
        """Let keys that are kept for rollback retire later: so they look to an instance whose clock is behind."""
        await change(
            self.owner,
            "UPDATE credential_version SET retires_at = now() + interval '1 minute'"
            " WHERE organization_id = :organization_id AND state = 'previous'",
            organization_id=self.organization,
        )

    async def rows(self, table: str) -> list[dict[str, Any]]:
        return (await self.look(table))[table]

    async def look(self, *tables: str) -> dict[str, list[dict[str, Any]]]:
        return await look(self.owner, *tables, organization_id=self.organization)

    async def assert_in_step(self, key: ApiKey) -> list[UUID]:
        """Database and store agree, nothing is left to do, and all that is there is visible and whole."""
        assert await self.rows("job_queue") == [], "work is left over"
        credentials = await self.rows("provider_credential")
        versions = await self.rows("credential_version")
        assert {row["state"] for row in credentials} <= {"active"}, "a credential is stuck"
        assert {row["state"] for row in versions} <= {"active"}, "a version is stuck"
        pointed_at = {(row["credential_id"], row["store_version"]) for row in versions}
        assert await self.vessel.secrets(self.organization) == pointed_at, "an orphan or a dangling row"
        checks = await self.rows("credential_validation")
        assert "pending" not in {row["status"] for row in checks}, "a check is stuck"
        ids = [row["id"] for row in credentials]
        for table in ("credential_version", "fingerprint_claim"):
            assert [row["credential_id"] for row in await self.rows(table)] == ids, table
        created = [row for row in await self.rows("audit_event") if row["action"] == "credential.created"]
        assert [row["credential_id"] for row in created] == ids, "the trail tells otherwise"
        for version in versions:
            ref = SecretRef(organization_id=self.organization, credential_id=version["credential_id"])
            assert await self.vessel.store.read(ref, version["store_version"]) == key
        return ids

    async def assert_registrable(self, key: ApiKey, ids: list[UUID]) -> None:
        """The key can be registered, unless it is: then the answer names where."""
        if ids:
            with pytest.raises(DuplicateKey) as refused:
                await self.register(self.healthy, key)
            assert [refused.value.credential_id] == ids
            return
        record = await self.register(self.healthy, key)
        assert record.state is CredentialState.ACTIVE
