"""Back to the key before, with its number and destination, while it is kept."""

from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from tests.api.rotating import (
    actions,
    let_time_pass,
    refusal,
    rotated,
    saved,
    secrets_kept,
    seen,
    version_states,
)
from tests.conftest import MakeTenant, Tenant
from tests.fake_anthropic import FakeAnthropic, make_key
from tests.rows import change


class TestRollback:
    async def test_puts_the_key_before_back_under_its_number(
        self, tenant: Tenant, fake_anthropic: FakeAnthropic
    ) -> None:
        key = make_key()
        path = await saved(tenant, api_key=key, workspace_id="wrkspc_1")
        before = await seen(tenant, path)
        await rotated(tenant, path, workspace_id="wrkspc_2")

        response = await tenant.post(f"{path}/rollback")

        after = response.json()
        assert response.status_code == 200
        for name in ("key_version", "key_hint", "fingerprint", "messages_url", "workspace_id", "validation"):
            assert after[name] == before[name]
        assert after["previous"]["key_version"] == 2
        assert after == await seen(tenant, path)
        assert response.headers["ETag"] == (await tenant.get(path)).headers["ETag"]
        await tenant.post(f"{path}/validations")
        assert len(fake_anthropic.requests_of(key)) == 2

    async def test_twice_is_where_it_began(self, tenant: Tenant) -> None:
        path = await saved(tenant)
        await rotated(tenant, path)

        for expected in (1, 2, 1):
            assert (await tenant.post(f"{path}/rollback")).json()["key_version"] == expected

        assert await version_states(tenant, path) == {1: "active", 2: "previous"}

    async def test_keeps_the_other_key_for_its_time_only(
        self, tenant: Tenant, owner: AsyncEngine, services: Services
    ) -> None:
        path = await saved(tenant)
        await rotated(tenant, path)
        await tenant.post(f"{path}/rollback")
        assert await secrets_kept(owner, tenant) == 2

        await let_time_pass(owner, services, tenant)

        assert await version_states(tenant, path) == {1: "active", 2: "destroyed"}
        assert await secrets_kept(owner, tenant) == 1

    async def test_numbers_are_never_reused(self, tenant: Tenant) -> None:
        path = await saved(tenant)
        await rotated(tenant, path)
        await tenant.post(f"{path}/rollback")

        rotation = await rotated(tenant, path)

        assert rotation["key_version"] == 3
        credential = await seen(tenant, path)
        assert (credential["key_version"], credential["previous"]["key_version"]) == (3, 1)

    async def test_is_on_the_trail(self, tenant: Tenant) -> None:
        path = await saved(tenant)
        await rotated(tenant, path)

        await tenant.post(f"{path}/rollback")

        assert (await actions(tenant))[-1] == "credential.rolled_back"


class TestRefusal:
    async def test_of_a_credential_that_was_never_rotated(self, tenant: Tenant) -> None:
        path = await saved(tenant)

        assert refusal(await tenant.post(f"{path}/rollback")) == (409, "no_previous_version")

    @pytest.mark.parametrize("behaviour", ["invalid", "valid"])
    async def test_where_the_other_key_is_gone(self, tenant: Tenant, behaviour: str) -> None:
        path = await saved(tenant)
        await rotated(tenant, path, behaviour, destroy_previous="immediately")

        assert refusal(await tenant.post(f"{path}/rollback")) == (409, "no_previous_version")

    async def test_after_its_time_though_it_is_not_destroyed_yet(
        self, tenant: Tenant, owner: AsyncEngine
    ) -> None:
        path = await saved(tenant)
        await rotated(tenant, path)
        await change(
            owner,
            "UPDATE credential_version SET retires_at = now() WHERE organization_id = :o AND state = 'previous'",
            o=tenant.organization,
        )

        assert refusal(await tenant.post(f"{path}/rollback")) == (409, "no_previous_version")
        assert await version_states(tenant, path) == {1: "previous", 2: "active"}

    async def test_of_a_deleted_credential(self, tenant: Tenant) -> None:
        path = await saved(tenant)
        await rotated(tenant, path)
        await tenant.request("DELETE", path)

        assert refusal(await tenant.post(f"{path}/rollback")) == (409, "credential_deleted")

    async def test_of_what_is_not_there(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        others = await saved(make_tenant())

        for path in (f"{tenant.credentials}/{uuid4()}", others):
            assert refusal(await tenant.post(f"{path}/rollback")) == (404, "not_found")

    async def test_without_the_scope(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        path = await saved(tenant)
        viewer = make_tenant("billing-viewer", tenant.organization)

        assert refusal(await viewer.post(f"{path}/rollback")) == (403, "insufficient_scope")
