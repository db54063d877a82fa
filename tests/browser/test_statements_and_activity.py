"""Statements and the audit log, as the page shows them."""

import asyncio
import re
from typing import Any

import pytest
from playwright.async_api import Route, expect
from sqlalchemy.ext.asyncio import AsyncEngine

from app.billing.month import BillingMonth
from app.core.clock import now
from tests.support.database.billed_ledger import PICO, insert_rows, months_ago, row, within
from tests.support.page.browser import Visit
from tests.support.requests.rotation import get_json
from tests.support.requests.statements import billing_service_of, close_statement, statement_of, subscribe
from tests.support.requests.usage_events import Ledger, event, instant
from tests.support.tenant import MakeToken, Tenant


@pytest.fixture
async def billed(tenant: Tenant, ledger: Ledger, make_token: MakeToken) -> dict[str, Any]:
    """The open statement of an organization with a subscription, and with usage in both modes."""
    await subscribe(billing_service_of(tenant, make_token))
    await ledger.accepted(event(started_at=instant(seconds=2)), event(model="unheard-of-1"))
    created = await tenant.created()
    body = {"mode": "byo", "credential_id": created["id"]}
    assert (await tenant.request("PUT", f"{tenant.path}/usage-mode", json=body)).status_code == 200
    await ledger.accepted(event(started_at=instant(seconds=-2)))
    return await statement_of(tenant, BillingMonth.of(now()))


class TestStatements:
    async def test_set_byo_usage_apart_from_what_is_billed(
        self, visit: Visit, billed: dict[str, Any]
    ) -> None:
        await visit.section("Statements")
        article = visit.page.get_by_role("article", name=f"Statement of {billed['month']}")

        await expect(article).to_contain_text("Open, as of")
        await expect(article.get_by_role("table", name="Billed by Pharaoh")).to_contain_text("Subscription")
        await expect(article.get_by_role("row", name="Managed usage, claude-haiku-5-5")).to_contain_text(
            "18 tokens"
        )
        apart = article.locator(".framed")
        await expect(apart).to_contain_text("For information, not billed")
        await expect(apart.get_by_role("table", name="BYO usage: you pay Anthropic")).to_be_visible()
        await expect(apart.get_by_role("table", name="Managed usage without a known price")).to_contain_text(
            "unheard-of-1"
        )

    async def test_are_downloaded_byte_for_byte(
        self, visit: Visit, tenant: Tenant, billed: dict[str, Any]
    ) -> None:
        await visit.section("Statements")
        async with visit.page.expect_download() as started:
            await visit.button("Download as CSV").click()
        path = await (await started.value).path()

        url = f"{tenant.path}/billing-statements/{billed['month']}"
        response = await tenant.get(url, headers={"Accept": "text/csv"})
        assert path.read_bytes() == response.content
        assert (await started.value).suggested_filename == f"{tenant.organization}-{billed['month']}.csv"
        await expect(
            visit.page.get_by_text("The browser saves the file. If it reports a failure, download again.")
        ).to_be_focused()

    async def test_of_another_month_are_one_click_away(
        self, visit: Visit, tenant: Tenant, superuser: AsyncEngine, make_token: MakeToken
    ) -> None:
        month = months_ago(1)
        usage = row(tenant.organization, within(month), cost=PICO, output_tokens=3)
        await insert_rows(superuser, usage)
        await close_statement(billing_service_of(tenant, make_token), month)
        await visit.section("Statements")
        button = visit.main.get_by_role("button", name=f"{month}:")
        await button.click()

        await expect(button).to_have_attribute("aria-current", "true")
        article = visit.page.get_by_role("article", name=f"Statement of {month}")
        await expect(article).to_contain_text("It never changes.")


class TestActivity:
    async def test_shows_who_did_what(self, admin: Visit) -> None:
        await admin.section("Activity")
        await expect(
            admin.main.get_by_text("billing-admin@example.com saved a key: Acme production")
        ).to_be_visible()
        await expect(admin.main.get_by_text(re.compile("switched the usage mode"))).not_to_have_count(0)

    async def test_is_filtered_by_key_and_action(self, visit: Visit, tenant: Tenant) -> None:
        first, second = [await tenant.created(label=it) for it in ("First", "Second")]
        assert (await tenant.request("DELETE", f"{tenant.credentials}/{second['id']}")).status_code == 200
        await visit.refresh()
        await visit.section("Activity")
        await visit.field("Key").select_option(label="Second (removed)")
        await visit.field("What").select_option("credential.deleted")

        rows = visit.page.get_by_role("table", name="Newest first").locator("tbody tr")
        await expect(rows).to_have_count(1)
        await expect(rows).to_contain_text("removed a key: Second")
        await visit.field("Key").select_option(first["id"])
        await expect(visit.main.get_by_text("Nothing matches.")).to_be_visible()

    async def test_has_older_pages(self, visit: Visit, tenant: Tenant) -> None:
        created = await tenant.created()
        for number in range(51):
            response = await tenant.patch(
                f"{tenant.credentials}/{created['id']}", json={"label": f"Label {number}"}
            )
            assert response.status_code == 200
        events = (await get_json(tenant, f"{tenant.path}/audit-events?limit=100"))["data"]
        await visit.section("Activity")
        rows = visit.page.get_by_role("table", name="Newest first").locator("tbody tr")
        await expect(rows).to_have_count(50)
        await visit.page.route("**/audit-events**", lambda route: route.abort())
        await visit.button("Show older").click()
        await expect(visit.page.get_by_role("alert")).to_contain_text("no_response")
        await visit.page.unroute("**/audit-events**")
        await visit.button("Show older").click()

        await expect(rows).to_have_count(len(events))
        await expect(visit.button("Show older")).to_have_count(0)
        shown = visit.main.get_by_text(re.compile(rf"^{len(events) - 50} older entr(y|ies) shown\.$"))
        await expect(shown).to_be_focused()
        await visit.field("What").select_option("credential.created")
        await expect(rows).to_have_count(1)
        await expect(shown).to_have_count(0)

    async def test_keeps_what_it_showed_while_another_choice_loads(self, admin: Visit) -> None:
        await admin.section("Activity")
        rows = admin.page.get_by_role("table", name="Newest first").locator("tbody tr")
        await expect(rows.first).to_be_visible()
        before, release = await rows.count(), asyncio.Event()

        async def hold(route: Route) -> None:
            await release.wait()
            await route.continue_()

        await admin.page.route("**/audit-events?**", hold)
        await admin.field("What").select_option("credential.created")
        await expect(admin.page.locator("[aria-busy=true] tbody tr")).to_have_count(before)
        await expect(admin.main.get_by_text("Loading…")).to_be_visible()
        release.set()

        await expect(rows).to_have_count(1)
        await expect(admin.main.get_by_text("Loading…")).to_have_count(0)
