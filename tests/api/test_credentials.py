"""Credentials through the door, like a client."""

import asyncio

from tests.conftest import MakeTenant, Tenant
from tests.fake_anthropic import make_key


class TestCreate:
    async def test_answers_masked_metadata_with_the_verdict(self, tenant: Tenant) -> None:
        key = make_key("valid")

        response = await tenant.create(api_key=key)

        assert response.status_code == 201
        credential = response.json()
        assert credential["validation"]["status"] == "valid"
        assert credential["key_hint"] == f"{key[:16]}...{key[-4:]}"
        assert key not in response.text

    async def test_same_key_in_the_organization_is_a_conflict_that_names_the_other(
        self, tenant: Tenant
    ) -> None:
        key = make_key()
        first = await tenant.created(api_key=key)

        response = await tenant.create(api_key=key)

        assert response.status_code == 409
        assert response.json()["code"] == "duplicate_key"
        assert response.json()["credential_id"] == first["id"]

    async def test_same_key_in_another_organization_is_no_conflict(self, make_tenant: MakeTenant) -> None:
        key = make_key()
        first = await make_tenant().created(api_key=key)

        second = await make_tenant().created(api_key=key)

        assert second["fingerprint"] != first["fingerprint"]

    async def test_twenty_identical_requests_at_once_create_one(self, tenant: Tenant) -> None:
        body = {"label": "Once", "api_key": make_key()}
        headers = {"Idempotency-Key": "only-once"}

        answers = await asyncio.gather(
            *(tenant.post(tenant.credentials, json=body, headers=headers) for _ in range(20))
        )

        assert {answer.status_code for answer in answers} <= {201, 409}
        assert len({a.json()["id"] for a in answers if a.status_code == 201}) == 1
        listed = await tenant.get(tenant.credentials)
        assert len(listed.json()["data"]) == 1
