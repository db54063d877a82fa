"""How often an organization may create and validate, and change its spend limits, within a minute."""

from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.clock import now
from app.settings.environment import Settings
from tests.api.rotating import refusal
from tests.api.spending import MONTHLY
from tests.conftest import MakeTenant, Tenant
from tests.rows import change, fetch

PER_MINUTE = 60


async def _use_up(
    owner: AsyncEngine, tenant: Tenant, kind: str = "credential_writes", *, left: int = 0
) -> None:
    """This minute's requests and the next one's, in case the minute ends meanwhile."""
    minute = now().replace(second=0, microsecond=0)
    for start in (minute, minute + timedelta(minutes=1)):
        await change(
            owner,
            "INSERT INTO rate_counter VALUES (:organization, :kind, :start, :requests)",
            organization=tenant.organization,
            kind=kind,
            start=start,
            requests=PER_MINUTE - left,
        )


class TestCredentialWrites:
    async def test_last_one_is_let_through_and_the_next_is_not(
        self, tenant: Tenant, owner: AsyncEngine
    ) -> None:
        await _use_up(owner, tenant, left=1)

        # Whichever minute it is, one is left in it.
        answers = [(await tenant.create()).status_code for _ in range(3)]

        assert answers[0] == 201
        assert 429 in answers

    @pytest.mark.usefixtures("unasked_provider")
    async def test_refusal_says_when_to_come_back(self, tenant: Tenant, owner: AsyncEngine) -> None:
        await _use_up(owner, tenant)

        response = await tenant.create()

        assert (response.status_code, response.json()["code"]) == (429, "rate_limited")
        assert 1 <= int(response.headers["Retry-After"]) <= 60
        assert (await tenant.get(tenant.credentials)).json()["data"] == []

    async def test_checks_count_together_with_creations(self, tenant: Tenant, owner: AsyncEngine) -> None:
        credential = await tenant.created()
        await change(owner, "DELETE FROM rate_counter WHERE organization_id = :o", o=tenant.organization)
        await _use_up(owner, tenant)

        response = await tenant.post(f"{tenant.credentials}/{credential['id']}/validations")

        assert response.status_code == 429

    async def test_reading_and_renaming_go_on(self, tenant: Tenant, owner: AsyncEngine) -> None:
        credential = await tenant.created()
        path = f"{tenant.credentials}/{credential['id']}"
        await change(owner, "DELETE FROM rate_counter WHERE organization_id = :o", o=tenant.organization)
        await _use_up(owner, tenant)

        assert (await tenant.get(path)).status_code == 200
        assert (await tenant.patch(path, json={"label": "x"})).status_code == 200

    async def test_other_organizations_are_not_held_up(
        self, tenant: Tenant, make_tenant: MakeTenant, owner: AsyncEngine
    ) -> None:
        await _use_up(owner, tenant)

        assert (await make_tenant().create()).status_code == 201

    @pytest.mark.parametrize("body", [{"label": "x", "api_key": "nonsense"}, {"label": "x"}])
    async def test_what_is_refused_before_any_work_does_not_count(
        self, tenant: Tenant, owner: AsyncEngine, body: dict[str, str]
    ) -> None:
        await tenant.post(tenant.credentials, json=body)

        counted = "SELECT requests FROM rate_counter WHERE organization_id = :organization"
        assert await fetch(owner, counted, organization=tenant.organization) == []

    async def test_repeated_answer_does_not_count(self, tenant: Tenant, owner: AsyncEngine) -> None:
        body = {"label": "x", "api_key": "sk-ant-api03-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-valid"}
        headers = {"Idempotency-Key": "once"}
        await tenant.post(tenant.credentials, json=body, headers=headers)
        await change(owner, "DELETE FROM rate_counter WHERE organization_id = :o", o=tenant.organization)
        await _use_up(owner, tenant)

        assert (await tenant.post(tenant.credentials, json=body, headers=headers)).status_code == 201


class TestSpendLimitWrites:
    async def test_last_one_is_let_through_and_the_next_is_not(
        self, tenant: Tenant, owner: AsyncEngine, settings: Settings
    ) -> None:
        assert settings.rate_limits.spend_limit_writes == PER_MINUTE
        await _use_up(owner, tenant, "spend_limit_writes", left=1)

        # Whichever minute it is, one is left in it.
        answers = [await tenant.post(f"{tenant.path}/spend-limits", json=MONTHLY) for _ in range(3)]

        assert answers[0].status_code == 201
        assert 429 in [answer.status_code for answer in answers]

    async def test_setting_changing_and_deleting_count_together_and_reading_does_not(
        self, tenant: Tenant, owner: AsyncEngine
    ) -> None:
        limits = f"{tenant.path}/spend-limits"
        limit = (await tenant.post(limits, json=MONTHLY)).json()
        path = f"{limits}/{limit['id']}"
        await change(owner, "DELETE FROM rate_counter WHERE organization_id = :o", o=tenant.organization)
        await _use_up(owner, tenant, "spend_limit_writes")

        refused = [
            await tenant.post(limits, json=MONTHLY),
            await tenant.patch(path, json={"period": "total"}),
            await tenant.request("DELETE", path),
        ]

        assert [refusal(answer) for answer in refused] == [(429, "rate_limited")] * 3
        assert all(1 <= int(answer.headers["Retry-After"]) <= 60 for answer in refused)
        assert (await tenant.get(path)).json() == limit
        assert (await tenant.get(limits)).json()["data"] == [limit]

    async def test_do_not_use_up_what_credentials_have(self, tenant: Tenant, owner: AsyncEngine) -> None:
        await _use_up(owner, tenant, "spend_limit_writes")

        assert (await tenant.create()).status_code == 201
