"""Limits and webhooks: what their bars and dialogs say and do."""

from typing import Any

from playwright.async_api import Locator, expect

from tests.support.page.browser import Visit
from tests.support.page.leaks import readable
from tests.support.requests.rotation import get_json
from tests.support.requests.spend_limits import MONTHLY
from tests.support.requests.usage_events import Ledger, event
from tests.support.tenant import Tenant

USAGE = {"input_tokens": 12_000_000, "output_tokens": 0}  # more than half and less than 80 % of the limit


def in_dialog(visit: Visit, button: str) -> Locator:
    return visit.page.get_by_role("dialog").get_by_role("button", name=button, exact=True)


async def create_limit(tenant: Tenant, **fields: Any) -> dict[str, Any]:
    response = await tenant.post(f"{tenant.path}/spend-limits", json=MONTHLY | fields)
    assert response.status_code == 201, response.text
    limit: dict[str, Any] = response.json()
    return limit


class TestLimits:
    async def test_are_created(self, visit: Visit, tenant: Tenant) -> None:
        await visit.section("Limits")
        await expect(visit.main.get_by_text("No limit is set.")).to_be_visible()
        await visit.button("Add a limit").click()
        await visit.field("Name").fill("Team budget")
        await visit.field("Amount in USD").fill("25")
        await visit.field("Per", exact=True).select_option("day")
        await visit.field("Counts").select_option("any")
        await visit.field("When it is full").select_option("notify")
        await visit.field("Thresholds in percent").fill("75, 100")
        await in_dialog(visit, "Save").click()
        await expect(visit.page.get_by_text("Saved.", exact=True)).to_be_focused()
        await in_dialog(visit, "Close").click()

        await expect(visit.main.get_by_text("$0.00 of $25.00 per day")).to_be_visible()
        await expect(visit.main.get_by_text("Counts managed and BYO usage")).to_be_visible()
        (limit,) = (await get_json(tenant, f"{tenant.path}/spend-limits"))["data"]
        assert (limit["name"], limit["thresholds"], limit["enforcement"]) == (
            "Team budget",
            [75, 100],
            "notify",
        )

    async def test_that_are_refused_say_which_field(self, visit: Visit) -> None:
        await visit.section("Limits")
        await visit.button("Add a limit").click()
        await visit.field("Name").fill("Team budget")
        await visit.field("Amount in USD").fill("a lot")
        await in_dialog(visit, "Save").click()

        await expect(visit.page.get_by_role("alert")).to_contain_text("amount")
        await expect(visit.field("Name")).to_have_value("Team budget")
        await expect(visit.field("Amount in USD")).to_have_attribute("aria-invalid", "true")
        await expect(visit.page.get_by_text("Enter an amount such as 250 or 250.00")).to_be_visible()
        await expect(visit.page.locator("dialog [aria-invalid]")).to_have_count(1)

    async def test_that_another_admin_changed_are_shown_before_they_are_replaced(
        self, visit: Visit, tenant: Tenant
    ) -> None:
        limit = await create_limit(tenant)
        await visit.section("Limits")
        await visit.button("Change").click()
        await visit.field("Name").fill("Mine")
        await expect(in_dialog(visit, "Save")).to_be_enabled()
        await tenant.patch(f"{tenant.path}/spend-limits/{limit['id']}", json={"name": "Theirs"})
        await in_dialog(visit, "Save").click()

        await expect(visit.page.get_by_text("Now saved: Theirs, 10.00 USD.")).to_be_visible()
        await in_dialog(visit, "Save").click()
        await expect(visit.page.get_by_text("Saved.", exact=True)).to_be_visible()
        found = await get_json(tenant, f"{tenant.path}/spend-limits/{limit['id']}")
        assert found["name"] == "Mine"

    async def test_are_deleted_after_typing_the_name(self, visit: Visit, tenant: Tenant) -> None:
        await create_limit(tenant)
        await visit.section("Limits")
        await visit.button("Delete").click()
        await visit.field("Type the label").fill("Monthly budget")
        await in_dialog(visit, "Delete the limit").click()
        await expect(visit.page.get_by_text("Deleted.", exact=True)).to_be_focused()
        await in_dialog(visit, "Close").click()

        await expect(visit.main.get_by_text("No limit is set.")).to_be_visible()
        await expect(visit.page.get_by_role("heading", name="Limits", exact=True)).to_be_focused()


