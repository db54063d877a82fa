"""The form for a key: what it refuses, what it shows about a URL, and for each result."""

import re
from typing import Any

import pytest
from playwright.async_api import expect

from tests.support.page.browser import Visit, fill_key_form, paste_key
from tests.support.provider.fake_anthropic import make_key
from tests.support.requests.rotation import get_json
from tests.support.requests.usage_mode import get_usage_mode
from tests.support.tenant import Tenant

URL = "Provider URL (empty: Anthropic)"


async def save(visit: Visit) -> None:
    await visit.button("Save and validate").click()


def saved(visit: Visit) -> list[Any]:
    return [it for it in visit.requests if it.method == "POST" and it.url.endswith("provider-credentials")]


class TestRefusal:
    async def test_of_an_empty_form_names_the_key_then_the_label(self, visit: Visit) -> None:
        await visit.button("Use your own key").click()
        await save(visit)
        await expect(visit.main.get_by_text("Paste the key.")).to_be_visible()
        await expect(visit.field("Anthropic API key")).to_be_focused()

        await paste_key(visit, make_key())
        await save(visit)

        await expect(visit.main.get_by_text("Enter a label.")).to_be_visible()
        await expect(visit.field("Label")).to_be_focused()
        assert saved(visit) == []

    async def test_of_a_key_in_another_field_is_shown_at_that_field(self, visit: Visit) -> None:
        await fill_key_form(visit, make_key())
        await visit.main.get_by_text("Advanced").click()
        await visit.field("Workspace id").fill(make_key())
        await visit.main.get_by_text("Advanced").click()
        await save(visit)

        await expect(visit.field("Workspace id")).to_be_focused()
        await expect(visit.field("Workspace id")).to_have_attribute("aria-invalid", "true")
        await expect(visit.main.get_by_text("This holds a key.")).to_have_count(1)
        assert saved(visit) == []


class TestFocus:
    async def test_is_on_the_title_when_the_form_opens_and_returns_when_it_closes(self, visit: Visit) -> None:
        await visit.button("Use your own key").press("Enter")
        await expect(visit.page.get_by_role("heading", name="Use your own Anthropic key")).to_be_focused()
        await visit.button("Cancel").press("Enter")
        await expect(visit.page.get_by_role("heading", name="Overview")).to_be_focused()

    async def test_returns_to_the_section_after_the_result(self, visit: Visit) -> None:
        await fill_key_form(visit, make_key())
        await save(visit)
        await expect(visit.main.get_by_role("status").filter(has_text="Valid, and in use")).to_be_focused()
        await visit.button("Done").press("Enter")

        await expect(visit.page.get_by_role("heading", name="Overview")).to_be_focused()


class TestUrl:
    async def test_that_is_accepted_is_shown_as_requests_go_there(self, visit: Visit) -> None:
        await visit.button("Use your own key").click()
        await visit.main.get_by_text("Advanced").click()
        await visit.field(URL).fill("https://gw.example.com/anthropic")

        await expect(
            visit.main.get_by_text("Requests go to https://gw.example.com/anthropic")
        ).to_be_visible()

    async def test_that_is_refused_says_why_at_the_field(self, visit: Visit) -> None:
        await visit.button("Use your own key").click()
        await visit.main.get_by_text("Advanced").click()
        await visit.field(URL).fill("https://internal.example.com")

        await expect(visit.field(URL)).to_have_attribute("aria-invalid", "true")
        await expect(visit.main.get_by_text("not on the public internet")).to_be_visible()

    async def test_that_cannot_be_checked_now_is_checked_later(self, visit: Visit) -> None:
        await visit.page.route("**/v1/provider-url-checks", lambda route: route.abort())
        await visit.button("Use your own key").click()
        await visit.main.get_by_text("Advanced").click()
        await visit.field(URL).fill("https://gw.example.com")

        await expect(visit.main.get_by_text("Checked when you save.")).to_be_visible()

    async def test_with_a_key_in_it_is_sent_nowhere(self, visit: Visit) -> None:
        await fill_key_form(visit, make_key())
        await visit.main.get_by_text("Advanced").click()
        await visit.field(URL).fill(f"https://gw.example.com/{make_key()}")
        await save(visit)

        await expect(visit.main.get_by_text("This holds a key.")).to_be_visible()
        assert [it for it in visit.requests if it.method == "POST" and "/v1/" in it.url] == []

    async def test_of_another_host_needs_a_tick_that_names_it(self, visit: Visit) -> None:
        await fill_key_form(visit, make_key())
        await visit.main.get_by_text("Advanced").click()
        await visit.field(URL).fill("https://gw.example.com")
        await visit.field("Auth style").select_option("bearer")
        await visit.field("Workspace id").fill("wrkspc_1")
        await visit.field("Model for validation").fill("claude-haiku-5-5")
        await save(visit)

        await expect(visit.main.get_by_text("Tick the box to send")).to_be_visible()
        assert saved(visit) == []
        await visit.field("Send this Anthropic key to gw.example.com").check()
        await expect(visit.field("Send this Anthropic key to gw.example.com")).to_be_checked()


