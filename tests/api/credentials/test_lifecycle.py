"""Tests of disabling and enabling credentials and of destroying key versions."""

from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from tests.support.database.rows import fetch
from tests.support.requests.rotation import (
    audit_actions,
    count_stored_secrets,
    create_credential,
    get_json,
    list_credential_ids,
    rotate_credential,
    run_due_jobs,
    status_and_code,
    version_states,
)
from tests.support.tenant import MakeTenant, Tenant


class TestDisable:
    async def test_keeps_the_key_and_shows_the_state(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        path = await create_credential(tenant)

        response = await tenant.post(f"{path}/disable")

        assert (response.status_code, response.json()["state"]) == (200, "disabled")
        assert response.headers["ETag"] == (await tenant.get(path)).headers["ETag"]
        assert await count_stored_secrets(superuser, tenant) == 1
        assert await list_credential_ids(tenant, state="disabled") == [path.rpartition("/")[2]]
        assert await list_credential_ids(tenant, state="active") == []

    async def test_enable_reverts_disable(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)

        await tenant.post(f"{path}/disable")
        response = await tenant.post(f"{path}/enable")

        assert (response.status_code, response.json()["state"]) == (200, "active")
        assert (await audit_actions(tenant))[-2:] == ["credential.disabled", "credential.enabled"]

    @pytest.mark.parametrize("verb", ["disable", "enable"])
    async def test_repeating_changes_nothing(self, tenant: Tenant, verb: str) -> None:
        path = await create_credential(tenant)
        first = await tenant.post(f"{path}/{verb}")

        again = await tenant.post(f"{path}/{verb}")

        assert again.json() == first.json()
        assert again.headers["ETag"] == first.headers["ETag"]
        assert (await audit_actions(tenant)).count(f"credential.{verb}d") == (verb == "disable")

    async def test_enable_schedules_a_validation(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        path = await create_credential(tenant)
        await tenant.post(f"{path}/disable")

        await tenant.post(f"{path}/enable")

        due = (
            "SELECT due_at <= now() AS due FROM job_queue WHERE organization_id = :o AND kind = 'revalidate'"
        )
        assert await fetch(superuser, due, o=tenant.organization) == [{"due": True}]


class TestDestroyVersion:
    async def test_destroys_the_previous_version(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        path = await create_credential(tenant)
        await rotate_credential(tenant, path)

        response = await tenant.post(f"{path}/versions/1/destroy")

        assert (response.status_code, response.json()["previous"]) == (200, None)
        assert await version_states(tenant, path) == {1: "destroyed", 2: "active"}
        assert await count_stored_secrets(superuser, tenant) == 1
        (version,) = (
            v for v in (await get_json(tenant, f"{path}/versions"))["data"] if v["key_version"] == 1
        )
        assert version["destroyed_at"] is not None
        assert (await audit_actions(tenant))[-1] == "version.destroyed"

    async def test_destroys_a_rejected_version(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        path = await create_credential(tenant)
        await rotate_credential(tenant, path, "invalid")

        await tenant.post(f"{path}/versions/2/destroy")

        assert await version_states(tenant, path) == {1: "active", 2: "destroyed"}
        assert await count_stored_secrets(superuser, tenant) == 1

    async def test_repeating_returns_the_same_response(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)
        await rotate_credential(tenant, path)
        first = await tenant.post(f"{path}/versions/1/destroy")

        again = await tenant.post(f"{path}/versions/1/destroy")

        assert (again.status_code, again.json()) == (200, first.json())

    async def test_makes_an_older_version_the_rollback_target(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)
        await rotate_credential(tenant, path)
        await rotate_credential(tenant, path)

        response = await tenant.post(f"{path}/versions/2/destroy")

        assert response.json()["previous"]["key_version"] == 1
        assert (await tenant.post(f"{path}/rollback")).json()["key_version"] == 1

    async def test_rejects_the_active_version(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)

        assert status_and_code(await tenant.post(f"{path}/versions/1/destroy")) == (409, "version_in_use")

    async def test_cancels_the_rotation_of_a_pending_version(
        self, tenant: Tenant, superuser: AsyncEngine, services: Services
    ) -> None:
        path = await create_credential(tenant)
        rotation = await rotate_credential(tenant, path, "overloaded")

        response = await tenant.post(f"{path}/versions/2/destroy")
        await run_due_jobs(superuser, services, tenant)

        assert (response.status_code, response.json()["key_version"]) == (200, 1)
        assert await version_states(tenant, path) == {1: "active", 2: "destroyed"}
        assert (await get_json(tenant, f"{path}/rotations/{rotation['id']}"))["state"] == "cancelled"
        assert await count_stored_secrets(superuser, tenant) == 1
        assert (await rotate_credential(tenant, path))["state"] == "activated"

    @pytest.mark.parametrize("number", ["0", "-1", "one", "99999999999"])
    async def test_invalid_version_number_is_not_found(self, tenant: Tenant, number: str) -> None:
        path = await create_credential(tenant)

        assert status_and_code(await tenant.post(f"{path}/versions/{number}/destroy")) == (404, "not_found")

    @pytest.mark.parametrize("number", ["01", "1.0", "+1", "1e0", "%201", "1_0", "\u0661"])
    async def test_only_the_usual_spelling_of_a_number_names_a_version(
        self, tenant: Tenant, number: str
    ) -> None:
        path = await create_credential(tenant)
        await rotate_credential(tenant, path)

        assert status_and_code(await tenant.post(f"{path}/versions/{number}/destroy")) == (404, "not_found")
        assert await version_states(tenant, path) == {1: "previous", 2: "active"}

    async def test_unknown_version_is_not_found(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        path, other_path = await create_credential(tenant), await create_credential(make_tenant())

        for url in (
            f"{path}/versions/7",
            f"{other_path}/versions/1",
            f"{tenant.credentials}/{uuid4()}/versions/1",
        ):
            assert status_and_code(await tenant.post(f"{url}/destroy")) == (404, "not_found")
