"""Tests of deletion: every key is destroyed, the masked record stays and cannot be changed."""

from typing import Any
from uuid import uuid4

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from tests.support.provider.fake_anthropic import FakeAnthropic, make_key
from tests.support.requests.rotation import (
    audit_actions,
    count_stored_secrets,
    create_credential,
    get_json,
    list_credential_ids,
    post_rotation,
    rotate_credential,
    run_due_jobs,
    status_and_code,
    switch_to_byo,
    version_states,
)
from tests.support.tenant import MakeTenant, Tenant


async def delete(tenant: Tenant, path: str, **query: Any) -> httpx.Response:
    return await tenant.request("DELETE", path, params=query)


class TestDelete:
    async def test_destroys_every_version_and_lists_them(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        path = await create_credential(tenant)
        await rotate_credential(tenant, path)

        response = await delete(tenant, path)

        receipt = response.json()
        assert (response.status_code, receipt["id"]) == (200, path.rpartition("/")[2])
        assert receipt["versions_destroyed"] == [1, 2]
        assert receipt["deleted_at"].endswith("Z")
        assert await count_stored_secrets(superuser, tenant) == 0
        assert (await audit_actions(tenant))[-1] == "credential.deleted"

    async def test_repeating_returns_the_same_receipt(
        self, tenant: Tenant, superuser: AsyncEngine, services: Services
    ) -> None:
        path = await create_credential(tenant)
        first = await delete(tenant, path)
        await run_due_jobs(superuser, services, tenant)

        again = await delete(tenant, path)

        assert (again.status_code, again.json()) == (200, first.json())
        assert (await audit_actions(tenant)).count("credential.deleted") == 1

    async def test_keeps_the_masked_record(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)
        before = await get_json(tenant, path)

        await delete(tenant, path)

        after = await get_json(tenant, path)
        assert (after["state"], after["previous"]) == ("deleted", None)
        for name in ("id", "label", "key_hint", "fingerprint", "key_version", "validation", "created_by"):
            assert after[name] == before[name]
        assert await version_states(tenant, path) == {1: "destroyed"}
        assert (await get_json(tenant, f"{path}/validations"))["data"]

    async def test_is_listed_only_with_state_deleted(self, tenant: Tenant) -> None:
        path, other_credential = await create_credential(tenant), await create_credential(tenant)

        await delete(tenant, path)

        assert await list_credential_ids(tenant) == [other_credential.rpartition("/")[2]]
        assert await list_credential_ids(tenant, state="deleted") == [path.rpartition("/")[2]]

    async def test_rejects_all_further_changes(self, tenant: Tenant, fake_anthropic: FakeAnthropic) -> None:
        path = await create_credential(tenant)
        await delete(tenant, path)
        requests_before = len(fake_anthropic.journal)

        responses = [
            await tenant.patch(path, json={"label": "x"}),
            await tenant.post(f"{path}/validations"),
            await post_rotation(tenant, path),
            await tenant.post(f"{path}/rollback"),
            await tenant.post(f"{path}/disable"),
            await tenant.post(f"{path}/enable"),
        ]

        assert [status_and_code(response) for response in responses] == [(409, "credential_deleted")] * len(
            responses
        )
        assert len(fake_anthropic.journal) == requests_before

    async def test_releases_the_key(self, tenant: Tenant) -> None:
        key = make_key()
        path = await create_credential(tenant, api_key=key)
        assert status_and_code(await tenant.create(api_key=key)) == (409, "duplicate_key")

        await delete(tenant, path)

        assert (await tenant.create(api_key=key)).status_code == 201

    async def test_cancels_a_pending_rotation(
        self, tenant: Tenant, superuser: AsyncEngine, services: Services, fake_anthropic: FakeAnthropic
    ) -> None:
        path, key = await create_credential(tenant), make_key("overloaded")
        rotation = await rotate_credential(tenant, path, api_key=key)

        receipt = (await delete(tenant, path)).json()

        assert receipt["versions_destroyed"] == [1, 2]
        fake_anthropic.behave(key, "valid")
        await run_due_jobs(superuser, services, tenant)
        assert (await get_json(tenant, f"{path}/rotations/{rotation['id']}"))["state"] == "cancelled"
        assert await count_stored_secrets(superuser, tenant) == 0

    async def test_deletes_a_disabled_credential(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)
        await tenant.post(f"{path}/disable")

        assert (await delete(tenant, path)).status_code == 200

    async def test_unknown_credential_is_not_found(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        other_path = await create_credential(make_tenant())

        for path in (f"{tenant.credentials}/{uuid4()}", other_path):
            assert status_and_code(await delete(tenant, path)) == (404, "not_found")

    async def test_requires_the_scope(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        path = await create_credential(tenant)
        viewer = make_tenant("billing-viewer", tenant.organization)

        assert status_and_code(await delete(viewer, path)) == (403, "insufficient_scope")
        for verb in ("disable", "enable", "versions/1/destroy"):
            assert (await viewer.post(f"{path}/{verb}")).status_code == 403
        assert (await get_json(tenant, path))["state"] == "active"


class TestDeleteActiveCredential:
    async def test_is_rejected_by_default(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        path = await create_credential(tenant)
        await switch_to_byo(tenant, path)

        for query in ({}, {"force": "false"}):
            assert status_and_code(await delete(tenant, path, **query)) == (409, "credential_in_use")

        assert (await get_json(tenant, path))["state"] == "active"
        assert await count_stored_secrets(superuser, tenant) == 1

    async def test_can_be_requested_and_readiness_reports_it(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        path = await create_credential(tenant)
        await switch_to_byo(tenant, path)

        response = await delete(tenant, path, force="true")

        assert response.status_code == 200
        readiness = await get_json(tenant, f"{tenant.path}/readiness")
        assert (readiness["ready"], readiness["blockers"]) == (False, ["credential_deleted"])
        assert readiness["mode"] == "byo"
        assert await count_stored_secrets(superuser, tenant) == 0

    async def test_is_accepted_after_a_switch_to_managed(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)
        await switch_to_byo(tenant, path)
        await tenant.request("PUT", f"{tenant.path}/usage-mode", json={"mode": "managed"})

        assert (await delete(tenant, path)).status_code == 200

    async def test_is_accepted_if_another_credential_is_active(self, tenant: Tenant) -> None:
        await switch_to_byo(tenant, await create_credential(tenant))

        assert (await delete(tenant, await create_credential(tenant))).status_code == 200
