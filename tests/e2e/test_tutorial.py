"""The README's quickstart and the tutorial work as written: every `shell` block runs, and its output is the one shown."""

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.processes.checkout import linked_checkout
from tests.support.processes.fake_anthropic import provider_process
from tests.support.processes.service import postmaster_on
from tests.support.processes.walkthrough import TOOLS, follow, stop_postgresql, variables


@pytest.fixture
def checkout() -> Iterator[Path]:
    """The repository as after `git clone` and `make install`: its files and an installed .venv, but no data."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    with linked_checkout() as home:
        yield home


@pytest.fixture
async def provider_url() -> AsyncIterator[str]:
    async with provider_process() as url:
        yield url


@pytest.mark.slow
class TestQuickstart:
    async def test_works_as_written(self, checkout: Path, provider_url: str) -> None:
        try:
            await follow("README.md", checkout, variables(PROVIDER__DEFAULT_BASE_URL=provider_url))

            assert postmaster_on(checkout / ".data") is None
        finally:
            await stop_postgresql(checkout / ".data")


@pytest.mark.slow
class TestTutorial:
    async def test_works_as_written(self, checkout: Path) -> None:
        data_dir = checkout / ".data" / "tutorial"
        try:
            await follow("docs/tutorial/first-key.md", checkout, variables())

            assert postmaster_on(data_dir) is None
        finally:
            await stop_postgresql(data_dir)
