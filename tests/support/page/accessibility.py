"""Looks at a state of the page as WCAG 2.2 AA asks: axe in both schemes, wide and narrow, and no sideways scrolling."""

import json
from pathlib import Path
from typing import Literal, TypeAlias

import axe_playwright_python
from playwright.async_api import Page, expect

from tests.support.fault_injection import sampled_cases
from tests.support.page.browser import Visit

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# Rules about a whole document, which a host decides.
HOST_RULES = {"region", "page-has-heading-one", "landmark-one-main"}
WIDE, NARROW = 1280, 320
Look: TypeAlias = tuple[Literal["light", "dark"], int]
LOOKS: tuple[Look, ...] = (("light", WIDE), ("dark", NARROW), ("light", NARROW), ("dark", WIDE))
_NO_LOOK = [None] * len(LOOKS)


async def violations(page: Page) -> list[str]:
    """What axe finds. It is evaluated, not injected, because the policy forbids scripts of others."""
    if not await page.evaluate("!!window.axe"):
        await page.evaluate(f"() => {{ {AXE}; window.axe = axe; }}")
    found = await page.evaluate(
        "(tags) => axe.run(document, { runOnly: tags, resultTypes: ['violations'] })"
        ".then((it) => it.violations.map((v) => [v.id, v.nodes.map((n) => n.target.flat().join(' ') + ' ' + n.failureSummary)]))",
        TAGS,
    )
    return [f"{rule}: {json.dumps(nodes)}" for rule, nodes in found if rule not in HOST_RULES]


async def sideways_pixels(page: Page) -> int:
    """By how many pixels the document is wider than the window."""
    width: int = await page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    return width


async def inspect(visit: Visit, state: str, *, is_loading: bool = False) -> None:
    """Assert that a state has no violation, light and dark, wide and narrow.

    Axe is what takes long. In a sampled run, it looks at half of the states every day, at each in another one of the four ways.
    """
    if not is_loading:
        await expect(visit.page.locator("[aria-busy=true]")).to_have_count(0)
    looks = set(sampled_cases((*LOOKS, *_NO_LOOK), stride=2 * len(LOOKS), of=state))
    found = []
    for scheme, width in LOOKS:
        await visit.page.emulate_media(color_scheme=scheme)
        await visit.page.set_viewport_size({"width": width, "height": 900})
        if (scheme, width) in looks:
            found += [f"{scheme} {width}: {it}" for it in await violations(visit.page)]
        assert await sideways_pixels(visit.page) <= 0, (state, scheme, width)
    assert not found, f"{state}: {found}"
