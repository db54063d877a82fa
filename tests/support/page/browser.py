"""Debian's Chromium, driven by Playwright; and what a visit to the billing page recorded."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.async_api import Browser, BrowserContext, Locator, Page, async_playwright, expect

from tests.support.page.chromium import HEADLESS
from tests.support.page.coverage import record, start_recording

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]

expect.set_options(timeout=30_000)


@asynccontextmanager
async def launched(program: str | None = HEADLESS) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        await browser.close()


@dataclass(kw_only=True)
class Visit:
    """One visitor with a separate browser context, signed in as an admin or a viewer of one organization."""

    page: Page
    context: BrowserContext
    origin: str
    console: list[str] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)

    @property
    def messages(self) -> list[str]:
        """What the page caused in the console. A browser also logs every response with an error status."""
        return [it for it in self.console if not it.startswith("error: Failed to load resource")]

    @property
    def main(self) -> Locator:
        return self.page.locator("main").first

    async def open(self, code: str) -> None:
        """Open the page with a sign-in code, as `byok page` prints it."""
        await self.page.goto(f"{self.origin}/billing#code={code}")
        await expect(self.page.get_by_role("heading", name="Overview")).to_be_visible()

    async def section(self, name: str) -> None:
        await self.page.get_by_role("navigation", name="Sections").get_by_role("button", name=name).click()
        await expect(self.page.get_by_role("heading", name=name, exact=True)).to_be_visible()

    async def refresh(self) -> None:
        """Load the status again, as when the visitor returns to the tab. The page listens once a section is shown."""
        await expect(self.page.locator("section[aria-busy=false]").first).to_be_visible()
        await self.page.evaluate("dispatchEvent(new Event('focus'))")

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def field(self, label: str, *, exact: bool = False) -> Locator:
        return self.page.get_by_label(label, exact=exact)


@asynccontextmanager
async def visiting(browser: Browser, origin: str, **options: Any) -> AsyncIterator[Visit]:
    """A visit that records the console, errors, violations of the policy and requests."""
    context = await browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    page = await context.new_page()
    visit = Visit(page=page, context=context, origin=origin)
    context.on("console", lambda message: visit.console.append(f"{message.type}: {message.text}"))
    context.on("weberror", lambda error: visit.console.append(f"error: {error.error}"))
    context.on("request", lambda request: visit.requests.append(request))  # noqa: PLW0108  # Playwright needs a function
    session = await context.new_cdp_session(page)
    await start_recording(session)
    try:
        yield visit
        await record(session)
    finally:
        await context.close()


async def paste_key(visit: Visit, key: str) -> None:
    """Paste into the field for a key, without a trace in a script."""
    await visit.field("Anthropic API key").focus()
    await visit.page.keyboard.insert_text(key)


async def fill_key_form(visit: Visit, key: str, label: str = "Acme production") -> None:
    """Open the form of an organization without a key, and enter both."""
    await visit.button("Use your own key").click()
    await paste_key(visit, key)
    await visit.field("Label").fill(label)


async def save_by_keyboard(visit: Visit, key: str) -> None:
    """The product's seven steps up to "Save and validate", without a mouse."""
    await visit.button("Use your own key").focus()
    await visit.page.keyboard.press("Enter")
    await paste_key(visit, key)
    await expect(visit.page.get_by_text(f"{len(key)} characters. Will be shown as")).to_be_visible()
    await visit.page.keyboard.press("Tab")
    await visit.page.keyboard.insert_text("Acme production")
    await visit.page.keyboard.press("Enter")
