"""Tests of rolling back to the previous version, with its number and endpoint, while it is kept."""

from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from tests.support.database.rows import change
from tests.support.provider.fake_anthropic import FakeAnthropic, make_key
from tests.support.requests.rotation import (
    audit_actions,
    count_stored_secrets,
    create_credential,
    get_json,
    rotate_credential,
    run_due_jobs,
    status_and_code,
    version_states,
)
from tests.support.tenant import MakeTenant, Tenant


class TestRollback:
    async def test_activates_the_previous_version_with_its_number(
        self, tenant: Tenant, fake_anthropic: FakeAnthropic
    ) -> None:
        key = make_key()
        path = await create_credential(tenant, api_key=key, workspace_id="wrkspc_1")
        before = await get_json(tenant, path)
        await rotate_credential(tenant, path, workspace_id="wrkspc_2")

        response = await tenant.post(f"{path}/rollback")

        after = response.json()
        assert response.status_code == 200
        for name in ("key_version", "key_hint", "fingerprint", "messages_url", "workspace_id", "validation"):
            assert after[name] == before[name]
        assert after["previous"]["key_version"] == 2
        assert after == await get_json(tenant, path)
        assert response.headers["ETag"] == (await tenant.get(path)).headers["ETag"]
        await tenant.post(f"{path}/validations")
        assert len(fake_anthropic.requests_of(key)) == 2

    async def test_repeating_it_alternates_between_two_versions(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)
        await rotate_credential(tenant, path)

        for expected in (1, 2, 1):
            assert (await tenant.post(f"{path}/rollback")).json()["key_version"] == expected

        assert await version_states(tenant, path) == {1: "active", 2: "previous"}

    async def test_destroys_the_replaced_version_after_the_retention(
        self, tenant: Tenant, superuser: AsyncEngine, services: Services
    ) -> None:
        path = await create_credential(tenant)
        await rotate_credential(tenant, path)
        await tenant.post(f"{path}/rollback")
        assert await count_stored_secrets(superuser, tenant) == 2

        await run_due_jobs(superuser, services, tenant)

        assert await version_states(tenant, path) == {1: "active", 2: "destroyed"}
        assert await count_stored_secrets(superuser, tenant) == 1

    async def test_version_numbers_are_never_reused(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)
        await rotate_credential(tenant, path)
        await tenant.post(f"{path}/rollback")

        rotation = await rotate_credential(tenant, path)

        assert rotation["key_version"] == 3
        credential = await get_json(tenant, path)
        assert (credential["key_version"], credential["previous"]["key_version"]) == (3, 1)

    async def test_is_in_the_audit_log(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)
        await rotate_credential(tenant, path)

        await tenant.post(f"{path}/rollback")

        assert (await audit_actions(tenant))[-1] == "credential.rolled_back"


class TestRejectedRollback:
    async def test_without_a_rotation(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)

        assert status_and_code(await tenant.post(f"{path}/rollback")) == (409, "no_previous_version")

    @pytest.mark.parametrize("behaviour", ["invalid", "valid"])
    async def test_without_a_kept_version(self, tenant: Tenant, behaviour: str) -> None:
        path = await create_credential(tenant)
        await rotate_credential(tenant, path, behaviour, destroy_previous="immediately")

        assert status_and_code(await tenant.post(f"{path}/rollback")) == (409, "no_previous_version")

    async def test_after_the_retention_before_the_destruction(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        path = await create_credential(tenant)
        await rotate_credential(tenant, path)
        await change(
            superuser,
            "UPDATE credential_version SET retires_at = now() WHERE organization_id = :o AND state = 'previous'",
            o=tenant.organization,
        )

        assert status_and_code(await tenant.post(f"{path}/rollback")) == (409, "no_previous_version")
        assert await version_states(tenant, path) == {1: "previous", 2: "active"}

    async def test_deleted_credential(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)
        await rotate_credential(tenant, path)
        await tenant.request("DELETE", path)

        assert status_and_code(await tenant.post(f"{path}/rollback")) == (409, "credential_deleted")

    async def test_unknown_credential(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        other_path = await create_credential(make_tenant())

        for path in (f"{tenant.credentials}/{uuid4()}", other_path):
            assert status_and_code(await tenant.post(f"{path}/rollback")) == (404, "not_found")

    async def test_without_the_scope(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        path = await create_credential(tenant)
        viewer = make_tenant("billing-viewer", tenant.organization)

        assert status_and_code(await viewer.post(f"{path}/rollback")) == (403, "insufficient_scope")
