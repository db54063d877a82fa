"""Test modules import nothing from other test modules: what they share is in `tests.support`."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
# Command-line programs whose functions a test calls too.
PROGRAMS = {"tests.url_policy_corpus", "tests.limit_scopes_corpus", "tests.usage_costs_corpus", "tests.run"}
MODULES = sorted(path for path in TESTS.rglob("*.py") if path.name != "__init__.py")


def imported(source: str, package: str) -> Iterator[str]:
    """The modules and names that a module imports, as dotted paths. `package` is the package that contains it."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                parent = ".".join(package.split(".")[: len(package.split(".")) - level + 1]) if level else ""
                base = ".".join(part for part in (parent, module) if part)
                yield from (f"{base}.{alias.name}" for alias in names)
            case _:
                pass


def forbidden(source: str, package: str) -> list[str]:
    """The imports of a module from `tests`, except those from `tests.support` and from programs."""
    return [
        name
        for name in imported(source, package)
        if (name == "tests" or name.startswith("tests."))
        and not f"{name}.".startswith(("tests.support.", *(f"{program}." for program in PROGRAMS)))
    ]


def package_of(path: Path) -> str:
    return ".".join(path.relative_to(TESTS.parent).parent.parts)


class TestImports:
    def test_lead_only_into_the_support_package(self) -> None:
        found = {
            str(path.relative_to(TESTS)): forbidden(path.read_text(encoding="utf-8"), package_of(path))
            for path in MODULES
        }

        assert {path: names for path, names in found.items() if names} == {}

    @pytest.mark.parametrize(
        "source",
        [
            "import tests.api.test_x",
            "from tests import conftest",
            "from tests.api import test_x",
            "from tests.conftest import Tenant",
            "from . import test_x",
            "from .test_x import helper",
            "from ..unit import test_x",
            "def f():\n    from tests.e2e.test_x import helper",
        ],
    )
    def test_from_elsewhere_are_found(self, source: str) -> None:
        assert forbidden(source, "tests.api") != []

    @pytest.mark.parametrize(
        "source", ["import app", "from tests.support.tenant import Tenant", "import tests.support.tenant"]
    )
    def test_of_helpers_are_allowed(self, source: str) -> None:
        assert forbidden(source, "tests.api") == []
