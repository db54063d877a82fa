"""Compiles TypeScript programs in strict mode against the generated types, and runs them."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.documentation import ROOT
from tests.support.requirements import is_required

TOUR = Path(__file__).with_name("tour.ts")
_SCRIPTS = ROOT / "scripts"
_PACKAGE = _SCRIPTS / "openapi_clients"
_PAGE_TYPES = _SCRIPTS / "page_types"
_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class TypeScript:
    """A directory with the compiler, the generated types and openapi-fetch."""

    directory: Path

    def compile(self, programs: Mapping[str, str]) -> dict[str, list[str]]:
        """Compile programs by name. Returns the errors of each: none if its types fit."""
        for name, source in programs.items():
            (self.directory / f"{name}.ts").write_text(source, encoding="utf-8")
        (self.directory / "programs.json").write_text(
            json.dumps({"extends": "./tsconfig.json", "files": [f"{name}.ts" for name in programs]}),
            encoding="utf-8",
        )
        done = subprocess.run(
            [str(self.directory / "node_modules/.bin/tsc"), "--project", "programs.json"],
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
        lines = done.stdout.splitlines()
        assert (done.returncode == 0) == (not lines), done.stderr
        return {name: [line for line in lines if line.startswith(f"{name}.ts(")] for name in programs}

    async def run(self, name: str, variables: Mapping[str, str]) -> Any:
        """Run a compiled program, and return the JSON that it prints."""
        process = await asyncio.create_subprocess_exec(
            *("node", f"{name}.js"),
            cwd=self.directory,
            env={"PATH": os.environ["PATH"], **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        async with asyncio.timeout(_SECONDS):
            output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()[-3000:]
        return json.loads(output)


def prepare_typescript(directory: Path) -> TypeScript:
    """Install the locked packages, generate the types, and prepare a directory. Skips the test if that is impossible."""
    if shutil.which("npm") is None:
        _give_up("npm is missing (Debian packages nodejs and npm)")
    generated = subprocess.run(
        [str(_SCRIPTS / "generate_openapi_types")],
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
    )
    if generated.returncode != 0:
        _give_up(f"the npm packages cannot be installed: {generated.stderr.strip()[-300:]}")
    directory.mkdir(exist_ok=True)
    for name in ("openapi.d.ts", "tsconfig.json"):
        shutil.copy(_PACKAGE / name, directory)
    (directory / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    (directory / "node_modules").symlink_to(_PACKAGE / "node_modules")
    return TypeScript(directory=directory)


@dataclass(frozen=True, kw_only=True)
class PageTypes:
    """A directory with a copy of the billing page's modules, and the compiler that checks them."""

    directory: Path

    def check(self, modules: Mapping[str, str]) -> dict[str, list[str]]:
        """Check the page with more modules by name. Returns the errors of each file that has some."""
        for name, source in modules.items():
            (self.directory / "files" / name).write_text(source, encoding="utf-8")
        done = subprocess.run(
            [str(_PAGE_TYPES / "node_modules/.bin/tsc"), "--project", "tsconfig.json"],
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("files/")]
        assert (done.returncode == 0) == (not lines), done.stdout + done.stderr
        errors: dict[str, list[str]] = {}
        for line in lines:
            errors.setdefault(line.partition("(")[0].removeprefix("files/"), []).append(line)
        return errors


def prepare_page_types(directory: Path) -> PageTypes:
    """Copy the modules of the page, and generate the types of the API. Skips the test if that is impossible."""
    prepare_typescript(directory / "clients")
    installed = subprocess.run(
        [str(_SCRIPTS / "install-npm"), "page_types"],
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
    )
    if installed.returncode != 0:
        _give_up(f"the npm packages cannot be installed: {installed.stderr.strip()[-300:]}")
    shutil.copytree(ROOT / "app/page/files", directory / "files")
    config = {
        "extends": str(_PAGE_TYPES / "tsconfig.json"),
        "compilerOptions": {"paths": {"byok-openapi": [str(directory / "clients/openapi.d.ts")]}},
        "include": ["files/**/*.js", "files/**/*.d.ts"],
        "exclude": ["files/vendor/*.js"],
    }
    (directory / "tsconfig.json").write_text(json.dumps(config), encoding="utf-8")
    return PageTypes(directory=directory)


def _give_up(reason: str) -> None:
    if is_required("node"):
        pytest.fail(reason)
    pytest.skip(reason)
