"""Validation on request: the response, the stored stored, concurrency, and the list of validations."""

import asyncio
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.database.rows import change
from tests.support.provider.fake_anthropic import FakeAnthropic
from tests.support.requests.validation import save_credential, validation_of
from tests.support.tenant import MakeTenant, Tenant


class TestValidateCredential:
    async def test_returns_the_result_and_stores_it_on_the_credential(self, tenant: Tenant) -> None:
        path, _ = await save_credential(tenant)

        response = await tenant.post(f"{path}/validations")

        assert response.status_code == 201
        validation = response.json()
        assert (validation["status"], validation["reason"], validation["key_version"]) == ("valid", "ok", 1)
        assert (validation["trigger"], validation["requested_by"]) == ("request", "billing-admin@example.com")
        stored = await validation_of(tenant, path)
        assert stored["checked_at"] == validation["checked_at"]

    async def test_stores_the_request_id_of_the_provider(self, tenant: Tenant) -> None:
        path, _ = await save_credential(tenant)

        validation = (await tenant.post(f"{path}/validations")).json()

        assert validation["provider_request_id"].startswith("req_")
        assert (await validation_of(tenant, path))["provider_request_id"] == validation["provider_request_id"]

    async def test_respond_async_returns_immediately(
        self, tenant: Tenant, slow_provider: FakeAnthropic
    ) -> None:
        path, key = await save_credential(tenant)
        slow_provider.behave(key, "slow")

        response = await tenant.post(f"{path}/validations", headers={"Prefer": "respond-async"})

        assert response.headers["Preference-Applied"] == "respond-async"
        assert (response.json()["status"], response.json()["checked_at"]) == ("pending", None)
        assert (await validation_of(tenant, path))["status"] == "valid"

    async def test_unknown_credential_is_not_found(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        path, _ = await save_credential(make_tenant())

        for credential_id in (uuid4(), path.rpartition("/")[2]):
            response = await tenant.post(f"{tenant.credentials}/{credential_id}/validations")
            assert (response.status_code, response.json()["code"]) == (404, "not_found")

    async def test_deleted_credential_is_a_conflict(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        path, _ = await save_credential(tenant)
        await change(
            superuser,
            "UPDATE provider_credential SET state = 'deleted' WHERE id = :id",
            id=path.rpartition("/")[2],
        )

        response = await tenant.post(f"{path}/validations")

        assert (response.status_code, response.json()["code"]) == (409, "credential_deleted")

    async def test_requires_the_scope(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        path, _ = await save_credential(tenant)

        response = await make_tenant("billing-viewer", tenant.organization).post(f"{path}/validations")

        assert response.status_code == 403


class TestConcurrentRequests:
    async def test_join_the_running_validation(self, tenant: Tenant, slow_provider: FakeAnthropic) -> None:
        path, key = await save_credential(tenant)
        slow_provider.behave(key, "slow")
        slow_provider.arrived.clear()

        waiting = asyncio.create_task(tenant.post(f"{path}/validations"))
        await slow_provider.arrived.wait()
        joined = await asyncio.gather(
            *(tenant.post(f"{path}/validations", headers={"Prefer": "respond-async"}) for _ in range(10))
        )
        slow_provider.release.set()

        ids = {response.json()["id"] for response in (await waiting, *joined)}
        assert len(ids) == 1
        assert len(slow_provider.requests_of(key)) == 2  # one of them for saving

    async def test_all_get_the_same_result(self, tenant: Tenant, slow_provider: FakeAnthropic) -> None:
        path, key = await save_credential(tenant)
        slow_provider.behave(key, "slow")
        slow_provider.arrived.clear()

        waiting = [asyncio.create_task(tenant.post(f"{path}/validations")) for _ in range(4)]
        await slow_provider.arrived.wait()
        slow_provider.release.set()

        validations = [response.json() for response in await asyncio.gather(*waiting)]
        assert {validation["status"] for validation in validations} == {"valid"}
        assert (
            len({validation["id"] for validation in validations}) == len(slow_provider.requests_of(key)) - 1
        )


class TestLastDefiniteResult:
    @pytest.mark.parametrize(("behaviour", "status"), [("valid", "valid"), ("invalid", "invalid")])
    async def test_is_kept_after_an_indeterminate_result(
        self, tenant: Tenant, fake_anthropic: FakeAnthropic, behaviour: str, status: str
    ) -> None:
        path, key = await save_credential(tenant, behaviour)
        before = await validation_of(tenant, path)
        fake_anthropic.behave(key, "edge")

        validation = (await tenant.post(f"{path}/validations")).json()

        after = await validation_of(tenant, path)
        assert (validation["status"], validation["reason"]) == ("indeterminate", "edge_blocked")
        assert after["status"] == status
        assert after == before | {
            "latest": {name: validation[name] for name in ("status", "reason", "checked_at")}
        }

    async def test_is_indeterminate_until_the_first_definite_result(
        self, tenant: Tenant, fake_anthropic: FakeAnthropic
    ) -> None:
        path, key = await save_credential(tenant, "edge")
        before = await validation_of(tenant, path)
        fake_anthropic.behave(key, "valid")

        await tenant.post(f"{path}/validations")

        assert (before["status"], before["reason"]) == ("indeterminate", "edge_blocked")
        assert (await validation_of(tenant, path))["status"] == "valid"

    async def test_rejected_key_that_was_valid_counts_as_revoked(
        self, tenant: Tenant, fake_anthropic: FakeAnthropic
    ) -> None:
        path, key = await save_credential(tenant)
        fake_anthropic.behave(key, "invalid")

        await tenant.post(f"{path}/validations")

        stored = await validation_of(tenant, path)
        assert (stored["status"], stored["reason"]) == ("invalid", "revoked_or_disabled")
        assert stored["latest"]["reason"] == "revoked_or_disabled"


class TestListValidations:
    async def test_returns_newest_first_including_the_one_of_saving(self, tenant: Tenant) -> None:
        path, _ = await save_credential(tenant)
        requested = [(await tenant.post(f"{path}/validations")).json() for _ in range(2)]

        history = (await tenant.get(f"{path}/validations")).json()["data"]

        assert history[:2] == requested[::-1]
        assert [validation["trigger"] for validation in history] == ["request", "request", "save"]

    async def test_is_paginated(self, tenant: Tenant) -> None:
        path, _ = await save_credential(tenant)
        for _ in range(2):
            await tenant.post(f"{path}/validations")
        whole = (await tenant.get(f"{path}/validations")).json()["data"]

        first = (await tenant.get(f"{path}/validations", params={"limit": 2})).json()
        last = (
            await tenant.get(f"{path}/validations", params={"limit": 2, "page": first["next_page"]})
        ).json()

        assert first["data"] + last["data"] == whole
        assert (first["has_more"], last["has_more"]) == (True, False)

    async def test_unknown_credential_is_not_found(self, tenant: Tenant) -> None:
        assert (await tenant.get(f"{tenant.credentials}/{uuid4()}/validations")).status_code == 404
