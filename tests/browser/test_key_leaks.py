"""The key leaves the browser once, in one body, and stays nowhere. Each detector finds a seeded leak."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.async_api import expect

from tests.support.page.browser import Visit, fill_key_form, paste_key
from tests.support.page.chromium import CHROMIUM, MISSING
from tests.support.page.leaks import files_with, heap_strings, holds, places_with, requests_with
from tests.support.page.own_chromium import own_chromium
from tests.support.page.site import Host
from tests.support.provider.fake_anthropic import FakeAnthropic, make_key
from tests.support.tenant import Tenant

FIELD = "Anthropic API key"
# Creates a database with this name and this record.
STORE = """(name, record) => new Promise((resolve) => {
  const request = indexedDB.open(name);
  request.onupgradeneeded = () => request.result.createObjectStore('store').put(record, 1);
  request.onsuccess = () => resolve(request.result.close());
})"""


async def save(visit: Visit) -> None:
    await visit.button("Save and validate").click()


async def assert_nowhere(visit: Visit, key: str) -> None:
    assert await places_with(visit.page, key) == []
    assert not holds("\n".join(visit.console), key)
    session = await visit.context.new_cdp_session(visit.page)
    assert [it for it in await heap_strings(session) if holds(it, key)] == []


class TestKeyField:
    async def test_is_a_password_that_no_manager_keeps(self, visit: Visit) -> None:
        await visit.button("Use your own key").click()
        field = visit.field(FIELD)

        for name, value in {
            "type": "password",
            "autocomplete": "one-time-code",
            "autocapitalize": "off",
            "spellcheck": "false",
            "data-lpignore": "true",
            "data-form-type": "other",
        }.items():
            await expect(field).to_have_attribute(name, value)
        for name in (
            "data-1p-ignore",
            "data-bwignore",
            "data-sentry-mask",
            "data-hj-suppress",
            "data-private",
        ):
            await expect(field).to_have_attribute(name, "true")
        assert await field.get_attribute("name") is None
        for name in ("ph-no-capture", "rr-block", "fs-exclude"):
            await expect(field).to_have_class(re.compile(name))
        assert await visit.page.get_by_role("button", name="Show").count() == 0

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("sk-ant-admin01-abcdefghijklmnop", "Admin API key"),
            ("sk-ant-oat01-abcdefghijklmnopqrst", "OAuth token"),
            ("sk-ant-sid01-abcdefghijklmnopqrst", "session cookie"),
            ("ANTHROPIC_API_KEY=sk-ant-api03-abcdefghijklmnopqrst", "assignment"),
            ("sk-ant-api03-R2D...igAA", "shortened"),
            ('"sk-ant-api03-abcdefghijklmnopqrstuvwx"', "quotes"),
            ("https://api.anthropic.com", "URL"),
            ("hello", "not a Claude API key"),
        ],
    )
    async def test_names_what_was_pasted_and_sends_nothing(self, visit: Visit, text: str, says: str) -> None:
        await fill_key_form(visit, text)
        await expect(visit.main.get_by_text(says).first).to_be_visible()
        await save(visit)

        await expect(visit.field(FIELD)).to_have_attribute("aria-invalid", "true")
        assert [it for it in visit.requests if it.method == "POST" and it.url.endswith("credentials")] == []

    async def test_names_spaces_and_removes_them_on_request(self, visit: Visit) -> None:
        key = make_key()
        await fill_key_form(visit, f" {key}\t")

        await visit.button("Remove a space and a tab").click()

        await expect(visit.main.get_by_text(f"{len(key)} characters. Will be shown as")).to_be_visible()
        await expect(visit.field(FIELD)).to_have_value(key)

    async def test_a_key_in_the_label_is_not_sent(self, visit: Visit) -> None:
        await fill_key_form(visit, make_key(), label=make_key())
        await save(visit)

        await expect(visit.main.get_by_text("This holds a key.")).to_be_visible()
        assert [it for it in visit.requests if it.method == "POST" and it.url.endswith("credentials")] == []


class TestKeyAfterwards:
    async def test_is_nowhere_after_it_was_saved(self, visit: Visit) -> None:
        key = make_key()
        await fill_key_form(visit, key)
        await save(visit)
        await expect(visit.page.get_by_text("Valid, and in use")).to_be_visible()

        await assert_nowhere(visit, key)
        assert list(requests_with(visit.requests, key)) == ["POST provider-credentials body"]

    async def test_is_nowhere_while_the_provider_is_asked(
        self, visit: Visit, fake_anthropic: FakeAnthropic
    ) -> None:
        fake_anthropic.release.clear()
        key = make_key("slow")
        await fill_key_form(visit, key)
        await save(visit)
        await expect(visit.page.get_by_text("Encrypted. Asking the provider…")).to_be_visible()

        await assert_nowhere(visit, key)
        fake_anthropic.release.set()

    async def test_is_nowhere_after_a_rotation(self, admin: Visit) -> None:
        key = make_key()
        await admin.section("Key")
        await admin.button("Rotate").click()
        await paste_key(admin, key)
        await admin.page.get_by_role("dialog").get_by_role("button", name="Rotate", exact=True).click()
        await expect(admin.page.get_by_text("The old key is kept for a rollback.")).to_be_visible()

        await assert_nowhere(admin, key)

    async def test_is_gone_when_the_dialog_closes(self, admin: Visit) -> None:
        key = make_key()
        await admin.section("Key")
        await admin.button("Rotate").click()
        await paste_key(admin, key)
        await admin.page.keyboard.press("Escape")
        await expect(admin.page.get_by_role("dialog")).to_have_count(0)

        await assert_nowhere(admin, key)

    async def test_is_gone_after_ten_idle_minutes(
        self, visits: Callable[..., Any], make_code: Callable[..., str]
    ) -> None:
        visit: Visit = await visits()
        await visit.page.clock.install()
        await visit.open(make_code())
        await fill_key_form(visit, make_key())
        await visit.page.clock.fast_forward("09:00")
        await expect(visit.field(FIELD)).not_to_have_value("")
        await visit.page.clock.fast_forward("02:00")

        await expect(visit.field(FIELD)).to_have_value("")
        await expect(visit.field("Label")).to_have_value("Acme production")

    async def test_is_only_in_the_field_after_a_refusal_and_gone_after_cancel(self, visit: Visit) -> None:
        key = make_key()
        await visit.page.route("**/provider-credentials", refuse)
        await fill_key_form(visit, key)
        await save(visit)
        await expect(visit.page.get_by_role("alert")).to_contain_text("secret_store_unavailable")

        assert await places_with(visit.page, key) == ["values"]
        await expect(visit.field("Label")).to_have_value("Acme production")
        await visit.button("Cancel").click()
        await expect(visit.field(FIELD)).to_have_count(0)
        await assert_nowhere(visit, key)

    async def test_is_gone_when_another_section_opens(self, visit: Visit) -> None:
        key = make_key()
        await fill_key_form(visit, key)
        await visit.section("Activity")

        await assert_nowhere(visit, key)

    async def test_is_gone_when_the_page_is_left(self, visit: Visit) -> None:
        key = make_key()
        await fill_key_form(visit, key)

        await visit.page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")

        await expect(visit.field(FIELD)).to_have_value("")
        await assert_nowhere(visit, key)

    @pytest.mark.skipif(CHROMIUM is None, reason=MISSING)
    async def test_is_not_on_disk_after_the_browser_was_killed(
        self, origin: str, make_code: Callable[..., str]
    ) -> None:
        key = make_key()
        async with own_chromium() as chromium:
            visit = Visit(page=chromium.context.pages[0], context=chromium.context, origin=origin)
            await visit.open(make_code())
            await fill_key_form(visit, key)
            other = await chromium.context.new_page()  # the browser writes what it keeps of the other tab
            await other.goto("about:blank")
            chromium.kill()
            assert list(chromium.profile.rglob("*"))  # there is a profile to search
            assert files_with(chromium.profile, key) == []

    @pytest.mark.skipif(CHROMIUM is None, reason=MISSING)
    async def test_is_gone_when_the_page_comes_back_from_the_cache(
        self, origin: str, host: tuple[Host, str], tenant: Tenant
    ) -> None:
        key = make_key()
        policy = f"default-src 'none'; script-src 'self' {origin}; connect-src {origin}; style-src {origin}"
        element = '<script type="module" src="/app.js"></script><pharaoh-byok></pharaoh-byok>'
        host[0].documents["/"] = ("text/html", element, policy)
        host[0].documents["/app.js"] = (
            "text/javascript",
            (
                f"import '{origin}/billing/element.js';"
                f" document.querySelector('pharaoh-byok').getToken = async () => '{tenant.token}'; window.kept = 1;"
            ),
            policy,
        )
        host[0].documents["/other"] = ("text/html", "<p>Other</p>", policy)
        async with own_chromium() as chromium:
            visit = Visit(page=chromium.context.pages[0], context=chromium.context, origin=origin)
            await visit.page.goto(host[1])
            await fill_key_form(visit, key)
            await visit.page.goto(f"{host[1]}/other")
            await visit.page.evaluate("setTimeout(() => history.back())")

            await expect(visit.field("Label")).to_have_value("Acme production")
            assert await visit.page.evaluate("window.kept") == 1  # it came back as it was
            await expect(visit.field(FIELD)).to_have_value("")
            assert await places_with(visit.page, key) == []


class TestRepeatedSave:
    async def test_without_a_response_makes_one_credential(self, visit: Visit, tenant: Tenant) -> None:
        await visit.page.route("**/provider-credentials", lose_response_once())
        await fill_key_form(visit, make_key())
        await save(visit)
        await expect(visit.page.get_by_role("alert")).to_contain_text("Check the connection, then try again")

        await visit.button("Try again").click()

        await expect(visit.page.get_by_text("Valid, and in use")).to_be_visible()
        assert len((await tenant.get(tenant.credentials)).json()["data"]) == 1


async def refuse(route: Any) -> None:
    """A 503 for writes, as when the key store does not respond."""
    if route.request.method != "POST":
        await route.continue_()
        return
    problem = {"code": "secret_store_unavailable", "status": 503, "request_id": "req_1", "detail": ""}
    await route.fulfill(status=503, json=problem, headers={"Retry-After": "1"})


def lose_response_once() -> Callable[[Any], Any]:
    """Send the first write to the service, and lose its response."""
    lost: list[bool] = []

    async def handle(route: Any) -> None:
        if route.request.method == "POST" and not lost:
            lost.append(True)
            await route.fetch()
            await route.abort()
        else:
            await route.continue_()

    return handle
