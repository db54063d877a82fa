"""Tests of rotation requests: concurrent, asynchronous, cancelled, repeated and rejected ones."""

import asyncio
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.validation.runner import ValidationRunner
from tests.support.database.rows import change
from tests.support.polling import until
from tests.support.provider.fake_anthropic import FakeAnthropic, make_key
from tests.support.requests.rotation import (
    audit_actions,
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


class TestInProgress:
    async def test_rejects_another_rotation_until_it_is_decided(
        self, tenant: Tenant, fake_anthropic: FakeAnthropic, superuser: AsyncEngine, services: Services
    ) -> None:
        path, key = await create_credential(tenant), make_key("overloaded")
        await rotate_credential(tenant, path, api_key=key)

        assert status_and_code(await post_rotation(tenant, path)) == (409, "rotation_in_progress")
        assert status_and_code(await tenant.post(f"{path}/rollback")) == (409, "rotation_in_progress")
        fake_anthropic.behave(key, "valid")
        await run_due_jobs(superuser, services, tenant)

        assert (await rotate_credential(tenant, path))["key_version"] == 3

    async def test_accepts_one_of_several_concurrent_rotations(
        self, tenant: Tenant, slow_provider: FakeAnthropic
    ) -> None:
        path = await create_credential(tenant)

        responses = await asyncio.gather(
            *(post_rotation(tenant, path, "slow", headers=RESPOND_ASYNC) for _ in range(8))
        )

        accepted = [response.json() for response in responses if response.status_code == 201]
        rejected = [status_and_code(response) for response in responses if response.status_code != 201]
        assert len(accepted) == 1
        assert rejected == [(409, "rotation_in_progress")] * 7
        slow_provider.release.set()
        url = f"{path}/rotations/{accepted[0]['id']}"
        await until(lambda: get_json(tenant, url), lambda rotation: rotation["state"] == "activated")
        assert (await get_json(tenant, path))["key_version"] == accepted[0]["key_version"] == 2

    async def test_concurrent_rotations_succeed_or_are_in_progress(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)

        responses = await asyncio.gather(*(post_rotation(tenant, path) for _ in range(8)))

        assert {(response.status_code, response.json().get("code")) for response in responses} <= {
            (201, None),
            (409, "rotation_in_progress"),
        }
        states = await version_states(tenant, path)
        assert list(states.values()).count("active") == 1
        assert states[max(states)] == "active"


class TestAsync:
    async def test_responds_before_the_rotation_is_decided(
        self, tenant: Tenant, slow_provider: FakeAnthropic
    ) -> None:
        path = await create_credential(tenant)

        response = await post_rotation(tenant, path, "slow", headers=RESPOND_ASYNC)

        assert response.headers["Preference-Applied"] == "respond-async"
        rotation = response.json()
        assert (rotation["state"], rotation["validation"]["status"]) == ("pending", "pending")
        slow_provider.release.set()
        decided = await until(
            lambda: get_json(tenant, response.headers["Location"]), lambda found: found["state"] != "pending"
        )
        assert decided["state"] == "activated"


class TestCancel:
    async def test_cancels_a_pending_rotation_permanently(
        self, tenant: Tenant, superuser: AsyncEngine, services: Services, fake_anthropic: FakeAnthropic
    ) -> None:
        path, key = await create_credential(tenant), make_key("overloaded")
        url = f"{path}/rotations/{(await rotate_credential(tenant, path, api_key=key))['id']}"

        response = await tenant.request("DELETE", url)

        assert (response.status_code, response.json()["state"]) == (200, "cancelled")
        fake_anthropic.behave(key, "valid")
        await run_due_jobs(superuser, services, tenant)
        assert (await get_json(tenant, url))["state"] == "cancelled"
        assert (await get_json(tenant, path))["key_version"] == 1
        assert await count_stored_secrets(superuser, tenant) == 1
        assert (await tenant.create(api_key=key)).status_code == 201
        assert "rotation.cancelled" in await audit_actions(tenant)

    async def test_cancellation_during_the_validation_is_final(
        self, tenant: Tenant, services: Services, slow_provider: FakeAnthropic
    ) -> None:
        path = await create_credential(tenant)
        url = (await post_rotation(tenant, path, "slow", headers=RESPOND_ASYNC)).headers["Location"]

        await tenant.request("DELETE", url)
        slow_provider.release.set()
        await services[ValidationRunner].close()

        assert (await get_json(tenant, url))["state"] == "cancelled"
        assert (await get_json(tenant, path))["key_version"] == 1

    @pytest.mark.parametrize("behaviour", ["valid", "invalid"])
    async def test_rejects_cancelling_a_decided_rotation(self, tenant: Tenant, behaviour: str) -> None:
        path = await create_credential(tenant)
        rotation = await rotate_credential(tenant, path, behaviour)

        response = await tenant.request("DELETE", f"{path}/rotations/{rotation['id']}")

        assert status_and_code(response) == (409, "rotation_not_pending")


class TestRequest:
    async def test_same_idempotency_key_rotates_once(
        self, tenant: Tenant, fake_anthropic: FakeAnthropic
    ) -> None:
        path, key = await create_credential(tenant), make_key()
        headers = {"Idempotency-Key": "once"}
        first = await post_rotation(tenant, path, api_key=key, headers=headers)

        again = await post_rotation(tenant, path, api_key=key, headers=headers)

        assert again.headers["Idempotency-Replayed"] == "true"
        assert (again.status_code, again.content) == (first.status_code, first.content)
        assert len(fake_anthropic.requests_of(key)) == 1
        assert (await get_json(tenant, path))["key_version"] == 2

    @pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
    async def test_unknown_rotation_or_credential_is_not_found(
        self, tenant: Tenant, make_tenant: MakeTenant, method: str
    ) -> None:
        path, other_path = await create_credential(tenant), await create_credential(make_tenant())
        rotation = (await rotate_credential(tenant, path))["id"]
        urls = [f"{path}/rotations/{uuid4()}", f"{await create_credential(tenant)}/rotations/{rotation}"]
        if method == "POST":
            urls = [f"{tenant.credentials}/{uuid4()}/rotations", f"{other_path}/rotations"]

        for url in urls:
            response = await tenant.request(
                method, url, **({"json": {"api_key": make_key()}} if method == "POST" else {})
            )
            assert status_and_code(response) == (404, "not_found")

    async def test_requires_the_scope(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        path = await create_credential(tenant)
        rotation = await rotate_credential(tenant, path)
        viewer = make_tenant("billing-viewer", tenant.organization)

        assert status_and_code(await post_rotation(viewer, path)) == (403, "insufficient_scope")
        url = f"{path}/rotations/{rotation['id']}"
        assert (await viewer.request("DELETE", url)).status_code == 403
        assert (await viewer.get(url)).status_code == 200

    @pytest.mark.parametrize(
        ("fields", "code"),
        [
            ({"api_key": "sk-ant-admin01-0123456789abcdefghij"}, "admin_key"),
            ({"api_key": "gw-42"}, "key_malformed"),
            ({"activate": "never"}, "validation_failed"),
            ({"label": "x"}, "unknown_field"),
            ({"base_url": "http://x"}, "scheme_not_https"),
        ],
    )
    async def test_rejects_invalid_requests(self, tenant: Tenant, fields: dict[str, str], code: str) -> None:
        path = await create_credential(tenant)

        assert status_and_code(await post_rotation(tenant, path, **fields)) == (422, code)
        assert await version_states(tenant, path) == {1: "active"}

    async def test_is_in_the_audit_log(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)

        await rotate_credential(tenant, path, destroy_previous="immediately")

        events = await audit_actions(tenant)
        assert events[:3] == ["credential.created", "credential.validated", "rotation.started"]
        assert set(events[3:]) == {"rotation.activated", "version.destroyed", "credential.validated"}

    async def test_is_rate_limited(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        path = await create_credential(tenant)
        await change(
            superuser,
            "UPDATE rate_counter SET requests = 1000 WHERE organization_id = :o",
            o=tenant.organization,
        )
        await change(
            superuser,
            "WITH found AS MATERIALIZED (SELECT * FROM rate_counter WHERE organization_id = :o), next AS ("
            "INSERT INTO rate_counter SELECT organization_id, kind, minute + interval '1 minute', 1000 FROM found"
            " RETURNING 1) SELECT count(*) FROM next",
            o=tenant.organization,
        )

        assert status_and_code(await post_rotation(tenant, path)) == (429, "rate_limited")