class TestBar:
    async def test_has_a_tick_at_each_threshold_and_names_what_was_crossed(
        self, visit: Visit, tenant: Tenant, ledger: Ledger
    ) -> None:
        limit = await create_limit(tenant, thresholds=[50, 80, 100])
        await ledger.accepted(event(usage=USAGE))
        await visit.section("Limits")

        found = await get_json(tenant, f"{tenant.path}/spend-limits/{limit['id']}")
        assert [it["threshold"] for it in found["crossings"]] == [50]
        card = visit.page.get_by_role("article", name="Monthly budget")
        await expect(card.locator(".tick")).to_have_count(3)
        await expect(card).to_contain_text("Crossed 50 % at")
        await expect(card.get_by_role("img")).to_have_attribute(
            "aria-label", f"Monthly budget: {found['percent_used']:g} percent used"
        )

    async def test_of_four_limits_are_three_on_the_overview(self, visit: Visit, tenant: Tenant) -> None:
        for number in range(4):
            await create_limit(tenant, name=f"Budget {number}")
        await visit.refresh()
        await expect(visit.main.locator(".limit")).to_have_count(3)

        await visit.button("All 4 limits").click()

        await expect(visit.main.get_by_role("article")).to_have_count(4)

    async def test_names_what_a_narrower_limit_counts(self, visit: Visit, tenant: Tenant) -> None:
        await create_limit(
            tenant, scope={"usage_mode": "managed", "model": "claude-haiku-5-5", "feature": "chat"}
        )
        await visit.section("Limits")

        await expect(
            visit.main.get_by_text("Counts managed usage of model claude-haiku-5-5, feature chat:")
        ).to_be_visible()

    async def test_of_less_than_a_cent_has_all_digits_of_the_amount(
        self, visit: Visit, tenant: Tenant
    ) -> None:
        await create_limit(tenant, amount={"amount": "0.00042", "currency": "USD"})
        await visit.section("Limits")

        await expect(visit.main.get_by_text("$0.00 of $0.00042 per month")).to_be_visible()

    async def test_of_the_fullest_limits_are_on_the_overview(
        self, visit: Visit, tenant: Tenant, ledger: Ledger
    ) -> None:
        for name, amount in (("Nothing", "0"), ("Small", "13"), ("Medium", "20"), ("Large", "5000")):
            await create_limit(tenant, name=name, amount={"amount": amount, "currency": "USD"})
        await ledger.accepted(event(usage=USAGE))
        await visit.refresh()

        names = visit.main.locator(".limit bdi")
        await expect(names).to_have_text(["Nothing", "Small", "Medium"])
        await expect(visit.main.get_by_role("img").first).to_have_attribute("aria-label", "Nothing: full")


class TestWebhooks:
    async def test_show_the_secret_once(self, visit: Visit, tenant: Tenant) -> None:
        await visit.section("Limits")
        await visit.button("Add a webhook").click()
        await visit.field("HTTPS URL").fill("https://gw.example.com/hooks")
        await in_dialog(visit, "Add").click()
        await expect(visit.page.get_by_text("Copy the signing secret now")).to_be_focused()
        secret = await visit.page.locator("dialog code[data-private]").inner_text()
        assert secret.startswith("whsec_")
        await expect(in_dialog(visit, "Add")).to_be_disabled()
        await in_dialog(visit, "Close").click()
        await expect(visit.page.locator("dialog")).to_have_count(0)

        await expect(visit.main.get_by_text("https://gw.example.com/hooks").first).to_be_visible()
        assert [name for name, texts in (await readable(visit.page)).items() if secret in str(texts)] == []
        (found,) = (await get_json(tenant, f"{tenant.path}/webhook-endpoints"))["data"]
        assert found["url"] == "https://gw.example.com/hooks"

    async def test_with_a_url_that_is_refused_say_why(self, visit: Visit) -> None:
        await visit.section("Limits")
        await visit.button("Add a webhook").click()
        await visit.field("HTTPS URL").fill("https://93.184.215.14/hooks")
        await in_dialog(visit, "Add").click()

        await expect(visit.page.get_by_role("alert")).to_contain_text("Use a host name.")

    async def test_are_removed_after_typing_the_url(self, visit: Visit, tenant: Tenant) -> None:
        url = "https://gw.example.com/hooks"
        await visit.section("Limits")
        await visit.button("Add a webhook").click()
        await visit.field("HTTPS URL").fill(url)
        await in_dialog(visit, "Add").click()
        await expect(visit.page.get_by_text("Copy the signing secret now")).to_be_visible()
        await visit.page.keyboard.press("Escape")
        await visit.page.get_by_role("button", name=f"Remove {url}").click()
        await visit.field("Type the label").fill(url)
        await in_dialog(visit, "Remove").click()
        await expect(visit.page.get_by_text("Removed.", exact=True)).to_be_visible()
        await in_dialog(visit, "Close").click()

        await expect(visit.main.get_by_text("No webhook is set.")).to_be_visible()
        assert (await get_json(tenant, f"{tenant.path}/webhook-endpoints"))["data"] == []
