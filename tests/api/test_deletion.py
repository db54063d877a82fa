"""Deletion: every key is destroyed, the masked record stays, and nothing more can be done with it."""

from typing import Any
from uuid import uuid4

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from tests.api.rotating import (
    actions,
    let_time_pass,
    listed,
    put_in_force,
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


async def delete(tenant: Tenant, path: str, **query: Any) -> httpx.Response:
    return await tenant.request("DELETE", path, params=query)


class TestDelete:
    async def test_destroys_every_version_and_says_which(self, tenant: Tenant, owner: AsyncEngine) -> None:
        path = await saved(tenant)
        await rotated(tenant, path)

        response = await delete(tenant, path)

        receipt = response.json()
        assert (response.status_code, receipt["id"]) == (200, path.rpartition("/")[2])
        assert receipt["versions_destroyed"] == [1, 2]
        assert receipt["deleted_at"].endswith("Z")
        assert await secrets_kept(owner, tenant) == 0
        assert (await actions(tenant))[-1] == "credential.deleted"

    async def test_second_time_gives_the_same_receipt(
        self, tenant: Tenant, owner: AsyncEngine, services: Services
    ) -> None:
        path = await saved(tenant)
        first = await delete(tenant, path)
        await let_time_pass(owner, services, tenant)

        again = await delete(tenant, path)

        assert (again.status_code, again.json()) == (200, first.json())
        assert (await actions(tenant)).count("credential.deleted") == 1

    async def test_leaves_the_masked_record(self, tenant: Tenant) -> None:
        path = await saved(tenant)
        before = await seen(tenant, path)

        await delete(tenant, path)

        after = await seen(tenant, path)
        assert (after["state"], after["previous"]) == ("deleted", None)
        for name in ("id", "label", "key_hint", "fingerprint", "key_version", "validation", "created_by"):
            assert after[name] == before[name]
        assert await version_states(tenant, path) == {1: "destroyed"}
        assert (await seen(tenant, f"{path}/validations"))["data"]

    async def test_takes_it_off_the_list_unless_asked_for(self, tenant: Tenant) -> None:
        path, kept = await saved(tenant), await saved(tenant)

        await delete(tenant, path)

        assert await listed(tenant) == [kept.rpartition("/")[2]]
        assert await listed(tenant, state="deleted") == [path.rpartition("/")[2]]

    async def test_leaves_nothing_that_can_be_done_with_it(
        self, tenant: Tenant, fake_anthropic: FakeAnthropic
    ) -> None:
        path = await saved(tenant)
        await delete(tenant, path)
        asked = len(fake_anthropic.journal)

        answers = [
            await tenant.patch(path, json={"label": "x"}),
            await tenant.post(f"{path}/validations"),
            await rotate(tenant, path),
            await tenant.post(f"{path}/rollback"),
            await tenant.post(f"{path}/disable"),
            await tenant.post(f"{path}/enable"),
        ]

        assert [refusal(answer) for answer in answers] == [(409, "credential_deleted")] * len(answers)
        assert len(fake_anthropic.journal) == asked

    async def test_frees_the_key(self, tenant: Tenant) -> None:
        key = make_key()
        path = await saved(tenant, api_key=key)
        assert refusal(await tenant.create(api_key=key)) == (409, "duplicate_key")

        await delete(tenant, path)

        assert (await tenant.create(api_key=key)).status_code == 201

    async def test_cancels_what_is_on_its_way(
        self, tenant: Tenant, owner: AsyncEngine, services: Services, fake_anthropic: FakeAnthropic
    ) -> None:
        path, key = await saved(tenant), make_key("overloaded")
        rotation = await rotated(tenant, path, api_key=key)

        receipt = (await delete(tenant, path)).json()

        assert receipt["versions_destroyed"] == [1, 2]
        fake_anthropic.behave(key, "valid")
        await let_time_pass(owner, services, tenant)
        assert (await seen(tenant, f"{path}/rotations/{rotation['id']}"))["state"] == "cancelled"
        assert await secrets_kept(owner, tenant) == 0

    async def test_of_a_disabled_one_is_allowed(self, tenant: Tenant) -> None:
        path = await saved(tenant)
        await tenant.post(f"{path}/disable")

        assert (await delete(tenant, path)).status_code == 200

    async def test_of_what_is_not_there_is_not_found(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        others = await saved(make_tenant())

        for path in (f"{tenant.credentials}/{uuid4()}", others):
            assert refusal(await delete(tenant, path)) == (404, "not_found")

    async def test_needs_the_scope(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        path = await saved(tenant)
        viewer = make_tenant("billing-viewer", tenant.organization)

        assert refusal(await delete(viewer, path)) == (403, "insufficient_scope")
        for verb in ("disable", "enable", "versions/1/destroy"):
            assert (await viewer.post(f"{path}/{verb}")).status_code == 403
        assert (await seen(tenant, path))["state"] == "active"


class TestInForce:
    async def test_is_not_deleted(self, tenant: Tenant, owner: AsyncEngine) -> None:
        path = await saved(tenant)
        await put_in_force(tenant, path)

        for query in ({}, {"force": "false"}):
            assert refusal(await delete(tenant, path, **query)) == (409, "credential_in_use")

        assert (await seen(tenant, path))["state"] == "active"
        assert await secrets_kept(owner, tenant) == 1

    async def test_is_deleted_by_force_and_readiness_says_so(
        self, tenant: Tenant, owner: AsyncEngine
    ) -> None:
        path = await saved(tenant)
        await put_in_force(tenant, path)

        response = await delete(tenant, path, force="true")

        assert response.status_code == 200
        readiness = await seen(tenant, f"{tenant.path}/readiness")
        assert (readiness["ready"], readiness["blockers"]) == (False, ["credential_deleted"])
        assert readiness["mode"] == "byo"
        assert await secrets_kept(owner, tenant) == 0

    async def test_no_longer_can_be_deleted(self, tenant: Tenant) -> None:
        path = await saved(tenant)
        await put_in_force(tenant, path)
        await tenant.request("PUT", f"{tenant.path}/usage-mode", json={"mode": "managed"})

        assert (await delete(tenant, path)).status_code == 200

    async def test_is_another_one(self, tenant: Tenant) -> None:
        await put_in_force(tenant, await saved(tenant))

        assert (await delete(tenant, await saved(tenant))).status_code == 200
