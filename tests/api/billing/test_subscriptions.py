"""Subscriptions, which apply to all open months, and endpoint counts by day. Internal services set both."""

from typing import Any

import httpx
import pytest

from tests.support.database.billed_ledger import current_month, months_ago
from tests.support.requests.rotation import status_and_code
from tests.support.requests.statements import (
    billing_service_of,
    close_statement,
    set_endpoint_count,
    statement_of,
    subscribe,
    subscription_body,
    summarize_lines,
    usd,
)
from tests.support.tenant import MakeTenant, MakeToken, Tenant


@pytest.fixture
def service(tenant: Tenant, make_token: MakeToken) -> Tenant:
    return billing_service_of(tenant, make_token)


class TestSetSubscription:
    async def test_returns_exact_amounts_and_an_etag(self, service: Tenant) -> None:
        first = await subscribe(service, fee="99.000000000001")
        again = await subscribe(service, fee="99.000000000001")
        other = await subscribe(service, fee="100")

        assert first.json() == subscription_body(fee="99.000000000001")
        assert again.headers["ETag"] == first.headers["ETag"] != other.headers["ETag"]
        assert other.json()["monthly_fee"] == usd("100.00")
        lines = (await statement_of(service, current_month()))["lines"]
        assert [line["amount"] for line in lines] == [usd("100.00")]

    async def test_rejects_a_stale_etag(self, service: Tenant) -> None:
        await subscribe(service)

        rejected = await service.request(
            "PUT",
            f"{service.path}/subscription",
            json=subscription_body(fee="1.00"),
            headers={"If-Match": '"r0"'},
        )

        assert status_and_code(rejected) == (412, "precondition_failed")
        assert (await statement_of(service, current_month()))["total"] == usd("99.00")

    @pytest.mark.parametrize("etag", ["*", '"r0"', '"r1"'])
    async def test_is_not_created_by_a_change_of_an_existing_one(self, service: Tenant, etag: str) -> None:
        path = f"{service.path}/subscription"

        rejected = await service.request("PUT", path, json=subscription_body(), headers={"If-Match": etag})

        assert status_and_code(rejected) == (412, "precondition_failed")
        assert (await service.get(path)).status_code == 404

    async def test_applies_to_all_open_months_and_no_closed_one(self, service: Tenant) -> None:
        await subscribe(service, fee="50.00")
        await close_statement(service, months_ago(2))

        await subscribe(service, fee="80.00")

        totals = [(await statement_of(service, months_ago(n)))["total"]["amount"] for n in (3, 2, 1, 0)]
        assert totals == ["80.00", "50.00", "80.00", "80.00"]

    async def test_missing_has_no_line(self, tenant: Tenant) -> None:
        statement = await statement_of(tenant, current_month())

        assert statement == {
            "month": str(current_month()),
            "status": "open",
            "closed_at": None,
            "lines": [],
            "total": usd("0.00"),
            "informational": {"byo": [], "unpriced_managed": []},
        }

    @pytest.mark.parametrize(
        ("fields", "code"),
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
    async def test_rejects_invalid_bodies(self, service: Tenant, fields: dict[str, Any], code: str) -> None:
        response = await service.request(
            "PUT", f"{service.path}/subscription", json=subscription_body() | fields
        )

        assert status_and_code(response) == (422, code)


class TestSetEndpointCount:
    async def test_bills_the_peak_above_the_included_number(self, service: Tenant) -> None:
        month = months_ago(1)
        await subscribe(service, fee="0", included=2, overage="12.50")
        for day, endpoints in (("01", 1), ("14", 5), ("15", 4), ("28", 2)):
            assert (await set_endpoint_count(service, f"{month}-{day}", endpoints)).status_code == 200

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
        assert summarize_lines(await statement_of(service, months_ago(0))) == [
            ("subscription", None, "0.00", None)
        ]

    async def test_replaces_an_earlier_count_of_the_day(self, service: Tenant) -> None:
        month = current_month()
        await subscribe(service, fee="0", included=0, overage="1")
        await set_endpoint_count(service, f"{month}-01", 9)

        response = await set_endpoint_count(service, f"{month}-01", 4)

        assert response.json() == {"date": f"{month}-01", "endpoints": 4}
        assert (await statement_of(service, month))["total"] == usd("4.00")

    async def test_changes_only_the_count_that_the_etag_names(self, service: Tenant) -> None:
        path = f"{service.path}/endpoint-counts/{current_month()}-01"

        async def set_if(etag: str, endpoints: int) -> httpx.Response:
            return await service.request(
                "PUT", path, json={"endpoints": endpoints}, headers={"If-Match": etag}
            )

        on_nothing = [await set_if(etag, 5) for etag in ('"r1"', '"r0"', "*")]
        created = await set_endpoint_count(service, f"{current_month()}-01", 0)
        on_any = await set_if("*", 0)
        replaced = await set_if(created.headers["ETag"], 9)
        stale = await set_if(created.headers["ETag"], 4)

        assert [status_and_code(it) for it in on_nothing] == [(412, "precondition_failed")] * 3
        assert (created.status_code, on_any.status_code, replaced.status_code) == (200, 200, 200)
        assert status_and_code(stale) == (412, "precondition_failed")
        read = await service.get(path)
        assert (read.json()["endpoints"], read.headers["ETag"]) == (9, replaced.headers["ETag"])

    async def test_does_not_bill_included_endpoints(self, service: Tenant) -> None:
        await subscribe(service, fee="7", included=3)
        await set_endpoint_count(service, f"{current_month()}-01", 3)

        assert summarize_lines(await statement_of(service, current_month())) == [
            ("subscription", None, "7.00", None)
        ]

    async def test_does_not_bill_without_a_subscription(self, service: Tenant) -> None:
        await set_endpoint_count(service, f"{current_month()}-01", 3)

        assert (await statement_of(service, current_month()))["lines"] == []

    async def test_rejects_days_of_closed_months(self, service: Tenant) -> None:
        month = months_ago(1)
        await close_statement(service, month)

        assert status_and_code(await set_endpoint_count(service, f"{month}-02", 3)) == (
            409,
            "statement_closed",
        )

    async def test_rejects_days_of_future_months(self, service: Tenant) -> None:
        response = await set_endpoint_count(service, f"{current_month().next}-02", 3)

        assert status_and_code(response) == (422, "date_in_future")

    @pytest.mark.parametrize(
        "day", ["2026-02-30", "2026-13-01", "2026-1-1", "1999-01-01", "today", "2026-01-01T00"]
    )
    async def test_responds_404_for_invalid_days(self, service: Tenant, day: str) -> None:
        assert status_and_code(await set_endpoint_count(service, day, 3)) == (404, "not_found")

    @pytest.mark.parametrize("endpoints", [-1, 1_000_001, "many", "5", True, None, 1.5])
    async def test_rejects_invalid_counts(self, service: Tenant, endpoints: Any) -> None:
        assert status_and_code(await set_endpoint_count(service, f"{current_month()}-01", endpoints)) == (
            422,
            "validation_failed",
        )


class TestCallers:
    async def test_must_be_internal_services(
        self, tenant: Tenant, make_tenant: MakeTenant, make_token: MakeToken
    ) -> None:
        month = months_ago(1)
        viewer = Tenant(http=tenant.http, organization=tenant.organization, token=make_token("service"))
        requests = (
            ("PUT", f"{tenant.path}/subscription", subscription_body()),
            ("PUT", f"{tenant.path}/endpoint-counts/{month}-01", {"endpoints": 1}),
            ("POST", f"{tenant.path}/billing-statements/{month}/close", None),
        )

        for method, path, body in requests:
            assert status_and_code(await tenant.request(method, path, json=body)) == (403, "service_only")
            assert status_and_code(await viewer.request(method, path, json=body)) == (
                403,
                "insufficient_scope",
            )
            assert status_and_code(await make_tenant().request(method, path, json=body)) == (404, "not_found")


class TestGetSubscription:
    async def test_returns_what_was_set_with_its_etag(self, service: Tenant, tenant: Tenant) -> None:
        written = await subscribe(service)

        read = await tenant.get(f"{tenant.path}/subscription")

        assert (read.status_code, read.json()) == (200, written.json())
        assert read.headers["ETag"] == written.headers["ETag"]

    async def test_is_not_found_without_one(self, tenant: Tenant) -> None:
        assert status_and_code(await tenant.get(f"{tenant.path}/subscription")) == (404, "not_found")


class TestReadEndpointCounts:
    async def test_lists_the_latest_day_first_page_by_page(self, service: Tenant, tenant: Tenant) -> None:
        days = [f"{current_month()}-01", f"{months_ago(1)}-15", f"{months_ago(1)}-02"]
        for endpoints, day in enumerate(days, start=1):
            await set_endpoint_count(service, day, endpoints)

        first = (await tenant.get(f"{tenant.path}/endpoint-counts", params={"limit": 2})).json()
        second = (
            await tenant.get(
                f"{tenant.path}/endpoint-counts", params={"limit": 2, "page": first["next_page"]}
            )
        ).json()

        listed = [(count["date"], count["endpoints"]) for count in (*first["data"], *second["data"])]
        assert listed == [(day, number) for number, day in enumerate(days, start=1)]
        assert (first["has_more"], second["has_more"]) == (True, False)

    async def test_gets_the_count_of_a_day(self, service: Tenant, tenant: Tenant) -> None:
        day = f"{current_month()}-01"
        await set_endpoint_count(service, day, 7)

        read = await tenant.get(f"{tenant.path}/endpoint-counts/{day}")

        assert read.json() == {"date": day, "endpoints": 7}

    @pytest.mark.parametrize("day", ["2026-01-01", "2026-02-30"])
    async def test_is_not_found_without_a_count(self, tenant: Tenant, day: str) -> None:
        read = await tenant.get(f"{tenant.path}/endpoint-counts/{day}")

        assert status_and_code(read) == (404, "not_found")

    @pytest.mark.parametrize("page", ["x", "AAAAAAAAAAA", "__________8"])
    async def test_refuses_an_invalid_cursor(self, tenant: Tenant, page: str) -> None:
        read = await tenant.get(f"{tenant.path}/endpoint-counts", params={"page": page})

        assert read.status_code == 422
