"""WCAG 2.2 AA: axe finds nothing in each state, in both schemes, narrow and wide; and nothing scrolls sideways.

`make test` looks at each state with axe in one of the four ways, another one each day; `make test-exhaustive` in all.

States visited: sign-in, refused link, waiting for a host, signed out; each section shown, empty, loading, failed and
read-only; banners of both modes, of each blocker, of a schedule and without a response; the form for a key empty,
refused, with a URL, encrypting, waiting, valid, invalid, unknown and without a response; each dialog and its results;
the switch with a preview, with blockers and after a conflict; single requests. `test_usage.py` has usage while another
choice loads.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from playwright.async_api import expect

from tests.support.page.accessibility import inspect, sideways_pixels, violations
from tests.support.page.browser import Visit
from tests.support.page.site import Host

SECTIONS = ("Overview", "Key", "Usage", "Limits", "Statements", "Activity")
Visits = Callable[..., Any]
Code = Callable[..., str]


@pytest.mark.usefixtures("busy_organization")
class TestSections:
    async def test_have_no_violation(self, visits: Visits, make_code: Code) -> None:
        visit: Visit = await visits()
        await visit.open(make_code())
        for section in SECTIONS:
            await visit.section(section)
            await inspect(visit, section)

    async def test_of_a_viewer_have_no_violation(self, visits: Visits, make_code: Code) -> None:
        visit: Visit = await visits()
        await visit.open(make_code("billing-viewer"))
        for section in SECTIONS:
            await visit.section(section)
            await inspect(visit, f"{section}, read-only")

    async def test_opened_deeper_have_no_violation(self, visits: Visits, make_code: Code) -> None:
        visit: Visit = await visits()
        await visit.open(make_code())
        await visit.section("Key")
        await visit.main.get_by_text("Validations and versions").click()
        await inspect(visit, "history of a key")
        await visit.section("Usage")
        await visit.main.get_by_text("Table of the same numbers").click()
        for name in ("chat", "s1", "(none)"):
            await visit.page.get_by_role("table").get_by_role("button", name=name, exact=True).click()
        await expect(visit.page.get_by_role("heading", name="Requests", exact=True)).to_be_visible()
        await inspect(visit, "single requests")


class TestEmptyLoadingAndFailedSections:
    async def test_have_no_violation(self, visits: Visits, make_code: Code) -> None:
        visit: Visit = await visits()
        await visit.open(make_code())
        for section in SECTIONS:
            await visit.section(section)
            await inspect(visit, f"{section}, empty")

    async def test_have_no_violation_while_loading(self, visits: Visits, make_code: Code) -> None:
        visit: Visit = await visits()
        release = asyncio.Event()

        async def hold(route: Any) -> None:
            await release.wait()
            await route.abort()

        await visit.page.route("**/v1/organizations/**", hold)
        await visit.open(make_code())
        for section in SECTIONS:
            await visit.section(section)
            await expect(visit.page.get_by_text("Loading…").first).to_be_visible()
            await inspect(visit, f"{section}, loading", is_loading=True)
        release.set()
        for section in SECTIONS:
            await visit.section(section)
            await expect(visit.page.get_by_role("alert").first).to_be_visible()
            await inspect(visit, f"{section}, failed")


class TestSignIn:
    async def test_has_no_violation(self, visits: Visits, make_code: Code, host: tuple[Host, str]) -> None:
        visit: Visit = await visits()
        await visit.page.goto(f"{visit.origin}/billing")
        await expect(visit.page.get_by_label("Or paste a token")).to_be_visible()
        await inspect(visit, "sign-in")
        await visit.page.goto("about:blank")
        await visit.page.goto(f"{visit.origin}/billing#code=wrong")
        await expect(visit.page.get_by_role("alert")).to_be_visible()
        await inspect(visit, "refused link")
        await visit.page.goto("about:blank")
        await visit.open(make_code())
        await visit.page.evaluate("document.querySelector('pharaoh-byok').getToken = async () => ''")
        await visit.refresh()
        await expect(visit.page.get_by_text("Signed out. Sign in again").first).to_be_visible()
        await inspect(visit, "signed out")
        body = f'<!doctype html><html lang="en"><title>App</title><script type="module" src="{visit.origin}/billing/element.js"></script><pharaoh-byok></pharaoh-byok>'
        host[0].documents["/"] = ("text/html", body, "")
        await visit.page.goto(host[1])
        await expect(visit.page.get_by_text("Waiting for the application")).to_be_visible()
        await inspect(visit, "waiting for the host")


class TestZoomAndForcedColors:
    @pytest.mark.usefixtures("busy_organization")
    async def test_at_400_percent_nothing_scrolls_sideways(self, visits: Visits, make_code: Code) -> None:
        """A window of 1280 by 1024 pixels at 400 % has 320 by 256 CSS pixels, each of four by four pixels."""
        visit: Visit = await visits(viewport={"width": 320, "height": 256}, device_scale_factor=4)
        await visit.open(make_code())
        for section in SECTIONS:
            await visit.section(section)
            await expect(visit.page.locator("[aria-busy=true]")).to_have_count(0)
            assert await sideways_pixels(visit.page) <= 0, section
        await visit.section("Key")
        await visit.button("Rotate").click()
        rotate = visit.page.get_by_role("dialog").get_by_role("button", name="Rotate", exact=True)
        await rotate.scroll_into_view_if_needed()
        await expect(rotate).to_be_in_viewport()
        assert await sideways_pixels(visit.page) <= 0

    @pytest.mark.usefixtures("busy_organization")
    @pytest.mark.sampled(stride=2)
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    async def test_in_forced_colors_have_no_violation(
        self, visits: Visits, make_code: Code, scheme: str
    ) -> None:
        visit: Visit = await visits(forced_colors="active", reduced_motion="reduce", color_scheme=scheme)
        await visit.open(make_code())
        for section in SECTIONS:
            await visit.section(section)
            await expect(visit.page.locator("[aria-busy=true]")).to_have_count(0)
            assert await violations(visit.page) == [], section


class TestDetector:
    async def test_finds_a_seeded_fault(self, visit: Visit) -> None:
        await visit.page.evaluate(
            "document.querySelector('pharaoh-byok').shadowRoot.append(document.createElement('input'))"
        )
        assert [it.partition(":")[0] for it in await violations(visit.page)] == ["label"]

    async def test_finds_a_seeded_width(self, visit: Visit) -> None:
        await visit.page.evaluate(
            "() => { const it = document.createElement('hr'); document.body.append(it); it.style.width = '2000px'; }"
        )
        assert await sideways_pixels(visit.page) > 0


@pytest.mark.usefixtures("busy_organization")
class TestChart:
    async def test_is_read_with_the_arrow_keys(self, visits: Visits, make_code: Code) -> None:
        visit: Visit = await visits()
        await visit.open(make_code())
        await visit.section("Usage")
        chart, reading = visit.page.locator(".chart svg"), visit.page.locator(".reading")
        await chart.focus()
        await expect(reading).to_contain_text("BYO key")
        await visit.page.keyboard.press("Home")
        await expect(reading).to_contain_text("no usage")
        await visit.page.keyboard.press("ArrowLeft")
        await expect(reading).to_contain_text("no usage")
        await visit.page.keyboard.press("End")
        await expect(reading).to_contain_text("BYO key")
        await visit.page.keyboard.press("ArrowLeft")
        await expect(reading).not_to_contain_text("so far")
        await visit.page.keyboard.press("a")
        await chart.locator("g").first.click()
        await expect(reading).to_contain_text("no usage")
