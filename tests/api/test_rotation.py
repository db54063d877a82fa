"""A new key in place of the one in use: checked first, switched at once, nothing lost on the way."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.composition.reconciler import Reconciler
from app.core.services import Services
from tests.api.rotating import (
    age_rotations,
    let_time_pass,
    refusal,
    rotate,
    rotated,
    saved,
    secrets_kept,
    seen,
    version_states,
)
from tests.conftest import MakeTenant, Tenant
from tests.fake_anthropic import FakeAnthropic, make_key

AT_ONCE = {"Prefer": "respond-async"}


class TestWhenValid:
    async def test_valid_key_goes_into_use_and_the_one_before_is_kept(
        self, tenant: Tenant, owner: AsyncEngine
    ) -> None:
        path, key = await saved(tenant), make_key()

        response = await rotate(tenant, path, api_key=key)

        rotation = response.json()
        assert (response.status_code, rotation["state"], rotation["key_version"]) == (201, "activated", 2)
        assert (rotation["activate"], rotation["destroy_previous"]) == ("when_valid", "after_retention")
        assert rotation["validation"]["status"] == "valid"
        assert rotation["decided_at"] is not None
        assert await seen(tenant, response.headers["Location"]) == rotation
        credential = await seen(tenant, path)
        assert credential["key_hint"] == f"{key[:16]}...{key[-4:]}"
        assert credential["key_version"] == credential["validation"]["key_version"] == 2
        assert credential["previous"]["key_version"] == 1
        assert credential["rotated_at"] is not None
        assert await version_states(tenant, path) == {1: "previous", 2: "active"}
        assert await secrets_kept(owner, tenant) == 2
        assert key not in response.text

    async def test_refused_key_leaves_the_one_in_use_untouched(
        self, tenant: Tenant, owner: AsyncEngine, services: Services
    ) -> None:
        path = await saved(tenant)
        before = await seen(tenant, path)

        rotation = await rotated(tenant, path, "invalid")

        assert (rotation["state"], rotation["validation"]["reason"]) == ("rejected", "invalid_key")
        after = await seen(tenant, path)
        for name in ("key_version", "fingerprint", "key_hint", "validation", "previous", "rotated_at"):
            assert after[name] == before[name]
        await let_time_pass(owner, services, tenant)
        assert await secrets_kept(owner, tenant) == 1
        assert await version_states(tenant, path) == {1: "active", 2: "rejected"}

    async def test_refused_number_is_not_given_again(self, tenant: Tenant) -> None:
        path = await saved(tenant)
        await rotated(tenant, path, "invalid")

        assert (await rotated(tenant, path))["key_version"] == 3

    async def test_undecided_key_waits_and_goes_into_use_once_it_is_valid(
        self, tenant: Tenant, owner: AsyncEngine, services: Services, fake_anthropic: FakeAnthropic
    ) -> None:
        path, key = await saved(tenant), make_key("overloaded")
        rotation = await rotated(tenant, path, api_key=key)
        assert (rotation["state"], rotation["decided_at"]) == ("pending", None)
        assert rotation["validation"]["status"] == "indeterminate"
        assert (await seen(tenant, path))["key_version"] == 1
        assert await version_states(tenant, path) == {1: "active", 2: "pending"}

        await let_time_pass(owner, services, tenant)
        assert (await seen(tenant, f"{path}/rotations/{rotation['id']}"))["state"] == "pending"
        fake_anthropic.behave(key, "valid")
        await let_time_pass(owner, services, tenant)

        assert (await seen(tenant, f"{path}/rotations/{rotation['id']}"))["state"] == "activated"
        assert (await seen(tenant, path))["key_version"] == 2

    async def test_undecided_key_is_refused_once_it_turns_out_invalid(
        self, tenant: Tenant, owner: AsyncEngine, services: Services, fake_anthropic: FakeAnthropic
    ) -> None:
        path, key = await saved(tenant), make_key("overloaded")
        rotation = await rotated(tenant, path, api_key=key)

        fake_anthropic.behave(key, "invalid")
        await let_time_pass(owner, services, tenant)

        assert (await seen(tenant, f"{path}/rotations/{rotation['id']}"))["state"] == "rejected"
        assert (await seen(tenant, path))["key_version"] == 1

    async def test_undecided_key_is_given_up_after_a_day(
        self, tenant: Tenant, owner: AsyncEngine, services: Services
    ) -> None:
        path = await saved(tenant)
        rotation = await rotated(tenant, path, "overloaded")
        url = f"{path}/rotations/{rotation['id']}"
        await age_rotations(owner, tenant, hours=23)
        await let_time_pass(owner, services, tenant)
        assert (await seen(tenant, url))["state"] == "pending"

        await age_rotations(owner, tenant, hours=2)
        await let_time_pass(owner, services, tenant)

        assert (await seen(tenant, url))["state"] == "rejected"
        assert (await seen(tenant, path))["key_version"] == 1
        assert await secrets_kept(owner, tenant) == 1
        assert (await rotated(tenant, path))["state"] == "activated"


class TestImmediately:
    @pytest.mark.parametrize("behaviour", ["valid", "invalid", "overloaded"])
    async def test_goes_into_use_whatever_the_verdict(self, tenant: Tenant, behaviour: str) -> None:
        path = await saved(tenant)

        rotation = await rotated(tenant, path, behaviour, activate="immediately")

        assert rotation["state"] == "activated"
        credential = await seen(tenant, path)
        assert (credential["key_version"], credential["previous"]["key_version"]) == (2, 1)
        assert credential["validation"]["status"] == rotation["validation"]["status"]

    @pytest.mark.usefixtures("thinking_provider")
    async def test_is_in_use_before_the_provider_has_answered(self, tenant: Tenant) -> None:
        path = await saved(tenant)

        rotation = await rotated(tenant, path, "slow", activate="immediately", headers=AT_ONCE)

        assert (rotation["state"], rotation["validation"]["status"]) == ("activated", "pending")
        assert (await seen(tenant, path))["key_version"] == 2


class TestKeyBefore:
    async def test_is_destroyed_when_its_time_is_over(
        self, tenant: Tenant, owner: AsyncEngine, services: Services
    ) -> None:
        path = await saved(tenant)
        await rotated(tenant, path)
        await services[Reconciler].run()
        assert await secrets_kept(owner, tenant) == 2

        await let_time_pass(owner, services, tenant)

        assert await version_states(tenant, path) == {1: "destroyed", 2: "active"}
        assert (await seen(tenant, path))["previous"] is None
        assert await secrets_kept(owner, tenant) == 1
        assert refusal(await tenant.post(f"{path}/rollback")) == (409, "no_previous_version")

    @pytest.mark.parametrize("activate", ["when_valid", "immediately"])
    async def test_that_leaked_is_gone_before_the_answer(
        self, tenant: Tenant, owner: AsyncEngine, activate: str
    ) -> None:
        path = await saved(tenant)

        await rotated(tenant, path, activate=activate, destroy_previous="immediately")

        assert await version_states(tenant, path) == {1: "destroyed", 2: "active"}
        assert await secrets_kept(owner, tenant) == 1
        assert (await seen(tenant, path))["previous"] is None

    async def test_that_leaked_stays_while_the_new_one_is_refused(self, tenant: Tenant) -> None:
        path = await saved(tenant)

        await rotated(tenant, path, "invalid", destroy_previous="immediately")

        assert (await version_states(tenant, path))[1] == "active"

    async def test_is_free_for_another_credential_once_destroyed(self, tenant: Tenant) -> None:
        key = make_key()
        path = await saved(tenant, api_key=key)
        await rotated(tenant, path)
        assert refusal(await tenant.create(api_key=key)) == (409, "duplicate_key")

        await tenant.post(f"{path}/versions/1/destroy")

        assert (await tenant.create(api_key=key)).status_code == 201


class TestSameKey:
    async def test_may_be_brought_again(self, tenant: Tenant) -> None:
        key = make_key()
        path = await saved(tenant, api_key=key)

        rotation = await rotated(tenant, path, api_key=key, workspace_id="wrkspc_2")

        credential = await seen(tenant, path)
        assert (rotation["state"], credential["key_version"]) == ("activated", 2)
        assert credential["workspace_id"] == "wrkspc_2"
        await tenant.post(f"{path}/versions/1/destroy")
        assert refusal(await tenant.create(api_key=key)) == (409, "duplicate_key")

    async def test_of_another_credential_is_a_duplicate_that_names_it(self, tenant: Tenant) -> None:
        key = make_key()
        other = await tenant.created(api_key=key)
        path = await saved(tenant)

        response = await rotate(tenant, path, api_key=key)

        assert refusal(response) == (409, "duplicate_key")
        assert response.json()["credential_id"] == other["id"]
        assert await version_states(tenant, path) == {1: "active"}

    async def test_of_another_organization_says_nothing(
        self, tenant: Tenant, make_tenant: MakeTenant
    ) -> None:
        key = make_key()
        await make_tenant().created(api_key=key)

        assert (await rotated(tenant, await saved(tenant), api_key=key))["state"] == "activated"

    async def test_that_was_refused_is_free_again(self, tenant: Tenant) -> None:
        path, key = await saved(tenant), make_key("invalid")
        await rotated(tenant, path, api_key=key)

        assert (await tenant.create(api_key=key)).status_code == 201
