"""Checks that meet trouble: what they say, and what stands in spite of them."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.composition.bootstrap import DatabaseAccess, open_services
from app.composition.reconciler import Reconciler
from app.core.services import Services
from app.settings.environment import ProviderSettings, Settings
from app.validation.runner import ValidationRunner
from tests.api.test_validation import saved, verdict_on
from tests.assembly import client_of
from tests.conftest import Tenant
from tests.fake_anthropic import FakeAnthropic
from tests.integration.egress.probing import refusing_port
from tests.rows import change, fetch, make_due
from tests.waiting import until


class TestTrouble:
    @pytest.fixture
    async def unreachable(
        self, tenant: Tenant, settings: Settings, access: DatabaseAccess
    ) -> AsyncIterator[Tenant]:
        """The same tenant where nobody listens at the provider's address."""
        with refusing_port() as port:
            provider = ProviderSettings(default_base_url=f"http://127.0.0.1:{port}")
            changed = settings.model_copy(update={"provider": provider})
            async with open_services(changed, access) as services, client_of(services) as client:
                yield replace(tenant, http=client)

    async def test_unreachable_provider_is_no_verdict_on_the_key(self, unreachable: Tenant) -> None:
        credential = await unreachable.created()

        verdict = credential["validation"]
        assert (verdict["status"], verdict["reason"]) == ("indeterminate", "unreachable")
        assert verdict["provider_request_id"] is None

    @pytest.mark.parametrize("damage", ["sealed = '\\x00'", "sealed = substring(sealed FROM 1 FOR 20)"])
    async def test_key_that_cannot_be_unsealed_is_no_verdict_on_the_key(
        self, tenant: Tenant, owner: AsyncEngine, fake_anthropic: FakeAnthropic, damage: str
    ) -> None:
        path, key = await saved(tenant)
        await change(
            owner,
            f"UPDATE sealed_secret SET {damage} WHERE credential_id = :id",
            id=path.rpartition("/")[2],
        )

        check = (await tenant.post(f"{path}/validations")).json()

        assert (check["status"], check["reason"]) == ("indeterminate", "secret_store_unavailable")
        assert (await verdict_on(tenant, path))["status"] == "valid"
        assert len(fake_anthropic.requests_of(key)) == 1

    async def test_check_whose_instance_died_ends_as_interrupted(
        self, tenant: Tenant, services: Services, owner: AsyncEngine, thinking_provider: FakeAnthropic
    ) -> None:
        path, key = await saved(tenant)
        thinking_provider.behave(key, "slow")
        asked = await tenant.post(f"{path}/validations", headers={"Prefer": "respond-async"})
        await make_due(owner, tenant.organization)

        await services[Reconciler].run()

        check = (await tenant.get(f"{path}/validations")).json()["data"][0]
        assert check["id"] == asked.json()["id"]
        assert (check["status"], check["reason"]) == ("indeterminate", "interrupted")
        verdict = await verdict_on(tenant, path)
        assert (verdict["status"], verdict["latest"]["reason"]) == ("valid", "interrupted")

    async def test_verdict_that_comes_after_the_end_changes_nothing(
        self, tenant: Tenant, services: Services, owner: AsyncEngine, thinking_provider: FakeAnthropic
    ) -> None:
        response = await tenant.create("slow", headers={"Prefer": "respond-async"})
        await make_due(owner, tenant.organization)
        await services[Reconciler].run()
        interrupted = await verdict_on(tenant, response.headers["Location"])

        thinking_provider.release.set()
        await services[ValidationRunner].close()

        assert interrupted["reason"] == "interrupted"
        assert await verdict_on(tenant, response.headers["Location"]) == interrupted

    async def test_after_an_interrupted_check_another_one_can_be_asked_for(
        self, tenant: Tenant, services: Services, owner: AsyncEngine, thinking_provider: FakeAnthropic
    ) -> None:
        path, key = await saved(tenant)
        thinking_provider.behave(key, "slow")
        await tenant.post(f"{path}/validations", headers={"Prefer": "respond-async"})
        await make_due(owner, tenant.organization)
        await services[Reconciler].run()
        thinking_provider.behave(key, "valid")

        check = await tenant.post(f"{path}/validations")

        assert check.json()["status"] == "valid"
        queued = "SELECT id FROM job_queue WHERE organization_id = :organization AND kind <> 'revalidate'"
        await until(lambda: fetch(owner, queued, organization=tenant.organization), lambda found: found == [])
