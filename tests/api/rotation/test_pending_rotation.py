"""A pending rotation can be found again: in the credential, and in the conflict with another rotation."""

from datetime import datetime, timedelta

from tests.support.requests.rotation import create_credential, get_json, post_rotation, rotate_credential
from tests.support.tenant import Tenant


class TestPendingRotation:
    async def test_is_in_the_credential_and_in_lists(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)
        rotation = await rotate_credential(tenant, path, "overloaded")
        assert rotation["state"] == "pending"

        shown = (await get_json(tenant, path))["rotation"]
        (listed,) = (await get_json(tenant, tenant.credentials))["data"]

        assert shown == listed["rotation"]
        until = datetime.fromisoformat(shown.pop("retried_until"))
        assert until - datetime.fromisoformat(shown["created_at"]) == timedelta(hours=24)
        assert shown == {name: rotation[name] for name in shown}
        assert (shown["id"], shown["key_version"], shown["state"]) == (rotation["id"], 2, "pending")

    async def test_is_named_by_the_conflict(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)
        rotation = await rotate_credential(tenant, path, "overloaded")

        response = await post_rotation(tenant, path)

        assert (response.status_code, response.json()["code"]) == (409, "rotation_in_progress")
        assert response.json()["rotation_id"] == rotation["id"]

    async def test_is_named_by_the_conflict_with_a_rollback(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)
        rotation = await rotate_credential(tenant, path, "overloaded")

        response = await tenant.post(f"{path}/rollback")

        assert (response.status_code, response.json()["code"]) == (409, "rotation_in_progress")
        assert response.json()["rotation_id"] == rotation["id"]

    async def test_is_gone_after_it_was_cancelled(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)
        rotation = await rotate_credential(tenant, path, "overloaded")

        await tenant.request("DELETE", f"{path}/rotations/{rotation['id']}")

        assert (await get_json(tenant, path))["rotation"] is None

    async def test_is_absent_after_a_decided_rotation(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)
        await rotate_credential(tenant, path)
        await rotate_credential(tenant, path, "invalid")

        assert (await get_json(tenant, path))["rotation"] is None


class TestNextValidation:
    async def test_of_an_indeterminate_key_comes_within_minutes(self, tenant: Tenant) -> None:
        path = await create_credential(tenant, "overloaded")

        credential = await get_json(tenant, path)

        assert credential["next_validation_at"] > credential["validation"]["latest"]["checked_at"]

    async def test_is_null_for_a_disabled_key(self, tenant: Tenant) -> None:
        path = await create_credential(tenant, "overloaded")

        await tenant.post(f"{path}/disable")

        assert (await get_json(tenant, path))["next_validation_at"] is None
