"""Pages describe the import contracts in pyproject.toml as they are."""

import re
import tomllib
from typing import Any

from tests.support.documentation import ROOT, pages


def order_of_page() -> list[set[str]]:
    """The lines of the page's picture, split at the dots: features that are side by side are separated by commas."""
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    picture = " ".join(
        re.findall(r"^    (.+)$", text.partition("From the top:")[2].partition("\n\nIf ")[0], re.MULTILINE)
    )
    return [set(level.replace(" ", "").split(",")) for level in picture.split("·") if level.strip()]


def contracts() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
        "tool"
    ]["importlinter"]["contracts"]
    return found


def order_of_contract() -> list[set[str]]:
    layers = next(contract["layers"] for contract in contracts() if contract.get("containers") == ["app"])
    return [set(layer.replace(" ", "").split("|")) for layer in layers]


class TestOrderOfFeatures:
    def test_is_that_of_the_import_contract(self) -> None:
        assert order_of_page() == order_of_contract()


class TestNamesOfContracts:
    def test_are_those_of_the_configuration(self) -> None:
        text = " ".join(" ".join(page.read_text(encoding="utf-8").split()) for page in pages())

        named = set(re.findall(r'import contract "([^"]+)"', text))

        assert named
        assert named <= {contract["name"] for contract in contracts()}
