"""Measures how soon the billing page is ready, against the same first screen as a static page.

Ready is when the browser has drawn the first screen with its data. The static page is that screen, copied from the
document, with the same style sheet, from Python's http.server. Visits alternate, each in a new browser context with an
empty cache. Skipped without Chromium.
"""

import asyncio
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from playwright.async_api import Browser

import app.page
from app.auth.signing_keys import EmbeddedIssuer
from app.page.sign_in import issue_code
from bench.measures import Measure, progress
from tests.support.page.browser import launched
from tests.support.page.chromium import CHROMIUM, MISSING
from tests.support.page.site import listen
from tests.support.processes.service import Service, running

VISITS = 15
MAX_RATIO = 10
_FILES = Path(app.page.__file__).parent / "files"
# Notes the first frame in which the whole first screen is there. It runs before the page's own scripts.
_WATCH = """
const look = () => {
  const root = document.querySelector("pharaoh-byok")?.shadowRoot ?? document;
  const isThere = root.querySelector(".figures") && !root.querySelector("[aria-busy=true]");
  if (isThere) requestAnimationFrame(() => { window.readyAt = performance.now(); });
  else requestAnimationFrame(look);
};
requestAnimationFrame(look);
"""
_READY = "() => new Promise((done) => { const ask = () => (window.readyAt ? done(window.readyAt) : setTimeout(ask, 20)); ask(); })"
_SCREEN = "() => document.querySelector('pharaoh-byok').shadowRoot.innerHTML"


async def run() -> list[Measure]:
    if CHROMIUM is None:
        progress(MISSING)
        return []
    async with running() as service, launched(CHROMIUM) as browser:
        with tempfile.TemporaryDirectory() as directory:
            screen = await _screen(browser, service)
            (Path(directory) / "index.html").write_text(_static(screen), encoding="utf-8")
            _write_style(Path(directory))
            async with _serving(Path(directory)) as static:
                return await _measure(browser, service, static)


async def _measure(browser: Browser, service: Service, static: str) -> list[Measure]:
    of_page, of_static = [], []
    for _ in range(VISITS):
        of_page.append(await _ready(browser, lambda: _link(service)))
        of_static.append(await _ready(browser, lambda: static))
    page, static_page = statistics.median(of_page), statistics.median(of_static)
    progress(f"ready after {page:.0f} ms; the same screen as a static page after {static_page:.0f} ms")
    note = f"{page:.0f} ms against {static_page:.0f} ms, medians of {VISITS} visits with an empty cache"
    return [
        Measure(
            name="Billing page: time to ready, against a static page",
            value=page / static_page,
            unit="x",
            at_most=MAX_RATIO,
            note=note,
        )
    ]


async def _ready(browser: Browser, url: Callable[[], str]) -> float:
    """Milliseconds from the start of the navigation until the first screen is drawn."""
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    try:
        page = await context.new_page()
        await page.add_init_script(_WATCH)
        await page.goto(url())
        ready: float = await page.evaluate(_READY)
        return ready
    finally:
        await context.close()


async def _screen(browser: Browser, service: Service) -> str:
    context = await browser.new_context()
    try:
        page = await context.new_page()
        await page.add_init_script(_WATCH)
        await page.goto(_link(service))
        await page.evaluate(_READY)
        screen: str = await page.evaluate(_SCREEN)
        return screen
    finally:
        await context.close()


def _link(service: Service) -> str:
    """A link with a code for one visit, as `byok page` prints it."""
    code = issue_code(
        EmbeddedIssuer.load_or_create(service.data_dir),
        subject="ada@acme.example",
        organization_id="org_page",
        role="billing-admin",
        ttl=timedelta(hours=1),
    )
    return f"{service.url}/billing#code={code}"


def _write_style(directory: Path) -> None:
    """Write the style of the document and of the element as one sheet."""
    sheets = [(_FILES / name).read_bytes() for name in ("document.css", "style.css")]
    (directory / "style.css").write_bytes(b"".join(sheets))


def _static(screen: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Billing</title>'
        f'<link rel="stylesheet" href="style.css"></head><body>{screen}</body></html>'
    )


@asynccontextmanager
async def _serving(directory: Path) -> AsyncIterator[str]:
    """Serve the files of a directory. The port is free when the server starts."""
    with listen() as listener:
        port = listener.getsockname()[1]
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"),
        cwd=directory,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await _until_open(port)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        await server.wait()


async def _until_open(port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return
