"""Every request body has a bounded number of validation errors, and so a bounded cost."""

from collections.abc import Iterator
from typing import Any

import pytest

import app.composition.routes  # noqa: F401  # imports all models
from app.api.schemas import RequestModel

_LISTS = {"list", "tuple", "set", "frozenset", "deque", "generator"}


def _models(model: type[RequestModel] = RequestModel) -> Iterator[type[RequestModel]]:
    for child in model.__subclasses__():
        yield child
        yield from _models(child)


def _schemas(node: Any) -> Iterator[dict[str, Any]]:
    """All parts of a core schema of pydantic."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ()
    if isinstance(node, dict) and isinstance(node.get("type"), str):
        yield node
    for child in children:
        yield from _schemas(child)


class TestRequestModels:
    @pytest.mark.parametrize("model", list(_models()))
    def test_bound_their_lists_and_stop_at_the_first_invalid_item(self, model: type[RequestModel]) -> None:
        parts = list(_schemas(model.__pydantic_core_schema__))

        assert parts
        for part in parts:
            if part["type"] in _LISTS:
                assert part.get("max_length"), f"{model.__name__} has a list without max_length"
                assert part.get("fail_fast"), f"{model.__name__} has a list without fail_fast"
            # Without declared fields, each entry may be an error.
            assert part["type"] not in {"dict", "any", "typed-dict", "dataclass"}, model.__name__
