"""Rate limits: credential writes and spend limit writes of an organization per minute."""

from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.clock import now
from app.settings.settings import Settings
from tests.support.database.rows import change, fetch
from tests.support.requests.rotation import status_and_code
from tests.support.requests.spend_limits import MONTHLY
from tests.support.tenant import MakeTenant, Tenant

PER_MINUTE = 60


async def _use_quota(
    superuser: AsyncEngine, tenant: Tenant, kind: str = "credential_writes", *, left: int = 0
) -> None:
    """Use the quota of this minute and of the next one, in case the minute ends during the test."""
    minute = now().replace(second=0, microsecond=0)
    for start in (minute, minute + timedelta(minutes=1)):
        await change(
            superuser,
            "INSERT INTO rate_counter VALUES (:organization, :kind, :start, :requests)",
            organization=tenant.organization,
            kind=kind,
            start=start,
            requests=PER_MINUTE - left,
        )


class TestCredentialWrites:
    async def test_allow_the_last_request_and_reject_the_next(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        await _use_quota(superuser, tenant, left=1)

        # One request is left in this minute and in the next one.
        responses = [(await tenant.create()).status_code for _ in range(3)]

        assert responses[0] == 201
        assert 429 in responses

    @pytest.mark.usefixtures("uncalled_provider")
    async def test_rejection_has_retry_after(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        await _use_quota(superuser, tenant)

        response = await tenant.create()

        assert (response.status_code, response.json()["code"]) == (429, "rate_limited")
        assert 1 <= int(response.headers["Retry-After"]) <= 60
        assert (await tenant.get(tenant.credentials)).json()["data"] == []

    async def test_validations_and_creations_share_the_quota(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        credential = await tenant.created()
        await change(superuser, "DELETE FROM rate_counter WHERE organization_id = :o", o=tenant.organization)
        await _use_quota(superuser, tenant)

        response = await tenant.post(f"{tenant.credentials}/{credential['id']}/validations")

        assert response.status_code == 429

    async def test_reading_and_renaming_are_not_limited(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        credential = await tenant.created()
        path = f"{tenant.credentials}/{credential['id']}"
        await change(superuser, "DELETE FROM rate_counter WHERE organization_id = :o", o=tenant.organization)
        await _use_quota(superuser, tenant)

        assert (await tenant.get(path)).status_code == 200
        assert (await tenant.patch(path, json={"label": "x"})).status_code == 200

    async def test_other_organizations_are_not_affected(
        self, tenant: Tenant, make_tenant: MakeTenant, superuser: AsyncEngine
    ) -> None:
        await _use_quota(superuser, tenant)

        assert (await make_tenant().create()).status_code == 201

    @pytest.mark.parametrize("body", [{"label": "x", "api_key": "nonsense"}, {"label": "x"}])
    async def test_invalid_requests_do_not_count(
        self, tenant: Tenant, superuser: AsyncEngine, body: dict[str, str]
    ) -> None:
        await tenant.post(tenant.credentials, json=body)

        counted = "SELECT requests FROM rate_counter WHERE organization_id = :organization"
        assert await fetch(superuser, counted, organization=tenant.organization) == []

    async def test_replayed_responses_do_not_count(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        body = {"label": "x", "api_key": "sk-ant-api03-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-valid"}
        headers = {"Idempotency-Key": "once"}
        await tenant.post(tenant.credentials, json=body, headers=headers)
        await change(superuser, "DELETE FROM rate_counter WHERE organization_id = :o", o=tenant.organization)
        await _use_quota(superuser, tenant)

        assert (await tenant.post(tenant.credentials, json=body, headers=headers)).status_code == 201


class TestSpendLimitWrites:
    async def test_allow_the_last_request_and_reject_the_next(
        self, tenant: Tenant, superuser: AsyncEngine, settings: Settings
    ) -> None:
        assert settings.rate_limits.spend_limit_writes == PER_MINUTE
        await _use_quota(superuser, tenant, "spend_limit_writes", left=1)

        # One request is left in this minute and in the next one.
        responses = [await tenant.post(f"{tenant.path}/spend-limits", json=MONTHLY) for _ in range(3)]

        assert responses[0].status_code == 201
        assert 429 in [response.status_code for response in responses]

    async def test_creating_updating_and_deleting_share_the_quota_and_reading_does_not_count(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        limits = f"{tenant.path}/spend-limits"
        limit = (await tenant.post(limits, json=MONTHLY)).json()
        path = f"{limits}/{limit['id']}"
        await change(superuser, "DELETE FROM rate_counter WHERE organization_id = :o", o=tenant.organization)
        await _use_quota(superuser, tenant, "spend_limit_writes")

        rejected = [
            await tenant.post(limits, json=MONTHLY),
            await tenant.patch(path, json={"period": "total"}),
            await tenant.request("DELETE", path),
        ]

        assert [status_and_code(response) for response in rejected] == [(429, "rate_limited")] * 3
        assert all(1 <= int(response.headers["Retry-After"]) <= 60 for response in rejected)
        assert (await tenant.get(path)).json() == limit
        assert (await tenant.get(limits)).json()["data"] == [limit]

    async def test_do_not_use_the_quota_of_credential_writes(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        await _use_quota(superuser, tenant, "spend_limit_writes")

        assert (await tenant.create()).status_code == 201
