"""Ends of keys: disabled ones can come back, destroyed and deleted ones cannot."""

from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from tests.api.rotating import (
    actions,
    let_time_pass,
    listed,
    refusal,
    rotated,
    saved,
    secrets_kept,
    seen,
    version_states,
)
from tests.conftest import MakeTenant, Tenant
from tests.rows import fetch


class TestDisable:
    async def test_keeps_the_key_and_says_so(self, tenant: Tenant, owner: AsyncEngine) -> None:
        path = await saved(tenant)

        response = await tenant.post(f"{path}/disable")

        assert (response.status_code, response.json()["state"]) == (200, "disabled")
        assert response.headers["ETag"] == (await tenant.get(path)).headers["ETag"]
        assert await secrets_kept(owner, tenant) == 1
        assert await listed(tenant, state="disabled") == [path.rpartition("/")[2]]
        assert await listed(tenant, state="active") == []

    async def test_and_enable_undo_each_other(self, tenant: Tenant) -> None:
        path = await saved(tenant)

        await tenant.post(f"{path}/disable")
        response = await tenant.post(f"{path}/enable")

        assert (response.status_code, response.json()["state"]) == (200, "active")
        assert (await actions(tenant))[-2:] == ["credential.disabled", "credential.enabled"]

    @pytest.mark.parametrize("verb", ["disable", "enable"])
    async def test_twice_changes_nothing_more(self, tenant: Tenant, verb: str) -> None:
        path = await saved(tenant)
        first = await tenant.post(f"{path}/{verb}")

        again = await tenant.post(f"{path}/{verb}")

        assert again.json() == first.json()
        assert again.headers["ETag"] == first.headers["ETag"]
        assert (await actions(tenant)).count(f"credential.{verb}d") == (verb == "disable")

    async def test_has_enable_check_the_key_soon(self, tenant: Tenant, owner: AsyncEngine) -> None:
        path = await saved(tenant)
        await tenant.post(f"{path}/disable")

        await tenant.post(f"{path}/enable")

        due = (
            "SELECT due_at <= now() AS due FROM job_queue WHERE organization_id = :o AND kind = 'revalidate'"
        )
        assert await fetch(owner, due, o=tenant.organization) == [{"due": True}]


class TestDestroyVersion:
    async def test_previous_one_is_gone_for_good(self, tenant: Tenant, owner: AsyncEngine) -> None:
        path = await saved(tenant)
        await rotated(tenant, path)

        response = await tenant.post(f"{path}/versions/1/destroy")

        assert (response.status_code, response.json()["previous"]) == (200, None)
        assert await version_states(tenant, path) == {1: "destroyed", 2: "active"}
        assert await secrets_kept(owner, tenant) == 1
        (version,) = (v for v in (await seen(tenant, f"{path}/versions"))["data"] if v["key_version"] == 1)
        assert version["destroyed_at"] is not None
        assert (await actions(tenant))[-1] == "version.destroyed"

    async def test_rejected_one_too(self, tenant: Tenant, owner: AsyncEngine) -> None:
        path = await saved(tenant)
        await rotated(tenant, path, "invalid")

        await tenant.post(f"{path}/versions/2/destroy")

        assert await version_states(tenant, path) == {1: "active", 2: "destroyed"}
        assert await secrets_kept(owner, tenant) == 1

    async def test_second_time_is_no_error(self, tenant: Tenant) -> None:
        path = await saved(tenant)
        await rotated(tenant, path)
        first = await tenant.post(f"{path}/versions/1/destroy")

        again = await tenant.post(f"{path}/versions/1/destroy")

        assert (again.status_code, again.json()) == (200, first.json())

    async def test_leaves_an_older_one_to_roll_back_to(self, tenant: Tenant) -> None:
        path = await saved(tenant)
        await rotated(tenant, path)
        await rotated(tenant, path)

        response = await tenant.post(f"{path}/versions/2/destroy")

        assert response.json()["previous"]["key_version"] == 1
        assert (await tenant.post(f"{path}/rollback")).json()["key_version"] == 1

    async def test_active_one_is_refused(self, tenant: Tenant) -> None:
        path = await saved(tenant)

        assert refusal(await tenant.post(f"{path}/versions/1/destroy")) == (409, "version_in_use")

    async def test_pending_one_never_goes_into_use(
        self, tenant: Tenant, owner: AsyncEngine, services: Services
    ) -> None:
        path = await saved(tenant)
        rotation = await rotated(tenant, path, "overloaded")

        response = await tenant.post(f"{path}/versions/2/destroy")
        await let_time_pass(owner, services, tenant)

        assert (response.status_code, response.json()["key_version"]) == (200, 1)
        assert await version_states(tenant, path) == {1: "active", 2: "destroyed"}
        assert (await seen(tenant, f"{path}/rotations/{rotation['id']}"))["state"] == "cancelled"
        assert await secrets_kept(owner, tenant) == 1
        assert (await rotated(tenant, path))["state"] == "activated"

    @pytest.mark.parametrize("number", ["0", "-1", "one", "99999999999"])
    async def test_number_that_is_none_is_not_found(self, tenant: Tenant, number: str) -> None:
        path = await saved(tenant)

        assert refusal(await tenant.post(f"{path}/versions/{number}/destroy")) == (404, "not_found")

    async def test_that_is_not_there_is_not_found(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        path, others = await saved(tenant), await saved(make_tenant())

        for url in (
            f"{path}/versions/7",
            f"{others}/versions/1",
            f"{tenant.credentials}/{uuid4()}/versions/1",
        ):
            assert refusal(await tenant.post(f"{url}/destroy")) == (404, "not_found")
