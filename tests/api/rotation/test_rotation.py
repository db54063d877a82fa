"""Tests of rotations: activation, destruction of the previous key, and rotation to a key that exists."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.composition.reconciler import Reconciler
from app.core.services import Services
from tests.support.provider.fake_anthropic import FakeAnthropic, make_key
from tests.support.requests.rotation import (
    backdate_rotations,
    count_stored_secrets,
    create_credential,
    get_json,
    post_rotation,
    rotate_credential,
    run_due_jobs,
    status_and_code,
    version_states,
)
from tests.support.tenant import MakeTenant, Tenant

RESPOND_ASYNC = {"Prefer": "respond-async"}


class TestActivateWhenValid:
    async def test_activates_a_valid_key_and_keeps_the_previous_one(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        path, key = await create_credential(tenant), make_key()

        response = await post_rotation(tenant, path, api_key=key)

        rotation = response.json()
        assert (response.status_code, rotation["state"], rotation["key_version"]) == (201, "activated", 2)
        assert (rotation["activate"], rotation["destroy_previous"]) == ("when_valid", "after_retention")
        assert rotation["validation"]["status"] == "valid"
        assert rotation["decided_at"] is not None
        assert await get_json(tenant, response.headers["Location"]) == rotation
        credential = await get_json(tenant, path)
        assert credential["key_hint"] == f"{key[:16]}...{key[-4:]}"
        assert credential["key_version"] == credential["validation"]["key_version"] == 2
        assert credential["previous"]["key_version"] == 1
        assert credential["rotated_at"] is not None
        assert await version_states(tenant, path) == {1: "previous", 2: "active"}
        assert await count_stored_secrets(superuser, tenant) == 2
        assert key not in response.text

    async def test_rejected_key_does_not_change_the_active_version(
        self, tenant: Tenant, superuser: AsyncEngine, services: Services
    ) -> None:
        path = await create_credential(tenant)
        before = await get_json(tenant, path)

        rotation = await rotate_credential(tenant, path, "invalid")

        assert (rotation["state"], rotation["validation"]["reason"]) == ("rejected", "invalid_key")
        after = await get_json(tenant, path)
        for name in ("key_version", "fingerprint", "key_hint", "validation", "previous", "rotated_at"):
            assert after[name] == before[name]
        await run_due_jobs(superuser, services, tenant)
        assert await count_stored_secrets(superuser, tenant) == 1
        assert await version_states(tenant, path) == {1: "active", 2: "rejected"}

    async def test_number_of_a_rejected_version_is_not_reused(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)
        await rotate_credential(tenant, path, "invalid")

        assert (await rotate_credential(tenant, path))["key_version"] == 3

    async def test_indeterminate_key_is_activated_when_it_becomes_valid(
        self, tenant: Tenant, superuser: AsyncEngine, services: Services, fake_anthropic: FakeAnthropic
    ) -> None:
        path, key = await create_credential(tenant), make_key("overloaded")
        rotation = await rotate_credential(tenant, path, api_key=key)
        assert (rotation["state"], rotation["decided_at"]) == ("pending", None)
        assert rotation["validation"]["status"] == "indeterminate"
        assert (await get_json(tenant, path))["key_version"] == 1
        assert await version_states(tenant, path) == {1: "active", 2: "pending"}

        await run_due_jobs(superuser, services, tenant)
        assert (await get_json(tenant, f"{path}/rotations/{rotation['id']}"))["state"] == "pending"
        fake_anthropic.behave(key, "valid")
        await run_due_jobs(superuser, services, tenant)

        assert (await get_json(tenant, f"{path}/rotations/{rotation['id']}"))["state"] == "activated"
        assert (await get_json(tenant, path))["key_version"] == 2

    async def test_indeterminate_key_is_rejected_when_it_becomes_invalid(
        self, tenant: Tenant, superuser: AsyncEngine, services: Services, fake_anthropic: FakeAnthropic
    ) -> None:
        path, key = await create_credential(tenant), make_key("overloaded")
        rotation = await rotate_credential(tenant, path, api_key=key)

        fake_anthropic.behave(key, "invalid")
        await run_due_jobs(superuser, services, tenant)

        assert (await get_json(tenant, f"{path}/rotations/{rotation['id']}"))["state"] == "rejected"
        assert (await get_json(tenant, path))["key_version"] == 1

    async def test_indeterminate_key_is_rejected_after_24_hours(
        self, tenant: Tenant, superuser: AsyncEngine, services: Services
    ) -> None:
        path = await create_credential(tenant)
        rotation = await rotate_credential(tenant, path, "overloaded")
        url = f"{path}/rotations/{rotation['id']}"
        await backdate_rotations(superuser, tenant, hours=23)
        await run_due_jobs(superuser, services, tenant)
        assert (await get_json(tenant, url))["state"] == "pending"

        await backdate_rotations(superuser, tenant, hours=2)
        await run_due_jobs(superuser, services, tenant)

        assert (await get_json(tenant, url))["state"] == "rejected"
        assert (await get_json(tenant, path))["key_version"] == 1
        assert await count_stored_secrets(superuser, tenant) == 1
        assert (await rotate_credential(tenant, path))["state"] == "activated"


class TestActivateImmediately:
    @pytest.mark.parametrize("behaviour", ["valid", "invalid", "overloaded"])
    async def test_activates_whatever_the_validation_result_is(self, tenant: Tenant, behaviour: str) -> None:
        path = await create_credential(tenant)

        rotation = await rotate_credential(tenant, path, behaviour, activate="immediately")

        assert rotation["state"] == "activated"
        credential = await get_json(tenant, path)
        assert (credential["key_version"], credential["previous"]["key_version"]) == (2, 1)
        assert credential["validation"]["status"] == rotation["validation"]["status"]

    @pytest.mark.usefixtures("slow_provider")
    async def test_activates_before_the_provider_responds(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)

        rotation = await rotate_credential(
            tenant, path, "slow", activate="immediately", headers=RESPOND_ASYNC
        )

        assert (rotation["state"], rotation["validation"]["status"]) == ("activated", "pending")
        assert (await get_json(tenant, path))["key_version"] == 2


class TestDestroyPrevious:
    async def test_destroys_the_previous_version_after_the_retention(
        self, tenant: Tenant, superuser: AsyncEngine, services: Services
    ) -> None:
        path = await create_credential(tenant)
        await rotate_credential(tenant, path)
        await services[Reconciler].run()
        assert await count_stored_secrets(superuser, tenant) == 2

        await run_due_jobs(superuser, services, tenant)

        assert await version_states(tenant, path) == {1: "destroyed", 2: "active"}
        assert (await get_json(tenant, path))["previous"] is None
        assert await count_stored_secrets(superuser, tenant) == 1
        assert status_and_code(await tenant.post(f"{path}/rollback")) == (409, "no_previous_version")

    @pytest.mark.parametrize("activate", ["when_valid", "immediately"])
    async def test_immediately_destroys_it_before_the_response(
        self, tenant: Tenant, superuser: AsyncEngine, activate: str
    ) -> None:
        path = await create_credential(tenant)

        await rotate_credential(tenant, path, activate=activate, destroy_previous="immediately")

        assert await version_states(tenant, path) == {1: "destroyed", 2: "active"}
        assert await count_stored_secrets(superuser, tenant) == 1
        assert (await get_json(tenant, path))["previous"] is None

    @pytest.mark.parametrize(
        ("behaviour", "reason"),
        [("invalid", "new_key_invalid"), ("overloaded", "new_key_indeterminate"), ("valid", None)],
    )
    async def test_says_why_it_is_kept(self, tenant: Tenant, behaviour: str, reason: str | None) -> None:
        path = await create_credential(tenant)

        rotation = await rotate_credential(
            tenant, path, behaviour, activate="immediately", destroy_previous="immediately"
        )

        assert rotation["previous_kept_reason"] == reason
        assert (await version_states(tenant, path))[1] == ("destroyed" if reason is None else "previous")

    @pytest.mark.usefixtures("slow_provider")
    async def test_keeps_it_while_the_new_key_is_not_validated(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)

        rotation = await rotate_credential(
            tenant,
            path,
            "slow",
            activate="immediately",
            destroy_previous="immediately",
            headers=RESPOND_ASYNC,
        )

        assert rotation["previous_kept_reason"] == "new_key_not_validated"
        assert (await version_states(tenant, path))[1] == "previous"

    async def test_after_retention_needs_no_reason(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)

        rotation = await rotate_credential(tenant, path, "invalid", activate="immediately")

        assert rotation["previous_kept_reason"] is None

    async def test_keeps_it_if_the_new_key_is_rejected(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)

        await rotate_credential(tenant, path, "invalid", destroy_previous="immediately")

        assert (await version_states(tenant, path))[1] == "active"

    async def test_releases_a_destroyed_key_for_other_credentials(self, tenant: Tenant) -> None:
        key = make_key()
        path = await create_credential(tenant, api_key=key)
        await rotate_credential(tenant, path)
        assert status_and_code(await tenant.create(api_key=key)) == (409, "duplicate_key")

        await tenant.post(f"{path}/versions/1/destroy")

        assert (await tenant.create(api_key=key)).status_code == 201


class TestSameKey:
    async def test_rotation_to_the_same_key_is_accepted(self, tenant: Tenant) -> None:
        key = make_key()
        path = await create_credential(tenant, api_key=key)

        rotation = await rotate_credential(tenant, path, api_key=key, workspace_id="wrkspc_2")

        credential = await get_json(tenant, path)
        assert (rotation["state"], credential["key_version"]) == ("activated", 2)
        assert credential["workspace_id"] == "wrkspc_2"
        await tenant.post(f"{path}/versions/1/destroy")
        assert status_and_code(await tenant.create(api_key=key)) == (409, "duplicate_key")

    async def test_key_of_another_credential_is_rejected_with_its_id(self, tenant: Tenant) -> None:
        key = make_key()
        other = await tenant.created(api_key=key)
        path = await create_credential(tenant)

        response = await post_rotation(tenant, path, api_key=key)

        assert status_and_code(response) == (409, "duplicate_key")
        assert response.json()["credential_id"] == other["id"]
        assert await version_states(tenant, path) == {1: "active"}

    async def test_key_of_another_organization_is_accepted(
        self, tenant: Tenant, make_tenant: MakeTenant
    ) -> None:
        key = make_key()
        await make_tenant().created(api_key=key)

        assert (await rotate_credential(tenant, await create_credential(tenant), api_key=key))[
            "state"
        ] == "activated"

    async def test_releases_a_rejected_key(self, tenant: Tenant) -> None:
        path, key = await create_credential(tenant), make_key("invalid")
        await rotate_credential(tenant, path, api_key=key)

        assert (await tenant.create(api_key=key)).status_code == 201
