"""Each section can be loading, empty, failed or read-only."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from playwright.async_api import expect

from tests.support.page.browser import Visit
from tests.support.requests.spend_limits import MONTHLY
from tests.support.tenant import Tenant

# A section, a request that it needs, and what it shows of an organization that has nothing.
EMPTY = (
    ("Key", "**/provider-credentials?**", "No key is saved."),
    ("Usage", "**/usage-report?**", "There is no usage in this range."),
    ("Limits", "**/spend-limits?**", "No limit is set."),
    ("Limits", "**/webhook-endpoints?**", "No webhook is set."),
    ("Statements", "**/billing-statements?**", "Billed by Pharaoh: $0.00. There are no lines."),
    ("Activity", "**/audit-events?**", "Nothing was done yet."),
)


@pytest.fixture
async def signed_in(visits: Callable[..., Any], make_code: Callable[..., str]) -> Callable[..., Any]:
    """Opens the page and handles some of its requests."""

    async def open_page(pattern: str, handle: Callable[[Any], Any], *, role: str = "billing-admin") -> Visit:
        visit: Visit = await visits()
        await visit.page.route(pattern, handle)
        await visit.open(make_code(role))
        return visit

    return open_page


class TestSections:
    @pytest.mark.sampled(stride=2)
    @pytest.mark.parametrize(("section", "request_pattern", "text"), EMPTY)
    async def test_are_loading_then_empty(
        self, signed_in: Callable[..., Any], section: str, request_pattern: str, text: str
    ) -> None:
        release = asyncio.Event()

        async def hold(route: Any) -> None:
            await release.wait()
            await route.continue_()

        visit: Visit = await signed_in(request_pattern, hold)
        await visit.section(section)
        await expect(visit.page.locator("section[aria-busy=true]").last).to_contain_text("Loading…")
        release.set()

        await expect(visit.main.get_by_text(text)).to_be_visible()

    @pytest.mark.sampled(stride=2)
    @pytest.mark.parametrize(("section", "request_pattern", "text"), EMPTY)
    async def test_that_failed_name_code_and_request_and_try_again(
        self, signed_in: Callable[..., Any], section: str, request_pattern: str, text: str
    ) -> None:
        problem = {"code": "database_unavailable", "status": 503, "request_id": "req_7", "detail": "x"}
        failing = [True]

        async def fail(route: Any) -> None:
            if failing:
                await route.fulfill(status=503, json=problem)
            else:
                await route.continue_()

        visit: Visit = await signed_in(request_pattern, fail)
        await visit.section(section)
        alert = visit.page.get_by_role("alert").last
        await expect(alert).to_contain_text("The service cannot reach its database right now.")
        await expect(alert).to_contain_text("database_unavailable")
        await expect(alert).to_contain_text("req_7")
        failing.clear()

        await alert.get_by_role("button", name="Try again").click()

        await expect(visit.main.get_by_text(text)).to_be_visible()
        await expect(visit.page.locator("section h2:focus")).to_have_count(1)

    async def test_of_the_month_fail_without_the_banner(self, signed_in: Callable[..., Any]) -> None:
        visit: Visit = await signed_in("**/billing-statements/*", lambda route: route.abort())

        await expect(visit.page.get_by_role("alert")).to_contain_text("no_response")
        await expect(visit.main.get_by_text("Managed. Pharaoh pays the provider")).to_be_visible()


class TestSession:
    async def test_that_cannot_be_read_is_tried_again(
        self, visits: Callable[..., Any], make_code: Callable[..., str]
    ) -> None:
        visit: Visit = await visits()
        await visit.page.route("**/v1/session", lambda route: route.fulfill(status=502, body="<html>"))
        await visit.page.goto(f"{visit.origin}/billing#code={make_code()}")
        await expect(visit.page.get_by_role("alert")).to_contain_text("unexpected")
        await visit.page.unroute("**/v1/session")
        await visit.button("Try again").click()

        await expect(visit.page.get_by_role("heading", name="Overview")).to_be_visible()

    async def test_of_an_internal_service_is_refused(
        self, visits: Callable[..., Any], make_token: Callable[..., str]
    ) -> None:
        visit: Visit = await visits()
        await visit.page.goto(f"{visit.origin}/billing")
        await visit.field("Or paste a token").fill(make_token("service"))
        await visit.button("Sign in with it").click()

        await expect(visit.page.get_by_text("This token belongs to an internal service.")).to_be_visible()


class TestViewer:
    async def test_has_no_writing_control(
        self, tenant: Tenant, visits: Callable[..., Any], make_code: Callable[..., str]
    ) -> None:
        await tenant.created()
        await tenant.post(f"{tenant.path}/spend-limits", json=MONTHLY)
        visit: Visit = await visits()
        await visit.open(make_code("billing-viewer"))
        sections = {"Overview", "Key", "Usage", "Limits", "Statements", "Activity"}
        for section in ("Overview", "Key", "Limits", "Statements", "Activity"):
            await visit.section(section)
            await expect(visit.page.locator("[aria-busy=true]")).to_have_count(0)
            names = await visit.page.get_by_role("button").all_inner_texts()
            writing = {it.strip() for it in names} - sections - {"Download as CSV"}
            assert {it for it in writing if not it.startswith("20")} == set(), section
        await visit.section("Key")
        await expect(visit.main.get_by_text("Your role may read keys, but not change them.")).to_be_visible()

    async def test_is_shown_what_stops_work_without_a_way_to_change_it(
        self, tenant: Tenant, credential: dict[str, Any], visits: Callable[..., Any], make_code: Any
    ) -> None:
        await tenant.post(f"{tenant.credentials}/{credential['id']}/disable")
        visit: Visit = await visits()
        await visit.open(make_code("billing-viewer"))

        await expect(visit.main.get_by_text("Work is stopped: the key is disabled.")).to_be_visible()
        await expect(visit.button("Switch back to managed")).to_have_count(0)
        await visit.button("Show the key").click()
        await expect(visit.page.get_by_role("article", name="Acme production")).to_be_focused()
