"""Each place that is searched for a key finds one that a test put there."""

from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.support.page.browser import Visit
from tests.support.page.chromium import CHROMIUM, MISSING
from tests.support.page.leaks import files_with, heap_strings, holds, places_with, readable, requests_with
from tests.support.page.own_chromium import own_chromium
from tests.support.polling import resolved, until
from tests.support.provider.fake_anthropic import make_key

FIELD = "Anthropic API key"
# Creates a database with this name and this record.
STORE = """(name, record) => new Promise((resolve) => {
  const request = indexedDB.open(name);
  request.onupgradeneeded = () => request.result.createObjectStore('store').put(record, 1);
  request.onsuccess = () => resolve(request.result.close());
})"""


class TestDetectors:
    """Each place that is searched finds a key that a test put there."""

    @pytest.mark.sampled(stride=5)
    @pytest.mark.parametrize(
        ("place", "script"),
        [
            ("text", "k => document.querySelector('pharaoh-byok').shadowRoot.append(k)"),
            (
                "values",
                "k => { const i = document.createElement('input'); i.value = k; document.body.append(i) }",
            ),
            ("attributes", "k => document.body.setAttribute('data-x', k)"),
            ("properties", "k => { document.body.kept = k }"),
            ("local", "k => localStorage.setItem('x', k)"),
            ("session", "k => sessionStorage.setItem('x', k)"),
            ("caches", "k => caches.open(k)"),
            ("caches", "async k => (await caches.open('x')).put('/x', new Response(k))"),
            ("databases", f"k => ({STORE})(k, 1)"),
            ("databases", f"k => ({STORE})('x', k)"),
            ("cookies", "k => { document.cookie = 'x=' + k }"),
            ("history", "k => history.replaceState({ k }, '')"),
            ("address", "k => { history.pushState(null, '', '#' + k); history.pushState(null, '', '#') }"),
            ("address", "k => history.replaceState(null, '', '#' + k)"),
            ("performance", "k => performance.mark(k)"),
            ("regexp", "k => /sk-(.*)/.test(k)"),
            ("globals", "k => { window.kept = k }"),
        ],
    )
    async def test_find_a_seeded_leak(self, visit: Visit, place: str, script: str) -> None:
        key = make_key()
        # While the page renders, regular expressions of Preact replace the last text.
        await expect(visit.page.locator("[aria-busy=true]")).to_have_count(0)
        await visit.page.evaluate(script, key)
        assert place in await places_with(visit.page, key)

    async def test_find_a_key_in_the_heap(self, visit: Visit) -> None:
        key = make_key()
        await visit.page.evaluate("k => { window.kept = { deep: [k] } }", key)
        session = await visit.context.new_cdp_session(visit.page)
        assert [it for it in await heap_strings(session) if holds(it, key)] != []

    async def test_find_a_key_in_requests(self, visit: Visit) -> None:
        key = make_key()
        await visit.page.evaluate(
            "k => fetch('/livez?k=' + k, { method: 'POST', headers: { 'x-k': k }, body: k })", key
        )
        assert list(requests_with(visit.requests, key)) == [
            "POST /livez url",
            "POST /livez headers",
            "POST livez body",
        ]

    async def test_find_a_key_in_the_console(self, visit: Visit) -> None:
        key = make_key()
        await visit.page.evaluate("k => console.log('x', k)", key)
        await until(lambda: resolved(visit.console), lambda it: holds("\n".join(it), key))

    @pytest.mark.skipif(CHROMIUM is None, reason=MISSING)
    async def test_find_a_key_in_the_profile_of_a_killed_browser(self, origin: str) -> None:
        key = make_key()
        async with own_chromium() as chromium:
            page = chromium.context.pages[0]
            await page.goto(f"{origin}/billing")
            await page.evaluate("k => localStorage.setItem('x', k)", key)
            found = await until(lambda: resolved(files_with(chromium.profile, key)), bool, timeout_seconds=60)
            chromium.kill()
            assert set(files_with(chromium.profile, key)) & set(found)

    def test_find_a_key_on_disk_in_both_encodings(self, tmp_path: Path) -> None:
        key = make_key()
        (tmp_path / "one").write_bytes(b"x" + key.encode())
        (tmp_path / "two").write_bytes(b"x" + key.encode("utf-16-le"))
        assert sorted(files_with(tmp_path, key)) == ["one", "two"]

    async def test_read_the_page_at_all(self, visit: Visit) -> None:
        assert "Overview" in (await readable(visit.page))["text"]