class TestResult:
    async def test_valid_is_not_used_if_that_was_not_wanted(self, visit: Visit, tenant: Tenant) -> None:
        await fill_key_form(visit, make_key())
        await visit.field("Use it as soon as it is valid").uncheck()
        await save(visit)

        await expect(visit.main.get_by_text("Valid, not in use")).to_be_visible()
        assert (await get_usage_mode(tenant))["mode"] == "managed"
        await visit.button("Switch to this key").click()
        await expect(visit.main.get_by_label("To", exact=True)).to_have_value(
            (await get_json(tenant, tenant.credentials))["data"][0]["id"]
        )

    async def test_indeterminate_leads_to_the_saved_key(self, visit: Visit, tenant: Tenant) -> None:
        await fill_key_form(visit, make_key("overloaded"))
        await save(visit)

        await expect(visit.main.get_by_text("Could not tell yet")).to_be_visible()
        await visit.button("Show the saved key").click()

        await expect(visit.page.get_by_role("article", name="Acme production")).to_be_focused()
        assert (await get_usage_mode(tenant))["mode"] == "managed"

    async def test_invalid_offers_another_key_in_the_same_credential(
        self, visit: Visit, tenant: Tenant
    ) -> None:
        await fill_key_form(visit, make_key("invalid"))
        await save(visit)
        await visit.button("Try another key").click()
        await paste_key(visit, make_key())
        await visit.page.get_by_role("dialog").get_by_role("button", name="Rotate", exact=True).click()

        await expect(visit.page.get_by_text(re.compile(r"The new key \S+ is in use"))).to_be_visible()
        (found,) = (await get_json(tenant, tenant.credentials))["data"]
        assert found["validation"]["status"] == "valid"

    async def test_of_a_switch_that_failed_is_shown(self, visit: Visit) -> None:
        problem = {"code": "concurrent_change", "status": 409, "request_id": "req_1"}

        async def refuse(route: Any) -> None:
            if route.request.method == "PUT":
                await route.fulfill(status=409, json=problem)
            else:
                await route.continue_()

        await visit.page.route("**/usage-mode", refuse)
        await fill_key_form(visit, make_key())
        await save(visit)

        await expect(visit.main.get_by_text("The switch failed:")).to_contain_text("concurrent_change")
        await visit.button("Done").click()
        await expect(visit.main.get_by_text("Managed. Pharaoh pays the provider")).to_be_visible()


class TestDuplicate:
    async def test_leads_to_the_other_credential(self, visit: Visit, tenant: Tenant) -> None:
        key = make_key()
        created = await tenant.post(tenant.credentials, json={"label": "The first one", "api_key": key})
        assert created.status_code == 201
        await visit.section("Key")
        await visit.button("Add a key").click()
        await paste_key(visit, key)
        await visit.field("Label").fill("The second one")
        await save(visit)

        await expect(visit.page.get_by_role("alert")).to_contain_text("duplicate_key")
        await expect(visit.field("Label")).to_have_value("The second one")
        await visit.button("Show that credential").click()
        await expect(visit.page.get_by_role("article", name="The first one")).to_be_visible()


class TestCountdown:
    @pytest.mark.parametrize("code", ["rate_limited", "secret_store_unavailable"])
    async def test_delays_the_next_try(self, visit: Visit, code: str) -> None:
        seen: list[str] = []

        async def refuse_once(route: Any) -> None:
            if route.request.method != "POST" or seen:
                await route.continue_()
                return
            seen.append(route.request.headers["idempotency-key"])
            problem = {"code": code, "status": 503, "request_id": "req_1"}
            await route.fulfill(status=503, json=problem, headers={"Retry-After": "2"})

        await visit.page.route("**/provider-credentials", refuse_once)
        await fill_key_form(visit, make_key())
        await save(visit)

        again = visit.main.get_by_role("button", name="Try again in")
        await expect(again).to_be_disabled()
        await visit.button("Try again").click()
        await expect(visit.page.get_by_text("Valid, and in use")).to_be_visible()
        assert saved(visit)[-1].headers["idempotency-key"] == seen[0]
