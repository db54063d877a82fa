"""The dry run of a switch: what it would change, without changing anything."""

from decimal import Decimal
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.api.rotating import actions, refusal
from tests.api.statements import closed, service_of, statement_of, subscribe, usd
from tests.api.switching import EMPTY_BYO, MANAGED, ahead, history, instant, mode_of, switched
from tests.billed_ledger import PICO, add, month_ago, present_month, row, within
from tests.conftest import MakeTenant, MakeToken, Tenant


async def preview(tenant: Tenant, body: Any) -> httpx.Response:
    return await tenant.post(f"{tenant.path}/usage-mode/preview", json=body)


async def previewed(tenant: Tenant, body: Any) -> dict[str, Any]:
    response = await preview(tenant, body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def amount(money: dict[str, str]) -> Decimal:
    return Decimal(money["amount"])


@pytest.fixture
async def limited(tenant: Tenant) -> Tenant:
    """An organization that has a spend limit of every kind."""
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
    async def test_is_this_months_as_it_stands(
        self, tenant: Tenant, owner: AsyncEngine, make_token: MakeToken
    ) -> None:
        service = service_of(tenant, make_token)
        await subscribe(service, fee="99")
        await closed(service, month_ago(1))
        at = within(present_month())
        await add(
            owner,
            row(tenant.organization, at, cost=2 * PICO),
            row(tenant.organization, at, cost=7 * PICO, mode="byo"),
            row(tenant.organization, within(month_ago(1)), cost=4 * PICO),
        )

        found = await previewed(tenant, EMPTY_BYO)

        assert found["statement"] == {
            "month": str(present_month()),
            "total": usd("105.00"),
            "managed_usage": usd("2.00"),
        }
        assert found["statement"]["total"] == (await statement_of(tenant, present_month()))["total"]


class TestProjection:
    async def test_of_a_switch_to_byo_avoids_what_is_to_come(
        self, tenant: Tenant, owner: AsyncEngine
    ) -> None:
        await add(owner, row(tenant.organization, within(present_month()), cost=1000 * PICO))

        projection = (await previewed(tenant, EMPTY_BYO))["projection"]

        assert projection["managed_usage_after_switch"] == usd("1000.00")
        assert amount(projection["managed_usage_as_planned"]) > 1000
        assert amount(projection["difference"]) == 1000 - amount(projection["managed_usage_as_planned"])

    async def test_of_a_switch_to_managed_adds_it(self, tenant: Tenant, owner: AsyncEngine) -> None:
        await switched(tenant, EMPTY_BYO)
        await add(owner, row(tenant.organization, within(present_month()), cost=1000 * PICO, mode="byo"))

        projection = (await previewed(tenant, MANAGED))["projection"]

        assert projection["managed_usage_as_planned"] == usd("0.00")
        assert projection["difference"] == projection["managed_usage_after_switch"]
        assert amount(projection["difference"]) > 0

    async def test_of_a_switch_after_this_month_changes_nothing_in_it(
        self, tenant: Tenant, owner: AsyncEngine
    ) -> None:
        await add(owner, row(tenant.organization, within(present_month()), cost=1000 * PICO))

        found = await previewed(tenant, EMPTY_BYO | {"effective_at": ahead(days=32)})

        assert found["projection"]["difference"] == usd("0.00")

    async def test_knows_what_is_scheduled_and_would_be_replaced(
        self, tenant: Tenant, owner: AsyncEngine
    ) -> None:
        state = await switched(tenant, EMPTY_BYO | {"effective_at": ahead(seconds=30)})
        await add(owner, row(tenant.organization, within(present_month()), cost=1000 * PICO))

        found = await previewed(tenant, MANAGED)

        assert found["replaces"] == state["scheduled"]
        assert amount(found["projection"]["difference"]) > 0


class TestLimits:
    @pytest.mark.parametrize(
        ("first", "then", "counts"),
        [
            (MANAGED, EMPTY_BYO, {"managed": (True, False), "byo": (False, True), "any": (True, True)}),
            (EMPTY_BYO, MANAGED, {"managed": (False, True), "byo": (True, False), "any": (True, True)}),
        ],
    )
    async def test_say_what_they_count_now_and_after(
        self, limited: Tenant, first: Any, then: Any, counts: dict[str, tuple[bool, bool]]
    ) -> None:
        await switched(limited, first)

        limits = (await previewed(limited, then))["spend_limits"]

        assert {
            limit["usage_mode"]: (limit["counts_now"], limit["counts_after_switch"]) for limit in limits
        } == counts
        assert [limit["name"] for limit in limits] == ["Limit managed", "Limit byo", "Limit any"]


class TestBlockers:
    async def test_are_those_that_readiness_would_name(self, tenant: Tenant) -> None:
        bodies = [
            (EMPTY_BYO, ["credential_missing"]),
            ({"mode": "byo", "credential_id": (await tenant.created())["id"]}, []),
            (
                {"mode": "byo", "credential_id": (await tenant.created("invalid"))["id"]},
                ["credential_not_valid"],
            ),
            (MANAGED, []),
        ]

        for body, blockers in bodies:
            assert (await previewed(tenant, body))["blockers"] == blockers
            await switched(tenant, body)
            ready = (await tenant.get(f"{tenant.path}/readiness")).json()
            assert ready["blockers"] == blockers

    async def test_name_a_disabled_credential(self, tenant: Tenant) -> None:
        credential = await tenant.created()
        await tenant.post(f"{tenant.credentials}/{credential['id']}/disable")

        found = await previewed(tenant, {"mode": "byo", "credential_id": credential["id"]})

        assert found["blockers"] == ["credential_disabled"]


class TestDryRun:
    async def test_writes_nothing(self, tenant: Tenant) -> None:
        state = await switched(tenant, EMPTY_BYO | {"effective_at": ahead(days=1)})
        points, trail = await history(tenant), await actions(tenant)

        for body in (EMPTY_BYO, MANAGED, EMPTY_BYO | {"effective_at": ahead(days=2)}):
            await previewed(tenant, body)

        assert await mode_of(tenant) == state
        assert (await history(tenant), await actions(tenant)) == (points, trail)

    async def test_names_the_instant_from_which_it_would_count(self, tenant: Tenant) -> None:
        at = ahead(days=2)

        later, now = (
            await previewed(tenant, EMPTY_BYO | {"effective_at": at}),
            await previewed(tenant, EMPTY_BYO),
        )

        assert later["effective_at"] == at
        assert instant(now["effective_at"]) < instant(at)
        assert (now["mode"], now["credential_id"], now["replaces"]) == ("byo", None, None)

    async def test_is_for_those_who_may_read(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        viewer = make_tenant("billing-viewer", tenant.organization)

        assert (await preview(viewer, EMPTY_BYO)).status_code == 200
        assert refusal(await make_tenant().post(f"{tenant.path}/usage-mode/preview", json=EMPTY_BYO)) == (
            404,
            "not_found",
        )

    async def test_refuses_what_the_switch_would_refuse(self, tenant: Tenant) -> None:
        unknown = "0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819"
        deleted = (await tenant.created())["id"]
        await tenant.request("DELETE", f"{tenant.credentials}/{deleted}")

        for body, expected in (
            (EMPTY_BYO | {"effective_at": ahead(seconds=-1)}, (422, "effective_at_in_past")),
            (EMPTY_BYO | {"effective_at": ahead(days=400)}, (422, "effective_at_too_far")),
            ({"mode": "byo", "credential_id": unknown}, (422, "credential_not_found")),
            ({"mode": "managed", "credential_id": deleted}, (422, "credential_not_used")),
            ({"mode": "byo", "credential_id": deleted}, (409, "credential_deleted")),
            ({"mode": "byo", "other": 1}, (422, "unknown_field")),
            ({}, (422, "validation_failed")),
        ):
            assert refusal(await preview(tenant, body)) == expected
