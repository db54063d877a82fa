"""The preview of a usage mode switch: what it would change. The preview itself changes nothing."""

from decimal import Decimal
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.database.billed_ledger import PICO, current_month, insert_rows, months_ago, row, within
from tests.support.requests.rotation import audit_actions, status_and_code
from tests.support.requests.statements import (
    billing_service_of,
    close_statement,
    statement_of,
    subscribe,
    usd,
)
from tests.support.requests.usage_mode import (
    BYO_WITHOUT_CREDENTIAL,
    MANAGED,
    future_timestamp,
    get_history,
    get_usage_mode,
    parse_timestamp,
    switch_mode,
)
from tests.support.tenant import MakeTenant, MakeToken, Tenant


async def preview(tenant: Tenant, body: Any) -> httpx.Response:
    return await tenant.post(f"{tenant.path}/usage-mode/preview", json=body)


async def get_preview(tenant: Tenant, body: Any) -> dict[str, Any]:
    response = await preview(tenant, body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def amount(money: dict[str, str]) -> Decimal:
    return Decimal(money["amount"])


@pytest.fixture
async def tenant_with_limits(tenant: Tenant) -> Tenant:
    """An organization with one spend limit for each usage mode and one for both."""
    for mode in ("managed", "byo", "any"):
        body = {
            "name": f"Limit {mode}",
            "amount": usd("10.00"),
            "period": "month",
            "scope": {"usage_mode": mode},
        }
        assert (await tenant.post(f"{tenant.path}/spend-limits", json=body)).status_code == 201
    return tenant


class TestStatement:
    async def test_is_the_current_one_of_this_month(
        self, tenant: Tenant, superuser: AsyncEngine, make_token: MakeToken
    ) -> None:
        service = billing_service_of(tenant, make_token)
        await subscribe(service, fee="99")
        await close_statement(service, months_ago(1))
        at = within(current_month())
        await insert_rows(
            superuser,
            row(tenant.organization, at, cost=2 * PICO),
            row(tenant.organization, at, cost=7 * PICO, mode="byo"),
            row(tenant.organization, within(months_ago(1)), cost=4 * PICO),
        )

        found = await get_preview(tenant, BYO_WITHOUT_CREDENTIAL)

        assert found["statement"] == {
            "month": str(current_month()),
            "total": usd("105.00"),
            "managed_usage": usd("2.00"),
        }
        assert found["statement"]["total"] == (await statement_of(tenant, current_month()))["total"]


class TestProjection:
    async def test_of_a_switch_to_byo_reduces_managed_usage(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        await insert_rows(superuser, row(tenant.organization, within(current_month()), cost=1000 * PICO))

        projection = (await get_preview(tenant, BYO_WITHOUT_CREDENTIAL))["projection"]

        assert projection["managed_usage_after_switch"] == usd("1000.00")
        assert amount(projection["managed_usage_as_planned"]) > 1000
        assert amount(projection["difference"]) == 1000 - amount(projection["managed_usage_as_planned"])

    async def test_of_a_switch_to_managed_adds_managed_usage(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL)
        await insert_rows(
            superuser, row(tenant.organization, within(current_month()), cost=1000 * PICO, mode="byo")
        )

        projection = (await get_preview(tenant, MANAGED))["projection"]

        assert projection["managed_usage_as_planned"] == usd("0.00")
        assert projection["difference"] == projection["managed_usage_after_switch"]
        assert amount(projection["difference"]) > 0

    async def test_of_a_switch_after_this_month_does_not_change_this_month(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        await insert_rows(superuser, row(tenant.organization, within(current_month()), cost=1000 * PICO))

        found = await get_preview(
            tenant, BYO_WITHOUT_CREDENTIAL | {"effective_at": future_timestamp(days=32)}
        )

        assert found["projection"]["difference"] == usd("0.00")

    async def test_considers_the_scheduled_change_that_is_replaced(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        state = await switch_mode(
            tenant, BYO_WITHOUT_CREDENTIAL | {"effective_at": future_timestamp(seconds=30)}
        )
        await insert_rows(superuser, row(tenant.organization, within(current_month()), cost=1000 * PICO))

        found = await get_preview(tenant, MANAGED)

        assert found["replaces"] == state["scheduled"]
        assert amount(found["projection"]["difference"]) > 0


class TestSpendLimits:
    @pytest.mark.parametrize(
        ("first", "then", "counts"),
        [
            (
                MANAGED,
                BYO_WITHOUT_CREDENTIAL,
                {"managed": (True, False), "byo": (False, True), "any": (True, True)},
            ),
            (
                BYO_WITHOUT_CREDENTIAL,
                MANAGED,
                {"managed": (False, True), "byo": (True, False), "any": (True, True)},
            ),
        ],
    )
    async def test_report_what_they_count_now_and_after_the_switch(
        self, tenant_with_limits: Tenant, first: Any, then: Any, counts: dict[str, tuple[bool, bool]]
    ) -> None:
        await switch_mode(tenant_with_limits, first)

        limits = (await get_preview(tenant_with_limits, then))["spend_limits"]

        assert {
            limit["usage_mode"]: (limit["counts_now"], limit["counts_after_switch"]) for limit in limits
        } == counts
        assert [limit["name"] for limit in limits] == ["Limit managed", "Limit byo", "Limit any"]


class TestBlockers:
    async def test_equal_those_of_readiness(self, tenant: Tenant) -> None:
        bodies = [
            (BYO_WITHOUT_CREDENTIAL, ["credential_missing"]),
            ({"mode": "byo", "credential_id": (await tenant.created())["id"]}, []),
            (
                {"mode": "byo", "credential_id": (await tenant.created("invalid"))["id"]},
                ["credential_not_valid"],
            ),
            (MANAGED, []),
        ]

        for body, blockers in bodies:
            assert (await get_preview(tenant, body))["blockers"] == blockers
            await switch_mode(tenant, body)
            ready = (await tenant.get(f"{tenant.path}/readiness")).json()
            assert ready["blockers"] == blockers

    async def test_include_a_disabled_credential(self, tenant: Tenant) -> None:
        credential = await tenant.created()
        await tenant.post(f"{tenant.credentials}/{credential['id']}/disable")

        found = await get_preview(tenant, {"mode": "byo", "credential_id": credential["id"]})

        assert found["blockers"] == ["credential_disabled"]


class TestDryRun:
    async def test_changes_nothing(self, tenant: Tenant) -> None:
        state = await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL | {"effective_at": future_timestamp(days=1)})
        changes, audit_log = await get_history(tenant), await audit_actions(tenant)

        for body in (
            BYO_WITHOUT_CREDENTIAL,
            MANAGED,
            BYO_WITHOUT_CREDENTIAL | {"effective_at": future_timestamp(days=2)},
        ):
            await get_preview(tenant, body)

        assert await get_usage_mode(tenant) == state
        assert (await get_history(tenant), await audit_actions(tenant)) == (changes, audit_log)

    async def test_returns_the_effective_time(self, tenant: Tenant) -> None:
        at = future_timestamp(days=2)

        later, now = (
            await get_preview(tenant, BYO_WITHOUT_CREDENTIAL | {"effective_at": at}),
            await get_preview(tenant, BYO_WITHOUT_CREDENTIAL),
        )

        assert later["effective_at"] == at
        assert parse_timestamp(now["effective_at"]) < parse_timestamp(at)
        assert (now["mode"], now["credential_id"], now["replaces"]) == ("byo", None, None)

    async def test_requires_only_the_read_scope(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        viewer = make_tenant("billing-viewer", tenant.organization)

        assert (await preview(viewer, BYO_WITHOUT_CREDENTIAL)).status_code == 200
        assert status_and_code(
            await make_tenant().post(f"{tenant.path}/usage-mode/preview", json=BYO_WITHOUT_CREDENTIAL)
        ) == (
            404,
            "not_found",
        )

    async def test_rejects_what_the_switch_would_reject(self, tenant: Tenant) -> None:
        unknown = "0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819"
        deleted = (await tenant.created())["id"]
        await tenant.request("DELETE", f"{tenant.credentials}/{deleted}")

        for body, expected in (
            (
                BYO_WITHOUT_CREDENTIAL | {"effective_at": future_timestamp(seconds=-1)},
                (422, "effective_at_in_past"),
            ),
            (
                BYO_WITHOUT_CREDENTIAL | {"effective_at": future_timestamp(days=400)},
                (422, "effective_at_too_far"),
            ),
            ({"mode": "byo", "credential_id": unknown}, (422, "credential_not_found")),
            ({"mode": "managed", "credential_id": deleted}, (422, "credential_not_used")),
            ({"mode": "byo", "credential_id": deleted}, (409, "credential_deleted")),
            ({"mode": "byo", "other": 1}, (422, "unknown_field")),
            ({}, (422, "validation_failed")),
        ):
            assert status_and_code(await preview(tenant, body)) == expected
