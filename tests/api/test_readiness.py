"""May provider-backed work start? Every blocker is named, and no mode stands in for the other."""

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from tests.api.rotating import let_time_pass, put_in_force, refusal, rotated, saved, seen
from tests.conftest import MakeTenant, MakeToken, Tenant
from tests.fake_anthropic import FakeAnthropic, make_key


async def readiness(tenant: Tenant) -> dict[str, Any]:
    return await seen(tenant, f"{tenant.path}/readiness")


async def blockers(tenant: Tenant) -> list[str]:
    answer = await readiness(tenant)
    assert answer["ready"] is (answer["blockers"] == [])
    found: list[str] = answer["blockers"]
    return found


class TestManaged:
    async def test_is_always_ready(self, tenant: Tenant) -> None:
        assert await readiness(tenant) == {
            "ready": True,
            "mode": "managed",
            "credential_id": None,
            "blockers": [],
        }

    async def test_is_ready_whatever_becomes_of_keys(self, tenant: Tenant) -> None:
        path = await saved(tenant, "invalid")
        await put_in_force(tenant, path)
        await tenant.request("PUT", f"{tenant.path}/usage-mode", json={"mode": "managed"})
        await tenant.request("DELETE", path)

        assert await blockers(tenant) == []


class TestByo:
    async def test_is_ready_with_a_valid_key(self, tenant: Tenant) -> None:
        path = await saved(tenant)
        await put_in_force(tenant, path)

        assert await readiness(tenant) == {
            "ready": True,
            "mode": "byo",
            "credential_id": path.rpartition("/")[2],
            "blockers": [],
        }

    async def test_needs_a_key(self, tenant: Tenant) -> None:
        await saved(tenant)  # valid, but nobody named it
        await put_in_force(tenant, None)

        assert await blockers(tenant) == ["credential_missing"]

    @pytest.mark.parametrize("behaviour", ["invalid", "overloaded", "forbidden"])
    async def test_needs_a_key_that_was_found_valid(self, tenant: Tenant, behaviour: str) -> None:
        await put_in_force(tenant, await saved(tenant, behaviour))

        assert await blockers(tenant) == ["credential_not_valid"]

    @pytest.mark.usefixtures("thinking_provider")
    async def test_does_not_wait_for_a_verdict(self, tenant: Tenant) -> None:
        path = await saved(tenant, "slow", headers={"Prefer": "respond-async"})
        await put_in_force(tenant, path)

        assert await blockers(tenant) == ["credential_not_valid"]

    async def test_stays_ready_when_a_later_check_cannot_tell(
        self, tenant: Tenant, fake_anthropic: FakeAnthropic
    ) -> None:
        key = make_key()
        path = await saved(tenant, api_key=key)
        await put_in_force(tenant, path)

        fake_anthropic.behave(key, "overloaded")
        await tenant.post(f"{path}/validations")

        assert await blockers(tenant) == []

    async def test_ends_and_comes_back_with_the_verdict(
        self, tenant: Tenant, fake_anthropic: FakeAnthropic
    ) -> None:
        key = make_key()
        path = await saved(tenant, api_key=key)
        await put_in_force(tenant, path)

        seen_blockers = []
        for behaviour in ("invalid", "valid"):
            fake_anthropic.behave(key, behaviour)
            await tenant.post(f"{path}/validations")
            seen_blockers.append(await blockers(tenant))

        assert seen_blockers == [["credential_not_valid"], []]

    @pytest.mark.parametrize(
        ("behaviour", "expected"),
        [("valid", ["credential_disabled"]), ("invalid", ["credential_disabled", "credential_not_valid"])],
    )
    async def test_names_everything_in_the_way(
        self, tenant: Tenant, behaviour: str, expected: list[str]
    ) -> None:
        path = await saved(tenant, behaviour)
        await put_in_force(tenant, path)

        await tenant.post(f"{path}/disable")
        assert sorted(await blockers(tenant)) == sorted(expected)
        await tenant.post(f"{path}/enable")

        assert "credential_disabled" not in await blockers(tenant)

    async def test_ends_with_a_deletion(self, tenant: Tenant) -> None:
        path = await saved(tenant)
        await put_in_force(tenant, path)

        await tenant.request("DELETE", path, params={"force": "true"})

        assert await blockers(tenant) == ["credential_deleted"]


class TestRotation:
    async def test_goes_on_while_a_new_key_is_undecided_or_refused(
        self, tenant: Tenant, owner: AsyncEngine, services: Services
    ) -> None:
        path = await saved(tenant)
        await put_in_force(tenant, path)

        await rotated(tenant, path, "invalid")
        assert await blockers(tenant) == []
        await rotated(tenant, path, "overloaded")
        await let_time_pass(owner, services, tenant)

        assert await blockers(tenant) == []

    async def test_goes_by_the_key_in_use(self, tenant: Tenant) -> None:
        path = await saved(tenant)
        await put_in_force(tenant, path)

        await rotated(tenant, path, "invalid", activate="immediately")
        after_rotation = await blockers(tenant)
        await tenant.post(f"{path}/rollback")

        assert (after_rotation, await blockers(tenant)) == (["credential_not_valid"], [])


class TestRequest:
    async def test_of_another_organization_is_not_found(
        self, tenant: Tenant, make_tenant: MakeTenant
    ) -> None:
        assert refusal(await make_tenant().get(f"{tenant.path}/readiness")) == (404, "not_found")

    async def test_needs_the_scope(self, tenant: Tenant, make_token: MakeToken) -> None:
        token = make_token("billing-viewer", tenant.organization, scopes={"credentials:read"})
        reader = Tenant(http=tenant.http, organization=tenant.organization, token=token)

        assert refusal(await reader.get(f"{tenant.path}/readiness")) == (403, "insufficient_scope")

    @pytest.mark.parametrize("role", ["billing-viewer", "service"])
    async def test_is_answered_to_whoever_starts_work(
        self, tenant: Tenant, make_token: MakeToken, role: str
    ) -> None:
        organization = "*" if role == "service" else tenant.organization
        asking = Tenant(
            http=tenant.http, organization=tenant.organization, token=make_token(role, organization)
        )

        assert (await readiness(asking))["ready"] is True
