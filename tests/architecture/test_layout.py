"""Where files are: the tests' tree mirrors the application's, directories stay small, and functions stay short."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.core import errors

ROOT = Path(__file__).parents[2]
APP, TESTS = ROOT / "app", ROOT / "tests"
MIRRORS = ("unit", "integration", "api")
HELPERS = Path("support")  # tests of tests.support
MAX_MODULES = 20
MAX_LINES_OF_A_FUNCTION = 45  # forty need a second look; more than this is too long

MODULES = {path.relative_to(APP).with_suffix("") for path in APP.rglob("*.py")}
PACKAGES = sorted(path.parent for path in APP.rglob("__init__.py"))


def modules_of(kind: str) -> Iterator[Path]:
    """The test modules below `tests/kind`, relative to it."""
    return (path.relative_to(TESTS / kind) for path in (TESTS / kind).rglob("test_*.py"))


def subject_of(path: Path) -> Path:
    return path.with_name(path.stem.removeprefix("test_"))


class TestTheTreeOfTests:
    @pytest.mark.parametrize("kind", MIRRORS)
    def test_has_the_directories_of_the_application(self, kind: str) -> None:
        strays = {
            path.parent
            for path in modules_of(kind)
            if path.parent != HELPERS and not (APP / path.parent).is_dir()
        }

        assert strays == set()

    def test_has_the_unit_tests_of_a_module_beside_its_siblings(self) -> None:
        names = {module.name: module for module in MODULES}
        misplaced = {
            str(path): str(names[subject_of(path).name])
            for path in modules_of("unit")
            if path.parent != HELPERS and subject_of(path) not in MODULES and subject_of(path).name in names
        }

        assert misplaced == {}


class TestSizes:
    @pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(ROOT)))
    def test_a_directory_has_at_most_twenty_modules(self, package: Path) -> None:
        assert len([*package.glob("*.py")]) - 1 <= MAX_MODULES  # without __init__.py

    def test_a_function_fits_on_a_screen(self) -> None:
        long = [
            f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
            for path in APP.rglob("*.py")
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (node.end_lineno or node.lineno) - node.lineno + 1 > MAX_LINES_OF_A_FUNCTION
        ]

        assert long == []


class TestTheTreeOfErrors:
    def test_has_every_error_of_the_module(self) -> None:
        named = set((errors.__doc__ or "").replace("─", " ").split())

        assert [name for name in vars(errors) if _is_error(name) and name not in named] == []


def _is_error(name: str) -> bool:
    found = getattr(errors, name)
    return isinstance(found, type) and issubclass(found, errors.ByokError)
