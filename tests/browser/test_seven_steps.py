"""The product's seven steps, by keyboard only, in a real browser."""

from playwright.async_api import expect

from tests.support.page.browser import Visit, save_by_keyboard
from tests.support.provider.fake_anthropic import make_key
from tests.support.tenant import Tenant


class TestSevenSteps:
    async def test_by_keyboard(self, visit: Visit, tenant: Tenant) -> None:
        await save_by_keyboard(visit, make_key())
        await expect(visit.page.get_by_text("Valid, and in use")).to_be_visible()

        mode = (await tenant.get(f"{tenant.path}/usage-mode")).json()
        assert mode["mode"] == "byo"
        assert visit.messages == []


class TestTabKey:
    async def test_reaches_every_control_of_the_form_and_focus_is_never_lost(self, visit: Visit) -> None:
        await visit.button("Use your own key").click()
        await visit.main.get_by_text("Advanced").click()
        await visit.field("Anthropic API key").focus()
        reached = []
        for _ in range(9):
            await visit.page.keyboard.press("Tab")
            reached.append(
                await visit.page.evaluate(
                    "() => { const it = document.querySelector('pharaoh-byok').shadowRoot.activeElement;"
                    " return (it?.labels?.[0] ?? it)?.innerText ?? '' }"
                )
            )
        assert reached[0] == "Label"
        assert reached[-2:] == ["Save and validate", "Cancel"]
        assert "" not in reached
        await visit.page.keyboard.press("Enter")
        await expect(visit.field("Anthropic API key")).to_have_count(0)
