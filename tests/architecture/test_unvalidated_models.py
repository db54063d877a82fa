"""Response models that `unvalidated` makes are listed here, and tests compare them with what validation makes."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import app
from app.api.schemas import ResponseModel

SOURCE = Path(app.__file__).parent
# tests/unit/credentials/test_schemas.py and tests/unit/usage_reports/test_schemas.py make these in every branch. A model that is added here needs such a test.
UNVALIDATED = {
    ("api/money.py", "Money"),
    ("credentials/schemas.py", "Credential"),
    ("credentials/version_schemas.py", "CredentialVerdict"),
    ("credentials/version_schemas.py", "LatestAttempt"),
    ("usage_reports/schemas.py", "CacheCreation"),
    ("usage_reports/schemas.py", "UsageReportResult"),
}


def made(source: str) -> Iterator[str]:
    """What the calls of `unvalidated` are given. Any other use of the name is yielded as `other`."""
    tree = ast.parse(source)
    calls = [it for it in ast.walk(tree) if isinstance(it, ast.Call) and _names(it.func) == "unvalidated"]
    yield from (", ".join(map(ast.unparse, [*call.args, *call.keywords])) for call in calls)
    called = [call.func for call in calls]
    for node in ast.walk(tree):
        is_renamed = isinstance(node, ast.alias) and node.name == "unvalidated" and node.asname is not None
        if is_renamed or (_names(node) == "unvalidated" and node not in called):
            yield "other"


def _names(node: ast.AST) -> str | None:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return None


def sources() -> Iterator[tuple[str, str]]:
    for path in SOURCE.rglob("*.py"):
        yield path.relative_to(SOURCE).as_posix(), path.read_text(encoding="utf-8")


class TestUnvalidatedModels:
    def test_are_these(self) -> None:
        assert {(file, model) for file, source in sources() for model in made(source)} == UNVALIDATED

    @pytest.mark.parametrize(("file", "name"), sorted(UNVALIDATED))
    def test_have_no_validators_that_would_be_skipped(self, file: str, name: str) -> None:
        module = importlib.import_module(f"app.{file.removesuffix('.py').replace('/', '.')}")
        model: type[ResponseModel] = getattr(module, name)
        decorators = model.__pydantic_decorators__

        assert not decorators.field_validators
        assert not decorators.model_validators
        assert not decorators.root_validators
        assert not decorators.validators

    @pytest.mark.parametrize(
        ("source", "found"),
        [
            ("make = unvalidated(Thing)", ["Thing"]),
            ("schemas.unvalidated(schemas.Thing)(name=1)", ["schemas.Thing"]),
            ("def of():\n    return unvalidated(Thing)(name=1)", ["Thing"]),
            ("map(unvalidated, models)", ["other"]),
            ("from app.api.schemas import unvalidated as fast", ["other"]),
            ("from app.api.schemas import unvalidated", []),
        ],
    )
    def test_are_found_in_every_form(self, source: str, found: list[str]) -> None:
        assert list(made(source)) == found
