"""The page runs under its strict policy without a violation, and talks only to its own origin."""

from playwright.async_api import expect

from tests.support.page.browser import Visit
from tests.support.provider.fake_anthropic import make_key

SECTIONS = ("Key", "Usage", "Limits", "Statements", "Activity", "Overview")
# Reports the violations of the policy, because a script sees no error.
WATCH = "window.violations = []; addEventListener('securitypolicyviolation', (it) => violations.push(it.violatedDirective))"


class TestPolicy:
    async def test_is_never_violated_and_nothing_reaches_the_console(self, visit: Visit) -> None:
        await visit.page.evaluate(WATCH)
        await visit.button("Use your own key").click()
        await visit.field("Anthropic API key").focus()
        await visit.page.keyboard.insert_text(make_key())
        await visit.field("Label").fill("Acme")
        await visit.button("Save and validate").click()
        await expect(visit.page.get_by_text("Valid, and in use")).to_be_visible()
        for section in SECTIONS:
            await visit.section(section)
            await expect(visit.page.locator("[aria-busy=true]")).to_have_count(0)

        assert await visit.page.evaluate("violations") == []
        assert visit.messages == []
        assert {it.url.partition("/billing")[0].partition("/v1")[0] for it in visit.requests} <= {
            visit.origin,
            "data:,",
        }

    async def test_blocks_a_seeded_inline_script_and_a_seeded_sink(self, visit: Visit) -> None:
        await visit.page.evaluate(WATCH)
        await visit.page.evaluate(
            "() => { const it = document.createElement('script'); it.setAttribute('nonce', 'x');"
            " try { it.text = 'window.ran = 1' } catch { window.refused = 1 }"
            " try { document.body.innerHTML = '<b>x</b>' } catch { window.sink = 1 } }"
        )
        assert await visit.page.evaluate("[window.ran, window.refused, window.sink]") == [None, 1, 1]
        assert "require-trusted-types-for" in await visit.page.evaluate("violations")

    async def test_keeps_the_code_out_of_the_address_and_the_history(self, visit: Visit) -> None:
        assert visit.page.url == f"{visit.origin}/billing"
        assert await visit.page.evaluate("history.length") <= 2
        assert not [it for it in visit.requests if "code=" in it.url.partition("#")[0]]
