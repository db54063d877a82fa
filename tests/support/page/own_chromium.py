"""Chromium as a visitor runs it: with a profile on disk and the back/forward cache, and it can be killed."""

import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.async_api import BrowserContext, async_playwright

from tests.support.page.browser import ARGUMENTS
from tests.support.page.chromium import CHROMIUM
from tests.support.polling import until


@dataclass(kw_only=True)
class OwnChromium:
    """A running Chromium, its only context and its profile."""

    process: subprocess.Popen[bytes]
    context: BrowserContext
    profile: Path

    def kill(self) -> None:
        """Stop it at once, as a crash or a power cut would."""
        self.process.kill()
        self.process.wait()


@asynccontextmanager
async def own_chromium() -> AsyncIterator[OwnChromium]:
    assert CHROMIUM is not None
    profile = Path(tempfile.mkdtemp(prefix="byok-profile-"))
    command = [
        CHROMIUM,
        "--headless=new",
        f"--user-data-dir={profile}",
        "--remote-debugging-port=0",
        *ARGUMENTS,
    ]
    process = _start([*command, "about:blank"])
    try:
        async with async_playwright() as playwright:
            port = await _debugging_port(profile)
            browser = await playwright.chromium.connect_over_cdp(f"http://127.0.0.1:{port}")
            yield OwnChromium(process=process, context=browser.contexts[0], profile=profile)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(profile, ignore_errors=True)


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


async def _debugging_port(profile: Path) -> str:
    """Chromium writes the port into its profile as soon as it listens."""
    file = profile / "DevToolsActivePort"

    async def content() -> str:
        return file.read_text() if file.is_file() else ""

    return (await until(content, bool, timeout_seconds=60)).splitlines()[0]
