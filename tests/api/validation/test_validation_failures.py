"""Validations that fail or are interrupted, and the results that stay valid in spite of it."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.composition.bootstrap import open_services
from app.composition.database_access import DatabaseAccess
from app.composition.reconciler import Reconciler
from app.core.services import Services
from app.settings.groups.provider import ProviderSettings
from app.settings.settings import Settings
from app.validation.runner import ValidationRunner
from tests.support.database.rows import change, fetch, make_due
from tests.support.polling import until
from tests.support.provider.fake_anthropic import FakeAnthropic
from tests.support.provider.probes import refusing_port
from tests.support.requests.validation import save_credential, validation_of
from tests.support.service_builder import client_of
from tests.support.tenant import Tenant


class TestFailures:
    @pytest.fixture
    async def unreachable(
        self, tenant: Tenant, settings: Settings, access: DatabaseAccess
    ) -> AsyncIterator[Tenant]:
        """The same tenant, with a provider URL that refuses connections."""
        with refusing_port() as port:
            provider = ProviderSettings(default_base_url=f"http://127.0.0.1:{port}")
            changed = settings.model_copy(update={"provider": provider})
            async with open_services(changed, access) as services, client_of(services) as client:
                yield replace(tenant, http=client)

    async def test_unreachable_provider_is_indeterminate(self, unreachable: Tenant) -> None:
        credential = await unreachable.created()

        stored = credential["validation"]
        assert (stored["status"], stored["reason"]) == ("indeterminate", "unreachable")
        assert stored["provider_request_id"] is None

    @pytest.mark.parametrize("damage", ["sealed = '\\x00'", "sealed = substring(sealed FROM 1 FOR 20)"])
    async def test_key_that_cannot_be_decrypted_is_indeterminate(
        self, tenant: Tenant, superuser: AsyncEngine, fake_anthropic: FakeAnthropic, damage: str
    ) -> None:
        path, key = await save_credential(tenant)
        await change(
            superuser,
            f"UPDATE sealed_secret SET {damage} WHERE credential_id = :id",
            id=path.rpartition("/")[2],
        )

        validation = (await tenant.post(f"{path}/validations")).json()

        assert (validation["status"], validation["reason"]) == ("indeterminate", "secret_store_unavailable")
        assert (await validation_of(tenant, path))["status"] == "valid"
        assert len(fake_anthropic.requests_of(key)) == 1

    async def test_validation_of_a_crashed_instance_ends_as_interrupted(
        self, tenant: Tenant, services: Services, superuser: AsyncEngine, slow_provider: FakeAnthropic
    ) -> None:
        path, key = await save_credential(tenant)
        slow_provider.behave(key, "slow")
        response = await tenant.post(f"{path}/validations", headers={"Prefer": "respond-async"})
        await make_due(superuser, tenant.organization)

        await services[Reconciler].run()

        validation = (await tenant.get(f"{path}/validations")).json()["data"][0]
        assert validation["id"] == response.json()["id"]
        assert (validation["status"], validation["reason"]) == ("indeterminate", "interrupted")
        stored = await validation_of(tenant, path)
        assert (stored["status"], stored["latest"]["reason"]) == ("valid", "interrupted")

    async def test_late_result_is_ignored(
        self, tenant: Tenant, services: Services, superuser: AsyncEngine, slow_provider: FakeAnthropic
    ) -> None:
        response = await tenant.create("slow", headers={"Prefer": "respond-async"})
        await make_due(superuser, tenant.organization)
        await services[Reconciler].run()
        interrupted = await validation_of(tenant, response.headers["Location"])

        slow_provider.release.set()
        await services[ValidationRunner].close()

        assert interrupted["reason"] == "interrupted"
        assert await validation_of(tenant, response.headers["Location"]) == interrupted

    async def test_new_validation_can_start_after_an_interrupted_one(
        self, tenant: Tenant, services: Services, superuser: AsyncEngine, slow_provider: FakeAnthropic
    ) -> None:
        path, key = await save_credential(tenant)
        slow_provider.behave(key, "slow")
        await tenant.post(f"{path}/validations", headers={"Prefer": "respond-async"})
        await make_due(superuser, tenant.organization)
        await services[Reconciler].run()
        slow_provider.behave(key, "valid")

        validation = await tenant.post(f"{path}/validations")

        assert validation.json()["status"] == "valid"
        queued = "SELECT id FROM job_queue WHERE organization_id = :organization AND kind <> 'revalidate'"
        await until(
            lambda: fetch(superuser, queued, organization=tenant.organization), lambda found: found == []
        )
