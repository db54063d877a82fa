"""WCAG 2.2 AA in the states of banners, the form for a key, dialogs and the switch. `test_accessibility.py` has the list."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from playwright.async_api import expect

from tests.support.page.accessibility import inspect
from tests.support.page.browser import Visit, fill_key_form, paste_key
from tests.support.provider.fake_anthropic import FakeAnthropic, make_key
from tests.support.requests.spend_limits import MONTHLY
from tests.support.requests.usage_mode import (
    BYO_WITHOUT_CREDENTIAL,
    MANAGED,
    future_timestamp,
    switch_mode,
)
from tests.support.tenant import Tenant

SECTIONS = ("Overview", "Key", "Usage", "Limits", "Statements", "Activity")
Visits = Callable[..., Any]
Code = Callable[..., str]


class TestBanner:
    async def test_of_each_blocker_has_no_violation(
        self, visits: Visits, make_code: Code, tenant: Tenant, fake_anthropic: FakeAnthropic
    ) -> None:
        visit: Visit = await visits()
        await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL)
        await visit.open(make_code())
        await inspect(visit, "no key")
        created = await tenant.created()
        path = f"{tenant.credentials}/{created['id']}"
        await switch_mode(tenant, {"mode": "byo", "credential_id": created["id"]})
        nothing = {"amount": {"amount": "0", "currency": "USD"}, "scope": {"usage_mode": "any"}}
        limit = await tenant.post(f"{tenant.path}/spend-limits", json=MONTHLY | nothing)
        await visit.refresh()
        await expect(visit.main.get_by_text("a spend limit is full").first).to_be_visible()
        await inspect(visit, "full limit")
        await tenant.request("DELETE", f"{tenant.path}/spend-limits/{limit.json()['id']}")
        fake_anthropic.behave(fake_anthropic.received_keys()[-1], "invalid")
        for _ in range(2):
            await tenant.post(f"{path}/validations")
        await visit.refresh()
        await expect(visit.main.get_by_text("the provider refuses the key").first).to_be_visible()
        await inspect(visit, "invalid key")
        await tenant.post(f"{path}/disable")
        await visit.refresh()
        await expect(visit.main.get_by_text("the key is disabled").first).to_be_visible()
        await inspect(visit, "disabled key")
        await switch_mode(tenant, MANAGED | {"effective_at": future_timestamp(days=1)})
        await tenant.request("DELETE", f"{path}?force=true")
        await visit.refresh()
        await expect(visit.main.get_by_text("the key is deleted").first).to_be_visible()
        await expect(visit.main.get_by_text("Scheduled: Managed")).to_be_visible()
        await inspect(visit, "deleted key and a schedule")
        await visit.page.route("**/readiness", lambda route: route.abort())
        await visit.refresh()
        await expect(visit.main.get_by_text("Not known right now.")).to_be_visible()
        await inspect(visit, "no response")


class TestKeyForm:
    async def test_has_no_violation_before_it_is_sent(self, visit: Visit) -> None:
        await visit.button("Use your own key").click()
        await visit.page.get_by_text("Advanced").click()
        await inspect(visit, "empty")
        await paste_key(visit, " spaced ")
        await visit.button("Save and validate").click()
        await expect(visit.field("Anthropic API key")).to_have_attribute("aria-invalid", "true")
        await inspect(visit, "refused")
        await visit.field("Anthropic API key").fill(make_key())
        await visit.field("Label").fill("Acme")
        await visit.field("Provider URL").fill("https://gw.example.com")
        await expect(visit.main.get_by_text("Requests go to")).to_be_visible()
        await inspect(visit, "another host")
        await visit.field("Provider URL").fill("https://internal.example.com")
        await expect(visit.field("Provider URL")).to_have_attribute("aria-invalid", "true")
        await inspect(visit, "refused URL")

    async def test_has_no_violation_while_it_is_sent(
        self, visit: Visit, fake_anthropic: FakeAnthropic
    ) -> None:
        fake_anthropic.release.clear()
        release = asyncio.Event()

        async def lose(route: Any) -> None:
            if route.request.method == "POST" and not release.is_set():
                await release.wait()
                await route.abort()
            else:
                await route.continue_()

        await visit.page.route("**/provider-credentials", lose)
        await fill_key_form(visit, make_key("slow"))
        await visit.button("Save and validate").click()
        await expect(visit.button("Encrypting…")).to_be_visible()
        await inspect(visit, "encrypting")
        release.set()
        await expect(visit.page.get_by_role("alert")).to_contain_text("no_response")
        await inspect(visit, "no response")
        await visit.button("Try again").click()
        await expect(visit.main.get_by_text("Encrypted. Asking the provider…")).to_be_visible()
        await inspect(visit, "waiting for the provider")
        fake_anthropic.release.set()

    @pytest.mark.parametrize(
        ("behaviour", "title"),
        [("valid", "Valid, and in use"), ("invalid", "Invalid"), ("overloaded", "Could not tell yet")],
    )
    async def test_has_no_violation_with_a_result(self, visit: Visit, behaviour: str, title: str) -> None:
        await fill_key_form(visit, make_key(behaviour))
        await visit.button("Save and validate").click()
        await expect(visit.main.get_by_text(title).first).to_be_visible()
        await inspect(visit, title)


class TestDialogs:
    @pytest.mark.usefixtures("busy_organization")
    async def test_of_a_key_have_no_violation(self, visits: Visits, make_code: Code) -> None:
        visit: Visit = await visits()
        await visit.open(make_code())
        await visit.section("Key")
        for name in ("Rotate", "Change label", "Remove", "It leaked"):
            await visit.button(name).click()
            await expect(visit.page.get_by_role("dialog")).to_be_visible()
            await inspect(visit, name)
            await visit.button("Close").click()
            await expect(visit.button(name)).to_be_focused()

    async def test_of_a_rotation_have_no_violation_with_a_result(self, admin: Visit) -> None:
        await admin.section("Key")
        for behaviour, text in (
            ("overloaded", "is being validated."),
            ("invalid", "was rejected"),
            ("valid", "is in use."),
        ):
            await admin.button("Rotate").click()
            await paste_key(admin, make_key(behaviour))
            dialog = admin.page.get_by_role("dialog")
            await dialog.get_by_role("button", name="Rotate", exact=True).click()
            await expect(dialog.get_by_text(text).first).to_be_visible()
            await inspect(admin, behaviour)
            await dialog.get_by_role("button", name="Done").click()
            if behaviour == "overloaded":
                await admin.button("Cancel this rotation").click()
                await expect(admin.main.get_by_text("Cancelled. The new key is destroyed.")).to_be_visible()
        await inspect(admin, "previous key")

    @pytest.mark.usefixtures("busy_organization")
    async def test_of_limits_and_webhooks_have_no_violation(self, visits: Visits, make_code: Code) -> None:
        visit: Visit = await visits()
        await visit.open(make_code())
        await visit.section("Limits")
        for name in ("Add a limit", "Change", "Delete"):
            await visit.button(name).click()
            await expect(visit.page.get_by_role("dialog")).to_be_visible()
            await inspect(visit, name)
            await visit.button("Close").click()
        await visit.button("Add a webhook").click()
        await visit.field("HTTPS URL").fill("https://gw.example.com/hooks")
        await visit.button("Add").click()
        await expect(visit.page.get_by_text("Copy the signing secret now")).to_be_visible()
        await inspect(visit, "signing secret")
        await visit.button("Close").click()
        await visit.page.get_by_role("button", name="Remove https://gw.example.com/hooks").click()
        await inspect(visit, "remove a webhook")


class TestSwitch:
    async def test_has_no_violation(self, visit: Visit, tenant: Tenant) -> None:
        await visit.button("Switch the usage mode").click()
        await expect(visit.button("Switch and stop work")).to_be_visible()
        await inspect(visit, "switch that stops work")
        created = await tenant.created()
        await visit.refresh()
        await visit.field("To", exact=True).select_option(created["id"])
        await expect(visit.button("Switch now")).to_be_enabled()
        await inspect(visit, "preview")
        at = future_timestamp(days=1)
        await switch_mode(tenant, {"mode": "byo", "credential_id": created["id"], "effective_at": at})
        await visit.button("Switch now").click()
        await expect(visit.page.get_by_role("alert")).to_contain_text("precondition_failed")
        await inspect(visit, "conflict")
