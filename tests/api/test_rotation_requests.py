"""Rotations one after the other and all at once, in the background, cancelled, repeated, refused."""

import asyncio
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.validation.runner import ValidationRunner
from tests.api.rotating import (
    actions,
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
from tests.rows import change
from tests.waiting import until

AT_ONCE = {"Prefer": "respond-async"}


class TestInProgress:
    async def test_another_is_refused_until_it_is_decided(
        self, tenant: Tenant, fake_anthropic: FakeAnthropic, owner: AsyncEngine, services: Services
    ) -> None:
        path, key = await saved(tenant), make_key("overloaded")
        await rotated(tenant, path, api_key=key)

        assert refusal(await rotate(tenant, path)) == (409, "rotation_in_progress")
        assert refusal(await tenant.post(f"{path}/rollback")) == (409, "rotation_in_progress")
        fake_anthropic.behave(key, "valid")
        await let_time_pass(owner, services, tenant)

        assert (await rotated(tenant, path))["key_version"] == 3

    async def test_of_many_at_once_one_wins(self, tenant: Tenant, thinking_provider: FakeAnthropic) -> None:
        path = await saved(tenant)

        answers = await asyncio.gather(*(rotate(tenant, path, "slow", headers=AT_ONCE) for _ in range(8)))

        won = [answer.json() for answer in answers if answer.status_code == 201]
        lost = [refusal(answer) for answer in answers if answer.status_code != 201]
        assert len(won) == 1
        assert lost == [(409, "rotation_in_progress")] * 7
        thinking_provider.release.set()
        url = f"{path}/rotations/{won[0]['id']}"
        await until(lambda: seen(tenant, url), lambda rotation: rotation["state"] == "activated")
        assert (await seen(tenant, path))["key_version"] == won[0]["key_version"] == 2

    async def test_of_many_at_once_that_are_decided_quickly_none_fails_otherwise(
        self, tenant: Tenant
    ) -> None:
        path = await saved(tenant)

        answers = await asyncio.gather(*(rotate(tenant, path) for _ in range(8)))

        assert {(answer.status_code, answer.json().get("code")) for answer in answers} <= {
            (201, None),
            (409, "rotation_in_progress"),
        }
        states = await version_states(tenant, path)
        assert list(states.values()).count("active") == 1
        assert states[max(states)] == "active"


class TestAsync:
    async def test_answers_at_once_and_decides_later(
        self, tenant: Tenant, thinking_provider: FakeAnthropic
    ) -> None:
        path = await saved(tenant)

        response = await rotate(tenant, path, "slow", headers=AT_ONCE)

        assert response.headers["Preference-Applied"] == "respond-async"
        rotation = response.json()
        assert (rotation["state"], rotation["validation"]["status"]) == ("pending", "pending")
        thinking_provider.release.set()
        decided = await until(
            lambda: seen(tenant, response.headers["Location"]), lambda found: found["state"] != "pending"
        )
        assert decided["state"] == "activated"


class TestCancel:
    async def test_turns_a_pending_key_down_for_good(
        self, tenant: Tenant, owner: AsyncEngine, services: Services, fake_anthropic: FakeAnthropic
    ) -> None:
        path, key = await saved(tenant), make_key("overloaded")
        url = f"{path}/rotations/{(await rotated(tenant, path, api_key=key))['id']}"

        response = await tenant.request("DELETE", url)

        assert (response.status_code, response.json()["state"]) == (200, "cancelled")
        fake_anthropic.behave(key, "valid")
        await let_time_pass(owner, services, tenant)
        assert (await seen(tenant, url))["state"] == "cancelled"
        assert (await seen(tenant, path))["key_version"] == 1
        assert await secrets_kept(owner, tenant) == 1
        assert (await tenant.create(api_key=key)).status_code == 201
        assert "rotation.cancelled" in await actions(tenant)

    async def test_while_the_provider_thinks_holds(
        self, tenant: Tenant, services: Services, thinking_provider: FakeAnthropic
    ) -> None:
        path = await saved(tenant)
        url = (await rotate(tenant, path, "slow", headers=AT_ONCE)).headers["Location"]

        await tenant.request("DELETE", url)
        thinking_provider.release.set()
        await services[ValidationRunner].close()

        assert (await seen(tenant, url))["state"] == "cancelled"
        assert (await seen(tenant, path))["key_version"] == 1

    @pytest.mark.parametrize("behaviour", ["valid", "invalid"])
    async def test_comes_too_late_for_what_is_decided(self, tenant: Tenant, behaviour: str) -> None:
        path = await saved(tenant)
        rotation = await rotated(tenant, path, behaviour)

        response = await tenant.request("DELETE", f"{path}/rotations/{rotation['id']}")

        assert refusal(response) == (409, "rotation_not_pending")


class TestRequest:
    async def test_again_under_the_same_idempotency_key_rotates_once(
        self, tenant: Tenant, fake_anthropic: FakeAnthropic
    ) -> None:
        path, key = await saved(tenant), make_key()
        headers = {"Idempotency-Key": "once"}
        first = await rotate(tenant, path, api_key=key, headers=headers)

        again = await rotate(tenant, path, api_key=key, headers=headers)

        assert again.headers["Idempotency-Replayed"] == "true"
        assert (again.status_code, again.content) == (first.status_code, first.content)
        assert len(fake_anthropic.requests_of(key)) == 1
        assert (await seen(tenant, path))["key_version"] == 2

    @pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
    async def test_of_what_is_not_there_is_not_found(
        self, tenant: Tenant, make_tenant: MakeTenant, method: str
    ) -> None:
        path, others = await saved(tenant), await saved(make_tenant())
        rotation = (await rotated(tenant, path))["id"]
        urls = [f"{path}/rotations/{uuid4()}", f"{await saved(tenant)}/rotations/{rotation}"]
        if method == "POST":
            urls = [f"{tenant.credentials}/{uuid4()}/rotations", f"{others}/rotations"]

        for url in urls:
            response = await tenant.request(
                method, url, **({"json": {"api_key": make_key()}} if method == "POST" else {})
            )
            assert refusal(response) == (404, "not_found")

    async def test_needs_the_scope(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        path = await saved(tenant)
        rotation = await rotated(tenant, path)
        viewer = make_tenant("billing-viewer", tenant.organization)

        assert refusal(await rotate(viewer, path)) == (403, "insufficient_scope")
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
    async def test_that_is_none_is_refused(self, tenant: Tenant, fields: dict[str, str], code: str) -> None:
        path = await saved(tenant)

        assert refusal(await rotate(tenant, path, **fields)) == (422, code)
        assert await version_states(tenant, path) == {1: "active"}

    async def test_is_on_the_trail(self, tenant: Tenant) -> None:
        path = await saved(tenant)

        await rotated(tenant, path, destroy_previous="immediately")

        trail = await actions(tenant)
        assert trail[:3] == ["credential.created", "credential.validated", "rotation.started"]
        assert set(trail[3:]) == {"rotation.activated", "version.destroyed", "credential.validated"}

    async def test_counts_towards_the_limit(self, tenant: Tenant, owner: AsyncEngine) -> None:
        path = await saved(tenant)
        await change(
            owner, "UPDATE rate_counter SET requests = 1000 WHERE organization_id = :o", o=tenant.organization
        )
        await change(
            owner,
            "INSERT INTO rate_counter SELECT organization_id, kind, minute + interval '1 minute', 1000"
            " FROM rate_counter WHERE organization_id = :o",
            o=tenant.organization,
        )

        assert refusal(await rotate(tenant, path)) == (429, "rate_limited")
