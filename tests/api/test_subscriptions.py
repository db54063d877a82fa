"""What internal services say: the subscription, which counts for every open month, and endpoints day by day."""

from typing import Any

import pytest

from tests.api.rotating import refusal
from tests.api.statements import brief, closed, count, plan, service_of, statement_of, subscribe, usd
from tests.billed_ledger import month_ago, present_month
from tests.conftest import MakeTenant, MakeToken, Tenant


@pytest.fixture
def service(tenant: Tenant, make_token: MakeToken) -> Tenant:
    return service_of(tenant, make_token)


class TestSubscription:
    async def test_comes_back_exact_with_its_revision(self, service: Tenant) -> None:
        first = await subscribe(service, fee="99.000000000001")
        again = await subscribe(service, fee="99.000000000001")
        other = await subscribe(service, fee="100")

        assert first.json() == plan(fee="99.000000000001")
        assert again.headers["ETag"] == first.headers["ETag"] != other.headers["ETag"]
        assert other.json()["monthly_fee"] == usd("100.00")
        lines = (await statement_of(service, present_month()))["lines"]
        assert [line["amount"] for line in lines] == [usd("100.00")]

    async def test_of_another_revision_is_not_changed(self, service: Tenant) -> None:
        await subscribe(service)

        refused = await service.request(
            "PUT", f"{service.path}/subscription", json=plan(fee="1.00"), headers={"If-Match": '"r0"'}
        )

        assert refusal(refused) == (412, "precondition_failed")
        assert (await statement_of(service, present_month()))["total"] == usd("99.00")

    async def test_counts_for_every_open_month_whole_and_for_no_closed_one(self, service: Tenant) -> None:
        await subscribe(service, fee="50.00")
        await closed(service, month_ago(2))

        await subscribe(service, fee="80.00")

        totals = [(await statement_of(service, month_ago(n)))["total"]["amount"] for n in (3, 2, 1, 0)]
        assert totals == ["80.00", "50.00", "80.00", "80.00"]

    async def test_none_is_no_line(self, tenant: Tenant) -> None:
        statement = await statement_of(tenant, present_month())

        assert statement == {
            "month": str(present_month()),
            "status": "open",
            "closed_at": None,
            "lines": [],
            "total": usd("0.00"),
            "informational": {"byo": [], "unpriced_managed": []},
        }

    @pytest.mark.parametrize(
        ("changed", "code"),
        [
            ({"plan": ""}, "validation_failed"),
            ({"plan": "=cmd"}, "validation_failed"),
            ({"plan": "p" * 33}, "validation_failed"),
            ({"monthly_fee": usd("-1")}, "validation_failed"),
            ({"monthly_fee": usd("1e3")}, "validation_failed"),
            ({"monthly_fee": usd("0.0000000000001")}, "validation_failed"),
            ({"monthly_fee": usd("9000000.01")}, "validation_failed"),
            ({"monthly_fee": {"amount": 99, "currency": "USD"}}, "validation_failed"),
            ({"monthly_fee": {"amount": "99", "currency": "EUR"}}, "validation_failed"),
            ({"included_endpoints": -1}, "validation_failed"),
            ({"included_endpoints": 1.5}, "validation_failed"),
            ({"included_endpoints": "2"}, "validation_failed"),
            ({"included_endpoints": True}, "validation_failed"),
            ({"note": "x"}, "unknown_field"),
        ],
    )
    async def test_is_refused(self, service: Tenant, changed: dict[str, Any], code: str) -> None:
        response = await service.request("PUT", f"{service.path}/subscription", json=plan() | changed)

        assert refusal(response) == (422, code)


class TestEndpointCounts:
    async def test_the_months_peak_over_what_is_included_is_billed(self, service: Tenant) -> None:
        month = month_ago(1)
        await subscribe(service, fee="0", included=2, overage="12.50")
        for day, endpoints in (("01", 1), ("14", 5), ("15", 4), ("28", 2)):
            assert (await count(service, f"{month}-{day}", endpoints)).status_code == 200

        lines = (await statement_of(service, month))["lines"]

        assert [line["type"] for line in lines] == ["subscription", "endpoint_overage"]
        assert lines[1] == {
            "type": "endpoint_overage",
            "model": None,
            "quantity": 3,
            "unit_price": usd("12.50"),
            "amount": usd("37.50"),
            "adjusts_month": None,
        }
        assert brief(await statement_of(service, month_ago(0))) == [("subscription", None, "0.00", None)]

    async def test_of_the_same_day_takes_the_place_of_the_one_before(self, service: Tenant) -> None:
        month = present_month()
        await subscribe(service, fee="0", included=0, overage="1")
        await count(service, f"{month}-01", 9)

        answer = await count(service, f"{month}-01", 4)

        assert answer.json() == {"date": f"{month}-01", "endpoints": 4}
        assert (await statement_of(service, month))["total"] == usd("4.00")

    async def test_up_to_what_is_included_cost_nothing(self, service: Tenant) -> None:
        await subscribe(service, fee="7", included=3)
        await count(service, f"{present_month()}-01", 3)

        assert brief(await statement_of(service, present_month())) == [("subscription", None, "7.00", None)]

    async def test_without_a_subscription_cost_nothing(self, service: Tenant) -> None:
        await count(service, f"{present_month()}-01", 3)

        assert (await statement_of(service, present_month()))["lines"] == []

    async def test_of_a_closed_month_are_refused(self, service: Tenant) -> None:
        month = month_ago(1)
        await closed(service, month)

        assert refusal(await count(service, f"{month}-02", 3)) == (409, "statement_closed")

    async def test_of_a_month_that_has_not_begun_are_refused(self, service: Tenant) -> None:
        response = await count(service, f"{present_month().next}-02", 3)

        assert refusal(response) == (422, "date_in_future")

    @pytest.mark.parametrize(
        "day", ["2026-02-30", "2026-13-01", "2026-1-1", "1999-01-01", "today", "2026-01-01T00"]
    )
    async def test_of_no_day_are_not_found(self, service: Tenant, day: str) -> None:
        assert refusal(await count(service, day, 3)) == (404, "not_found")

    @pytest.mark.parametrize("endpoints", [-1, 1_000_001, "many", "5", True, None, 1.5])
    async def test_that_are_no_count_are_refused(self, service: Tenant, endpoints: Any) -> None:
        assert refusal(await count(service, f"{present_month()}-01", endpoints)) == (422, "validation_failed")


class TestCallers:
    async def test_are_internal_services_alone(
        self, tenant: Tenant, make_tenant: MakeTenant, make_token: MakeToken
    ) -> None:
        month = month_ago(1)
        viewer = Tenant(http=tenant.http, organization=tenant.organization, token=make_token("service"))
        requests = (
            ("PUT", f"{tenant.path}/subscription", plan()),
            ("PUT", f"{tenant.path}/endpoint-counts/{month}-01", {"endpoints": 1}),
            ("POST", f"{tenant.path}/billing-statements/{month}/close", None),
        )

        for method, path, body in requests:
            assert refusal(await tenant.request(method, path, json=body)) == (403, "service_only")
            assert refusal(await viewer.request(method, path, json=body)) == (403, "insufficient_scope")
            assert refusal(await make_tenant().request(method, path, json=body)) == (404, "not_found")
