"""Anthropic's own SDKs, each version installed apart from the tests, from PyPI and npm."""

import asyncio
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.fault_injection import sampled

# The newest version every day, and in turn the newest of 2.12 and the last that sends `x-api-key`.
PYTHON_VERSIONS = ("2.14.0", *sampled(("2.12.0", "1.17.0")))
TYPESCRIPT_VERSION = "1.14.0"
SDKS = (*(f"python-{version}" for version in PYTHON_VERSIONS), f"typescript-{TYPESCRIPT_VERSION}")

_DRIVERS = Path(__file__).parent
_UV = Path(sys.executable).with_name("uv")
_INSTALL_SECONDS = 120
# A process makes all requests of a test, on a machine that other tests use too.
_RUN_SECONDS = 400


@dataclass(frozen=True, kw_only=True)
class Sdk:
    """One installed SDK, and the command that runs its driver."""

    name: str
    directory: Path
    command: tuple[str, ...]

    @property
    def is_python(self) -> bool:
        return self.name.startswith("python")

    async def run(self, job: Mapping[str, Any], *, environment: Mapping[str, str] | None = None) -> Any:
        """Run the driver in a clean environment. Returns the results, one for each scenario or stream."""
        process = await asyncio.create_subprocess_exec(
            *self.command,
            cwd=self.directory,
            env={"PATH": os.environ["PATH"], "PYTHONUTF8": "1", **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        async with asyncio.timeout(_RUN_SECONDS):
            output, errors = await process.communicate(json.dumps(job).encode())
        assert process.returncode == 0, errors.decode()[-3000:]
        done = json.loads(output)
        assert done["version"] == self.name.rpartition("-")[2]
        return done["results"]


def install(name: str, directory: Path) -> Sdk:
    """Install the SDK with this name, or skip the test: not every machine reaches a registry.

    Several processes may share the directory. The first one installs, and the others wait for it.
    """
    language, _, version = name.partition("-")
    directory.mkdir(exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if language == "python":
            command = (str(_python(directory)), str(_DRIVERS / "python_driver.py"))
            install_once = _install_python
        else:
            command = (_node(), str(_DRIVERS / "typescript_driver.mjs"))
            install_once = _install_typescript
        installed = directory / ".installed"
        if not installed.exists():
            install_once(version, directory)
            installed.touch()
    return Sdk(name=name, directory=directory, command=command)


def _python(directory: Path) -> Path:
    return directory / "venv" / "bin" / "python"


def _install_python(version: str, directory: Path) -> None:
    python = str(_python(directory))
    _run([str(_UV), "venv", "--quiet", "--python", sys.executable, str(directory / "venv")], directory)
    _run([str(_UV), "pip", "install", "--quiet", "--python", python, f"anthropic=={version}"], directory)


def _node() -> str:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is missing (Debian package nodejs)")
    return node


def _install_typescript(version: str, directory: Path) -> None:
    (directory / "package.json").write_text("{}")
    _run(["npm", "install", "--no-audit", "--no-fund", f"@anthropic-ai/sdk@{version}"], directory)


def _run(command: Sequence[str], directory: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, check=False, timeout=_INSTALL_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"the SDK cannot be installed: {type(error).__name__}")
    if done.returncode != 0:
        pytest.skip(f"the SDK cannot be installed: {done.stderr.strip()[-300:]}")
