"""Every path, module and link that a page names exists."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.documentation import ROOT, anchors, links, pages

# A path in one of our directories. A placeholder such as `<feature>` or `*` ends it: the part before has to exist.
_PATH = re.compile(r"(?<![\w./:-])(?:app|bench|docs|migrations|openapi|scripts|tests)(?:/[\w.\-]+)+")
_FILE = re.compile(r"`(?:[\w\-]+/)*([\w\-]+\.py)`")
_MODULE = re.compile(r"(?<![\w./:-])(?:app|bench|tests)(?:\.[a-z]\w*)+(?![\w/])")
# A changelog names files of the past.
CHANGELOG = ROOT / "CHANGELOG.md"
PAGES = pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
CURRENT_PAGES = pytest.mark.parametrize(
    "page", [page for page in pages() if page != CHANGELOG], ids=lambda page: str(page.relative_to(ROOT))
)


def paths(text: str) -> Iterator[str]:
    for found in _PATH.finditer(text):
        yield found.group().rstrip(".")


def modules(text: str) -> Iterator[str]:
    """Dotted names of modules. The last part may be a name inside the module."""
    for found in _MODULE.finditer(text):
        if not found.group().endswith(".py"):
            yield found.group()


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@cache
def file_names() -> set[str]:
    return {
        path.name
        for directory in ("app", "bench", "docs", "migrations", "scripts", "tests")
        for path in (ROOT / directory).rglob("*.py")
    }


@cache
def anchors_of(page: Path) -> set[str]:
    return set(anchors(page.read_text(encoding="utf-8")))


class TestPaths:
    @CURRENT_PAGES
    def test_exist(self, page: Path) -> None:
        missing = {path for path in paths(page.read_text(encoding="utf-8")) if not (ROOT / path).exists()}

        assert missing == set()

    @CURRENT_PAGES
    def test_of_files_without_a_directory_name_a_file(self, page: Path) -> None:
        assert set(_FILE.findall(page.read_text(encoding="utf-8"))) - file_names() == set()


class TestModules:
    @CURRENT_PAGES
    def test_exist(self, page: Path) -> None:
        named = set(modules(page.read_text(encoding="utf-8")))

        assert {
            name for name in named if not is_module(name) and not is_module(name.rpartition(".")[0])
        } == set()


class TestLinks:
    @PAGES
    def test_lead_to_files(self, page: Path) -> None:
        targets = {target.partition("#")[0] for target in links(page.read_text(encoding="utf-8"))}

        assert {target for target in targets if not (page.parent / target).exists()} == set()

    @PAGES
    def test_lead_to_headings(self, page: Path) -> None:
        broken = set()
        for target in links(page.read_text(encoding="utf-8")):
            name, _, anchor = target.partition("#")
            linked = page.parent / name if name else page
            if anchor and linked.exists() and anchor not in anchors_of(linked):
                broken.add(target)

        assert broken == set()

    def test_reach_every_page_from_the_readme(self) -> None:
        reached, todo = set(), [ROOT / "README.md"]
        while todo:
            page = todo.pop().resolve()
            if page.suffix == ".md" and page.exists() and page not in reached:
                reached.add(page)
                text = page.read_text(encoding="utf-8")
                todo += [page.parent / target.partition("#")[0] for target in links(text)]

        assert set(pages()) - reached == set()
