"""What a first visit costs: the time until it is ready, requests, kilobytes, modules and lines. Printed with `-s`."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.async_api import expect

import app.page
from tests.support.page.browser import Visit

FILES = Path(app.page.__file__).parent / "files"
# When the last section of the first screen was shown, on the clock of the browser.
READY = "() => Math.round(performance.now())"
SIZES = (
    "performance.getEntriesByType('navigation').concat(performance.getEntriesByType('resource'))"
    ".map((it) => it.encodedBodySize)"
)
PAINT = "Math.round(performance.getEntriesByName('first-contentful-paint')[0].startTime)"


class TestFirstVisit:
    async def test_takes_few_requests_and_kilobytes(
        self, visits: Callable[..., Any], make_code: Callable[..., str]
    ) -> None:
        """Modules, the style sheet, the session, and six requests for what is shown first."""
        visit: Visit = await visits()
        await visit.open(make_code())
        await expect(visit.page.locator("[aria-busy=true]")).to_have_count(0)
        ready, painted = await visit.page.evaluate(READY), await visit.page.evaluate(PAINT)
        sizes = await visit.page.evaluate(SIZES)
        calls = [it for it in visit.requests if "/v1/" in it.url]
        modules = [it for it in visit.requests if it.url.endswith(".js")]
        own = [path for path in FILES.rglob("*.js") if "vendor" not in path.parts]
        lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in own)
        print(
            f"\nBilling page: first paint after {painted} ms, ready after {ready} ms, {len(sizes)} requests,"
            f" {sum(sizes) / 1000:.0f} kB, {len(modules)} modules ({len(own)} own with {lines} lines)"
        )

        assert len(calls) == 7
        assert len(modules) < 45
        assert sum(sizes) < 70_000
        assert ready < 20_000

    def test_is_described_with_the_sizes_of_today(self) -> None:
        """The how-to rounds to a hundred lines."""
        text = (FILES.parents[2] / "docs" / "how-to" / "billing-page.md").read_text(encoding="utf-8")
        own = [path for path in FILES.rglob("*.js") if "vendor" not in path.parts]
        lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in own)
        found = re.search(r"(\d+) modules, about ([\d,]+) lines", text)
        assert found is not None
        assert int(found[1]) == len(own)
        assert abs(int(found[2].replace(",", "")) - lines) <= 100
