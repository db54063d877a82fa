"""Checks of a key on demand: what is asked, what stands, what is kept."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.conftest import MakeTenant, Tenant
from tests.fake_anthropic import FakeAnthropic, make_key
from tests.rows import change


async def saved(tenant: Tenant, behaviour: str = "valid") -> tuple[str, str]:
    """The path and key of a new credential."""
    key = make_key(behaviour)
    response = await tenant.create(api_key=key)
    return response.headers["Location"], key


async def verdict_on(tenant: Tenant, path: str) -> dict[str, Any]:
    verdict: dict[str, Any] = (await tenant.get(path)).json()["validation"]
    return verdict


class TestOnDemand:
    async def test_answers_the_verdict_and_shows_it_on_the_credential(self, tenant: Tenant) -> None:
        path, _ = await saved(tenant)

        response = await tenant.post(f"{path}/validations")

        assert response.status_code == 201
        check = response.json()
        assert (check["status"], check["reason"], check["key_version"]) == ("valid", "ok", 1)
        assert (check["trigger"], check["requested_by"]) == ("request", "billing-admin@example.com")
        verdict = await verdict_on(tenant, path)
        assert verdict["checked_at"] == check["checked_at"]

    async def test_keeps_the_providers_request_id(self, tenant: Tenant) -> None:
        path, _ = await saved(tenant)

        check = (await tenant.post(f"{path}/validations")).json()

        assert check["provider_request_id"].startswith("req_")
        assert (await verdict_on(tenant, path))["provider_request_id"] == check["provider_request_id"]

    async def test_answers_at_once_when_asked(self, tenant: Tenant, thinking_provider: FakeAnthropic) -> None:
        path, key = await saved(tenant)
        thinking_provider.behave(key, "slow")

        response = await tenant.post(f"{path}/validations", headers={"Prefer": "respond-async"})

        assert response.headers["Preference-Applied"] == "respond-async"
        assert (response.json()["status"], response.json()["checked_at"]) == ("pending", None)
        assert (await verdict_on(tenant, path))["status"] == "valid"

    async def test_of_what_is_not_there_is_not_found(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        path, _ = await saved(make_tenant())

        for credential_id in (uuid4(), path.rpartition("/")[2]):
            response = await tenant.post(f"{tenant.credentials}/{credential_id}/validations")
            assert (response.status_code, response.json()["code"]) == (404, "not_found")

    async def test_of_a_deleted_credential_is_a_conflict(self, tenant: Tenant, owner: AsyncEngine) -> None:
        path, _ = await saved(tenant)
        await change(
            owner,
            "UPDATE provider_credential SET state = 'deleted' WHERE id = :id",
            id=path.rpartition("/")[2],
        )

        response = await tenant.post(f"{path}/validations")

        assert (response.status_code, response.json()["code"]) == (409, "credential_deleted")

    async def test_needs_the_scope(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        path, _ = await saved(tenant)

        response = await make_tenant("billing-viewer", tenant.organization).post(f"{path}/validations")

        assert response.status_code == 403


class TestConcurrent:
    async def test_join_the_one_that_runs(self, tenant: Tenant, thinking_provider: FakeAnthropic) -> None:
        path, key = await saved(tenant)
        thinking_provider.behave(key, "slow")
        thinking_provider.arrived.clear()

        waiting = asyncio.create_task(tenant.post(f"{path}/validations"))
        await thinking_provider.arrived.wait()
        joined = await asyncio.gather(
            *(tenant.post(f"{path}/validations", headers={"Prefer": "respond-async"}) for _ in range(10))
        )
        thinking_provider.release.set()

        ids = {response.json()["id"] for response in (await waiting, *joined)}
        assert len(ids) == 1
        assert len(thinking_provider.requests_of(key)) == 2  # one for saving

    async def test_all_get_the_same_verdict(self, tenant: Tenant, thinking_provider: FakeAnthropic) -> None:
        path, key = await saved(tenant)
        thinking_provider.behave(key, "slow")
        thinking_provider.arrived.clear()

        waiting = [asyncio.create_task(tenant.post(f"{path}/validations")) for _ in range(4)]
        await thinking_provider.arrived.wait()
        thinking_provider.release.set()

        answers = [response.json() for response in await asyncio.gather(*waiting)]
        assert {answer["status"] for answer in answers} == {"valid"}
        assert len({answer["id"] for answer in answers}) == len(thinking_provider.requests_of(key)) - 1


class TestStandingVerdict:
    @pytest.mark.parametrize(("behaviour", "status"), [("valid", "valid"), ("invalid", "invalid")])
    async def test_outlives_an_attempt_that_could_not_tell(
        self, tenant: Tenant, fake_anthropic: FakeAnthropic, behaviour: str, status: str
    ) -> None:
        path, key = await saved(tenant, behaviour)
        before = await verdict_on(tenant, path)
        fake_anthropic.behave(key, "edge")

        check = (await tenant.post(f"{path}/validations")).json()

        after = await verdict_on(tenant, path)
        assert (check["status"], check["reason"]) == ("indeterminate", "edge_blocked")
        assert after["status"] == status
        assert after == before | {
            "latest": {name: check[name] for name in ("status", "reason", "checked_at")}
        }

    async def test_is_indeterminate_only_while_there_is_none(
        self, tenant: Tenant, fake_anthropic: FakeAnthropic
    ) -> None:
        path, key = await saved(tenant, "edge")
        before = await verdict_on(tenant, path)
        fake_anthropic.behave(key, "valid")

        await tenant.post(f"{path}/validations")

        assert (before["status"], before["reason"]) == ("indeterminate", "edge_blocked")
        assert (await verdict_on(tenant, path))["status"] == "valid"

    async def test_of_a_key_that_worked_and_is_refused_says_revoked(
        self, tenant: Tenant, fake_anthropic: FakeAnthropic
    ) -> None:
        path, key = await saved(tenant)
        fake_anthropic.behave(key, "invalid")

        await tenant.post(f"{path}/validations")

        verdict = await verdict_on(tenant, path)
        assert (verdict["status"], verdict["reason"]) == ("invalid", "revoked_or_disabled")
        assert verdict["latest"]["reason"] == "revoked_or_disabled"


class TestHistory:
    async def test_is_newest_first_and_starts_with_saving(self, tenant: Tenant) -> None:
        path, _ = await saved(tenant)
        asked = [(await tenant.post(f"{path}/validations")).json() for _ in range(2)]

        history = (await tenant.get(f"{path}/validations")).json()["data"]

        assert history[:2] == asked[::-1]
        assert [check["trigger"] for check in history] == ["request", "request", "save"]

    async def test_comes_in_pages(self, tenant: Tenant) -> None:
        path, _ = await saved(tenant)
        for _ in range(2):
            await tenant.post(f"{path}/validations")
        whole = (await tenant.get(f"{path}/validations")).json()["data"]

        first = (await tenant.get(f"{path}/validations", params={"limit": 2})).json()
        last = (
            await tenant.get(f"{path}/validations", params={"limit": 2, "page": first["next_page"]})
        ).json()

        assert first["data"] + last["data"] == whole
        assert (first["has_more"], last["has_more"]) == (True, False)

    async def test_of_an_unknown_credential_is_not_found(self, tenant: Tenant) -> None:
        assert (await tenant.get(f"{tenant.credentials}/{uuid4()}/validations")).status_code == 404
