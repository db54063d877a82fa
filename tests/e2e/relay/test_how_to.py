"""docs/how-to/relay.md works as written: its shell blocks, and its examples with Anthropic's SDKs."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.support.documentation import ROOT, blocks
from tests.support.processes.checkout import linked_checkout
from tests.support.processes.commands import byok
from tests.support.processes.fake_anthropic import provider_process
from tests.support.processes.service import Service, running
from tests.support.processes.walkthrough import TOOLS, follow, stop_postgresql, variables
from tests.support.provider.fake_anthropic import make_key
from tests.support.relay.sdks.installed import PYTHON_VERSIONS, TYPESCRIPT_VERSION, Sdk

pytestmark = pytest.mark.slow

PAGE = "docs/how-to/relay.md"
DOCUMENTED_URL = "http://127.0.0.1:8000"
ORGANIZATION = "org_acme"


@pytest.fixture(scope="module")
async def provider_url() -> AsyncIterator[str]:
    async with provider_process() as url:
        yield url


@pytest.fixture
def checkout() -> Iterator[Path]:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    with linked_checkout() as home:
        yield home


@pytest.fixture(scope="module")
async def service(provider_url: str) -> AsyncIterator[Service]:
    async with running(PROVIDER__DEFAULT_BASE_URL=provider_url) as service:
        saved = (await service.save(ORGANIZATION, make_key())).json()
        mode = {"mode": "byo", "credential_id": saved["id"]}
        await service.request("PUT", f"/v1/organizations/{ORGANIZATION}/usage-mode", json=mode)
        yield service


@pytest.fixture(scope="module")
async def token(service: Service) -> str:
    arguments = ("token", "--scope", "relay:messages", "--organization", ORGANIZATION)
    return (await byok(*arguments, cwd=service.home, **service.environment)).stdout.strip()


def example(language: str, url: str) -> str:
    (found,) = [block for block in blocks((ROOT / PAGE).read_text()) if block.language == language]
    assert DOCUMENTED_URL in found.text
    return found.text.replace(DOCUMENTED_URL, url)


async def output_of(*command: str, directory: Path, token: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=directory,
        env={"PATH": os.environ["PATH"], "TOKEN": token, "PYTHONUTF8": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode().strip()


class TestHowTo:
    async def test_shell_blocks_work_as_written(self, checkout: Path, provider_url: str) -> None:
        settings = variables(PROVIDER__DEFAULT_BASE_URL=provider_url) | {"ANTHROPIC_API_KEY": make_key()}
        try:
            await follow(PAGE, checkout, settings)
        finally:
            await stop_postgresql(checkout / ".data")

    @pytest.mark.parametrize("version", PYTHON_VERSIONS)
    async def test_python_example_works(
        self, service: Service, token: str, installed_sdk: Callable[[str], Sdk], version: str
    ) -> None:
        sdk = installed_sdk(f"python-{version}")
        program = example("python", service.url)

        assert await output_of(sdk.command[0], "-c", program, directory=sdk.directory, token=token) == "Hello"

    async def test_typescript_example_works(
        self, service: Service, token: str, installed_sdk: Callable[[str], Sdk]
    ) -> None:
        sdk = installed_sdk(f"typescript-{TYPESCRIPT_VERSION}")
        program = sdk.directory / "example.mjs"
        program.write_text(example("typescript", service.url))

        found = await output_of(sdk.command[0], str(program), directory=sdk.directory, token=token)

        assert found == "Hello wörld"
