"""What each screen shows and does, compared with the API afterwards."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from playwright.async_api import expect

from tests.support.page.browser import Visit, paste_key
from tests.support.provider.fake_anthropic import FakeAnthropic, make_key
from tests.support.requests.rotation import get_json
from tests.support.requests.spend_limits import MONTHLY
from tests.support.requests.usage_mode import (
    BYO_WITHOUT_CREDENTIAL,
    MANAGED,
    future_timestamp,
    get_usage_mode,
    switch_mode,
)
from tests.support.tenant import Tenant

Visits = Callable[..., Any]
Code = Callable[..., str]
FIELD = "Anthropic API key"


class TestChoosingByo:
    async def test_and_leaving_changes_nothing(self, visit: Visit, tenant: Tenant) -> None:
        await visit.button("Use your own key").click()
        await paste_key(visit, make_key())
        await visit.button("Cancel").click()

        assert (await get_usage_mode(tenant))["mode"] == "managed"
        assert (await get_json(tenant, tenant.credentials))["data"] == []

    async def test_with_an_invalid_key_switches_nothing(self, visit: Visit, tenant: Tenant) -> None:
        await visit.button("Use your own key").click()
        await paste_key(visit, make_key("invalid"))
        await visit.field("Label").fill("Acme")
        await visit.button("Save and validate").click()

        await expect(visit.main.get_by_text("The usage mode is the same as before.")).to_be_visible()
        await expect(visit.main.get_by_text("The provider rejected this key.").first).to_be_visible()
        assert (await get_usage_mode(tenant))["mode"] == "managed"


class TestBanner:
    async def test_says_who_pays(self, admin: Visit, credential: dict[str, Any]) -> None:
        await expect(admin.main.get_by_text("BYO key. Your Anthropic account pays.")).to_be_visible()
        await expect(admin.main.get_by_text(credential["key_hint"])).to_be_visible()
        await expect(admin.main.get_by_text("There is no fallback").first).to_be_visible()

    async def test_names_the_full_limit(self, tenant: Tenant, visits: Visits, make_code: Code) -> None:
        nothing = {"amount": {"amount": "0", "currency": "USD"}, "name": "Zero budget"}
        await tenant.post(f"{tenant.path}/spend-limits", json=MONTHLY | nothing)
        visit = await visits()
        await visit.open(make_code())

        await expect(visit.main.get_by_text("Work is stopped: a spend limit is full.")).to_be_visible()
        await expect(visit.main.get_by_text(re.compile("Zero budget is full until .* UTC"))).to_be_visible()
        await visit.button("Change the limit").click()
        await expect(visit.page.get_by_role("article", name="Zero budget")).to_be_visible()

    async def test_is_never_green_without_a_response(self, admin: Visit) -> None:
        await expect(admin.main.locator(".banner.good")).to_be_visible()
        await admin.page.route("**/readiness", lambda route: route.abort())
        await admin.refresh()

        await expect(admin.main.get_by_text("Not known right now.")).to_be_visible()
        await expect(admin.main.locator(".banner.good")).to_have_count(0)

    async def test_of_a_key_that_the_provider_refuses_offers_another_one(
        self, tenant: Tenant, credential: dict[str, Any], admin: Visit, fake_anthropic: FakeAnthropic
    ) -> None:
        fake_anthropic.behave(fake_anthropic.received_keys()[-1], "invalid")
        path = f"{tenant.credentials}/{credential['id']}"
        for _ in range(2):  # a definite result is confirmed by a second one
            await tenant.post(f"{path}/validations")
        await admin.refresh()
        await expect(admin.main.get_by_text("Work is stopped: the provider refuses the key")).to_be_visible()
        await admin.button("Validate again").click()
        await expect(admin.page.get_by_role("article", name="Acme production")).to_be_focused()
        await admin.section("Overview")
        await admin.button("Try another key").click()

        await expect(admin.page.get_by_role("dialog")).to_contain_text("Rotate the key of Acme production")

    async def test_of_a_removed_key_offers_a_new_one(
        self, tenant: Tenant, credential: dict[str, Any], admin: Visit
    ) -> None:
        await tenant.request("DELETE", f"{tenant.credentials}/{credential['id']}?force=true")
        await admin.refresh()
        await expect(admin.main.get_by_text("Work is stopped: the key is deleted.")).to_be_visible()

        await admin.button("Add a key").click()

        await expect(admin.field(FIELD)).to_be_visible()

    async def test_of_byo_without_a_key_offers_one_and_the_way_back(
        self, tenant: Tenant, visits: Visits, make_code: Code
    ) -> None:
        await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL)
        visit = await visits()
        await visit.open(make_code())
        await expect(visit.main.get_by_text("BYO is chosen, but no key is.")).to_be_visible()
        await visit.button("Add a key").click()
        await visit.button("Cancel").click()
        await visit.button("Switch back to managed").click()
        await visit.button("Switch now").click()

        await expect(visit.main.get_by_text("Switched to Managed.")).to_be_focused()
        await visit.button("Close").click()
        await expect(visit.main.get_by_text("Managed. Pharaoh pays the provider")).to_be_visible()

    async def test_of_a_disabled_key_stops_work(
        self, tenant: Tenant, credential: dict[str, Any], admin: Visit
    ) -> None:
        await tenant.post(f"{tenant.credentials}/{credential['id']}/disable")
        await admin.refresh()

        await expect(admin.main.get_by_text("Work is stopped: the key is disabled.")).to_be_visible()
        await expect(admin.button("Switch back to managed")).to_be_visible()
        await admin.button("Enable it").click()
        await expect(admin.page.get_by_role("article", name="Acme production")).to_be_focused()


class TestSwitch:
    async def test_has_focus_on_its_title_and_returns_it(self, admin: Visit) -> None:
        await admin.button("Switch the usage mode").press("Enter")
        await expect(admin.page.get_by_role("heading", name="Switch the usage mode")).to_be_focused()
        await admin.button("Close").press("Enter")
        await expect(admin.page.get_by_role("heading", name="Overview")).to_be_focused()

    async def test_is_previewed_scheduled_and_cancelled(self, admin: Visit, tenant: Tenant) -> None:
        await admin.button("Switch the usage mode").click()
        await expect(admin.main.get_by_text("Statement of")).to_be_visible()
        await admin.page.get_by_label(re.compile("When")).fill("2027-06-01T10:00")
        await admin.button("Schedule the switch").click()

        await expect(admin.main.get_by_text(re.compile("Scheduled: Managed.*UTC"))).to_be_visible()
        assert (await get_usage_mode(tenant))["scheduled"]["mode"] == "managed"
        await admin.button("Close").click()
        await admin.button("Cancel it").click()
        await expect(admin.main.get_by_text("The scheduled switch is cancelled.")).to_be_focused()
        assert (await get_usage_mode(tenant))["scheduled"] is None

    async def test_that_is_scheduled_is_moved(
        self, tenant: Tenant, credential: dict[str, Any], visits: Visits, make_code: Code
    ) -> None:
        await switch_mode(tenant, MANAGED | {"effective_at": future_timestamp(days=1)})
        visit = await visits()
        await visit.open(make_code())
        await visit.button("Move it, or see what changes").click()
        await expect(visit.main.get_by_text("Replaces the scheduled switch to Managed")).to_be_visible()
        await visit.main.get_by_text("History").click()
        await expect(visit.page.get_by_role("table", name="Switches, newest first")).to_contain_text(
            credential["label"]
        )
        await visit.page.get_by_label(re.compile("When")).fill("2027-07-01T10:00")
        await visit.button("Schedule the switch").click()

        await expect(visit.main.get_by_text(re.compile("Scheduled for 1 Jul"))).to_be_focused()
        assert (await get_usage_mode(tenant))["scheduled"]["effective_at"].startswith("2027-07-01")

    async def test_names_the_limits_that_start_or_stop_to_count(self, admin: Visit, tenant: Tenant) -> None:
        await tenant.post(f"{tenant.path}/spend-limits", json=MONTHLY)
        await admin.button("Switch the usage mode").click()

        await expect(admin.main.get_by_text("Limit Monthly budget starts to count.")).to_be_visible()

    async def test_whose_preview_failed_cannot_be_sent(self, admin: Visit) -> None:
        await admin.page.route("**/usage-mode/preview", lambda route: route.abort())
        await admin.button("Switch the usage mode").click()
        await expect(admin.page.get_by_role("alert")).to_contain_text("no_response")
        await expect(admin.button("Switch now")).to_be_disabled()
        await admin.page.unroute("**/usage-mode/preview")
        await admin.button("Try again").click()

        await expect(admin.button("Switch now")).to_be_enabled()

    async def test_that_stops_work_needs_a_tick(self, visit: Visit) -> None:
        await visit.button("Switch the usage mode").click()
        await expect(visit.main.get_by_text("Work would stop: no key. There is no fallback.")).to_be_visible()
        await expect(visit.button("Switch and stop work")).to_be_disabled()

        await visit.field("I understand that work stops").check()
        await visit.button("Switch and stop work").click()

        await expect(visit.main.get_by_text("Work is stopped: no key.")).to_be_visible()

    async def test_after_another_admin_switched_shows_both_and_asks(
        self, admin: Visit, tenant: Tenant, credential: dict[str, Any]
    ) -> None:
        await admin.button("Switch the usage mode").click()
        await expect(admin.main.get_by_text("Statement of")).to_be_visible()
        await switch_mode(
            tenant,
            {"mode": "byo", "credential_id": credential["id"], "effective_at": future_timestamp(days=1)},
        )

        await admin.button("Switch now").click()

        await expect(admin.page.get_by_role("alert")).to_contain_text("precondition_failed")
        await expect(admin.main.get_by_text("You chose Managed.")).to_be_visible()
        assert (await get_usage_mode(tenant))["mode"] == "byo"


class TestSessionEnd:
    async def test_keeps_what_was_typed(self, visit: Visit, tenant: Tenant) -> None:
        await visit.button("Use your own key").click()
        await paste_key(visit, key := make_key())
        await visit.field("Label").fill("Acme production")
        await visit.page.evaluate(
            "document.querySelector('pharaoh-byok').shadowRoot.host.getToken = async () => ''"
        )
        await visit.button("Save and validate").click()

        await expect(visit.page.get_by_text("Signed out. Sign in again").first).to_be_visible()
        await expect(visit.field("Label")).to_have_value("Acme production")
        await expect(visit.field(FIELD)).to_have_value(key)
        token = f"document.querySelector('pharaoh-byok').getToken = async () => '{tenant.token}'"
        await visit.page.evaluate(token)
        await visit.button("Save and validate").click()
        await expect(visit.page.get_by_text("Valid, and in use")).to_be_visible()

    async def test_of_a_short_token_is_noticed(self, visits: Visits, make_code: Code) -> None:
        visit = await visits()
        await visit.page.goto(f"{visit.origin}/billing#code={make_code(ttl=timedelta(seconds=-60))}")
        await expect(visit.page.get_by_text("Signed out. Sign in again").first).to_be_visible()
