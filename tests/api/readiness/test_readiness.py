"""Readiness: all blockers are reported, and neither usage mode falls back to the other."""

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from tests.support.provider.fake_anthropic import FakeAnthropic, make_key
from tests.support.requests.rotation import (
    create_credential,
    get_json,
    rotate_credential,
    run_due_jobs,
    status_and_code,
    switch_to_byo,
)
from tests.support.tenant import MakeTenant, MakeToken, Tenant


async def readiness(tenant: Tenant) -> dict[str, Any]:
    return await get_json(tenant, f"{tenant.path}/readiness")


async def blockers(tenant: Tenant) -> list[str]:
    response = await readiness(tenant)
    assert response["ready"] is (response["blockers"] == [])
    found: list[str] = response["blockers"]
    return found


class TestManaged:
    async def test_is_always_ready(self, tenant: Tenant) -> None:
        assert await readiness(tenant) == {
            "ready": True,
            "mode": "managed",
            "credential_id": None,
            "blockers": [],
            "details": [],
        }

    async def test_does_not_depend_on_credentials(self, tenant: Tenant) -> None:
        path = await create_credential(tenant, "invalid")
        await switch_to_byo(tenant, path)
        await tenant.request("PUT", f"{tenant.path}/usage-mode", json={"mode": "managed"})
        await tenant.request("DELETE", path)

        assert await blockers(tenant) == []


class TestByo:
    async def test_is_ready_with_a_valid_key(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)
        await switch_to_byo(tenant, path)

        assert await readiness(tenant) == {
            "ready": True,
            "mode": "byo",
            "credential_id": path.rpartition("/")[2],
            "blockers": [],
            "details": [],
        }

    async def test_requires_a_credential(self, tenant: Tenant) -> None:
        await create_credential(tenant)  # valid, but the usage mode does not name it
        await switch_to_byo(tenant, None)

        assert await blockers(tenant) == ["credential_missing"]

    @pytest.mark.parametrize("behaviour", ["invalid", "overloaded", "forbidden"])
    async def test_requires_a_valid_key(self, tenant: Tenant, behaviour: str) -> None:
        await switch_to_byo(tenant, await create_credential(tenant, behaviour))

        assert await blockers(tenant) == ["credential_not_valid"]

    @pytest.mark.usefixtures("slow_provider")
    async def test_is_not_ready_while_a_validation_runs(self, tenant: Tenant) -> None:
        path = await create_credential(tenant, "slow", headers={"Prefer": "respond-async"})
        await switch_to_byo(tenant, path)

        assert await blockers(tenant) == ["credential_not_valid"]

    async def test_stays_ready_after_an_indefinite_validation(
        self, tenant: Tenant, fake_anthropic: FakeAnthropic
    ) -> None:
        key = make_key()
        path = await create_credential(tenant, api_key=key)
        await switch_to_byo(tenant, path)

        fake_anthropic.behave(key, "overloaded")
        await tenant.post(f"{path}/validations")

        assert await blockers(tenant) == []

    async def test_follows_the_last_definite_validation(
        self, tenant: Tenant, fake_anthropic: FakeAnthropic
    ) -> None:
        key = make_key()
        path = await create_credential(tenant, api_key=key)
        await switch_to_byo(tenant, path)

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
    async def test_reports_all_blockers(self, tenant: Tenant, behaviour: str, expected: list[str]) -> None:
        path = await create_credential(tenant, behaviour)
        await switch_to_byo(tenant, path)

        await tenant.post(f"{path}/disable")
        assert sorted(await blockers(tenant)) == sorted(expected)
        await tenant.post(f"{path}/enable")

        assert "credential_disabled" not in await blockers(tenant)

    async def test_is_not_ready_after_a_deletion(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)
        await switch_to_byo(tenant, path)

        await tenant.request("DELETE", path, params={"force": "true"})

        assert await blockers(tenant) == ["credential_deleted"]


class TestRotation:
    async def test_keeps_readiness_while_the_new_key_is_not_active(
        self, tenant: Tenant, superuser: AsyncEngine, services: Services
    ) -> None:
        path = await create_credential(tenant)
        await switch_to_byo(tenant, path)

        await rotate_credential(tenant, path, "invalid")
        assert await blockers(tenant) == []
        await rotate_credential(tenant, path, "overloaded")
        await run_due_jobs(superuser, services, tenant)

        assert await blockers(tenant) == []

    async def test_uses_the_active_key(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)
        await switch_to_byo(tenant, path)

        await rotate_credential(tenant, path, "invalid", activate="immediately")
        after_rotation = await blockers(tenant)
        await tenant.post(f"{path}/rollback")

        assert (after_rotation, await blockers(tenant)) == (["credential_not_valid"], [])


class TestRequest:
    async def test_responds_404_for_another_organization(
        self, tenant: Tenant, make_tenant: MakeTenant
    ) -> None:
        assert status_and_code(await make_tenant().get(f"{tenant.path}/readiness")) == (404, "not_found")

    async def test_requires_the_scope(self, tenant: Tenant, make_token: MakeToken) -> None:
        token = make_token("billing-viewer", tenant.organization, scopes={"credentials:read"})
        reader = Tenant(http=tenant.http, organization=tenant.organization, token=token)

        assert status_and_code(await reader.get(f"{tenant.path}/readiness")) == (403, "insufficient_scope")

    @pytest.mark.parametrize("role", ["billing-viewer", "service"])
    async def test_is_allowed_for_readers_and_services(
        self, tenant: Tenant, make_token: MakeToken, role: str
    ) -> None:
        organization = "*" if role == "service" else tenant.organization
        client = Tenant(
            http=tenant.http, organization=tenant.organization, token=make_token(role, organization)
        )

        assert (await readiness(client))["ready"] is True
