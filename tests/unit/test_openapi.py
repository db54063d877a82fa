"""The OpenAPI document: complete, true to itself, without a way out for a key, and the one in openapi/."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from app.api.examples import ExampleMissing, example_of
from app.main import openapi_document

DOCUMENT = openapi_document()
COMMITTED = Path(__file__).parents[2] / "openapi" / "openapi.json"
REFERENCE = "#/components/schemas/"

Operation = dict[str, Any]

OPERATIONS: list[Operation] = [
    {"path": path, **operation} for path, item in DOCUMENT["paths"].items() for operation in item.values()
]
PRIVATE = [operation for operation in OPERATIONS if operation["path"].startswith("/v1")]


def name_of(operation: Operation) -> str:
    return str(operation["operationId"])


def bodies(operation: Operation) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every body of a request or response: where, and its media type object."""
    for name, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"request {name}", content
    for status, response in operation["responses"].items():
        for name, content in response.get("content", {}).items():
            yield f"{status} {name}", content


def complaints(schema: dict[str, Any], value: Any) -> list[str]:
    rooted = {**schema, "components": DOCUMENT["components"]}
    validator = jsonschema_rs.Draft202012Validator(rooted, validate_formats=True)
    return [error.message for error in validator.iter_errors(value)]


def reachable(schema: Any, seen: set[str]) -> Iterator[dict[str, Any]]:
    """A schema and every one below it, references followed."""
    if isinstance(schema, list):
        for part in schema:
            yield from reachable(part, seen)
    if isinstance(schema, dict):
        yield schema
        name = schema.get("$ref", "").removeprefix(REFERENCE)
        if name and name not in seen:
            seen.add(name)
            yield from reachable(DOCUMENT["components"]["schemas"][name], seen)
        for part in schema.values():
            yield from reachable(part, seen)


class TestDocument:
    def test_is_version_3_1(self) -> None:
        assert DOCUMENT["openapi"].startswith("3.1")

    def test_is_the_one_that_is_committed(self) -> None:
        assert json.loads(COMMITTED.read_text(encoding="utf-8")) == DOCUMENT, "run `make openapi`"

    def test_operation_ids_are_unique(self) -> None:
        ids = [operation["operationId"] for operation in OPERATIONS]

        assert len(ids) == len(set(ids))

    def test_every_tag_is_described(self) -> None:
        used = {tag for operation in OPERATIONS for tag in operation["tags"]}

        assert used == {tag["name"] for tag in DOCUMENT["tags"] if tag["description"]}

    def test_names_are_fit_for_generated_clients(self) -> None:
        names = DOCUMENT["components"]["schemas"]

        assert "CredentialPage" in names
        assert all(name.isidentifier() and "_" not in name for name in names)

    def test_instants_say_that_they_are_instants(self) -> None:
        fields = DOCUMENT["components"]["schemas"]["Credential"]["properties"]

        assert fields["created_at"]["format"] == "date-time"

    @pytest.mark.parametrize("name", DOCUMENT["components"]["schemas"])
    def test_no_field_carries_an_example_that_it_would_refuse(self, name: str) -> None:
        shapes = reachable(DOCUMENT["components"]["schemas"][name], set())

        wrong = [
            complaint
            for shape in shapes
            if isinstance(shape.get("examples"), list)
            for value in shape["examples"]
            for complaint in complaints(shape, value)
        ]

        assert wrong == []


@pytest.mark.parametrize("operation", OPERATIONS, ids=name_of)
class TestEveryOperation:
    def test_says_what_it_does(self, operation: Operation) -> None:
        assert operation["operationId"]
        assert operation["summary"]
        assert operation["description"]

    def test_describes_its_parameters(self, operation: Operation) -> None:
        parameters = operation.get("parameters", [])

        assert all(parameter["description"] for parameter in parameters)
        assert all(f"{{{p['name']}}}" in operation["path"] for p in parameters if p["in"] == "path")

    def test_names_path_parameters_in_the_paths_order(self, operation: Operation) -> None:
        places = [
            operation["path"].index(f"{{{p['name']}}}")
            for p in operation.get("parameters", [])
            if p["in"] == "path"
        ]

        assert places == sorted(places)
        assert len(places) == operation["path"].count("{")

    def test_describes_its_answers(self, operation: Operation) -> None:
        said = [response["description"] for response in operation["responses"].values()]

        assert all(said)
        assert "Successful Response" not in said

    def test_has_examples_that_fit_their_schemas(self, operation: Operation) -> None:
        for where, content in bodies(operation):
            assert content["examples"], where
            for name, example in content["examples"].items():
                assert complaints(content["schema"], example["value"]) == [], f"{where} {name}"

    def test_never_answers_a_key(self, operation: Operation) -> None:
        answered = [
            content["schema"] for where, content in bodies(operation) if not where.startswith("request")
        ]

        fields = {name for shape in reachable(answered, set()) for name in shape.get("properties", {})}

        assert "api_key" not in fields

    def test_marks_what_it_takes_and_never_gives(self, operation: Operation) -> None:
        taken = [content["schema"] for where, content in bodies(operation) if where.startswith("request")]

        keys = [
            shape["properties"]["api_key"]
            for shape in reachable(taken, set())
            if "api_key" in shape.get("properties", {})
        ]

        assert all(key["writeOnly"] is True for key in keys)


@pytest.mark.parametrize("operation", PRIVATE, ids=name_of)
class TestEveryPrivateOperation:
    def test_needs_a_token(self, operation: Operation) -> None:
        assert operation["security"] == [{"bearer": []}]

    @pytest.mark.parametrize(
        ("status", "code"),
        [
            ("401", "unauthenticated"),
            ("403", "insufficient_scope"),
            ("404", "not_found"),
            ("500", "internal_error"),
            ("503", "database_unavailable"),
        ],
    )
    def test_shows_what_may_go_wrong(self, operation: Operation, status: str, code: str) -> None:
        if (status, operation["operationId"]) == ("404", "checkProviderUrl"):
            return  # its path names nothing that could be missing
        content = operation["responses"][status]["content"]

        assert list(content) == ["application/problem+json"]
        assert code in content["application/problem+json"]["examples"]

    def test_answers_every_error_as_a_problem(self, operation: Operation) -> None:
        for status, response in operation["responses"].items():
            if status >= "400":
                problem = response["content"]["application/problem+json"]
                assert problem["schema"] == {"$ref": f"{REFERENCE}Problem"}
                assert all(
                    example["value"]["code"] == code and example["value"]["status"] == int(status)
                    for code, example in problem["examples"].items()
                )

    def test_names_the_code_of_every_error_in_words(self, operation: Operation) -> None:
        for status, response in operation["responses"].items():
            if status >= "400":
                codes = response["content"]["application/problem+json"]["examples"]
                assert all(f"`{code}`" in response["description"] for code in codes)


class TestExampleOf:
    def test_a_field_that_says_nothing_is_noticed(self) -> None:
        with pytest.raises(ExampleMissing):
            example_of({"type": "string", "title": "Mute"}, {})

    def test_an_optional_field_is_shown_when_it_has_an_example(self) -> None:
        schema = {
            "type": "object",
            "required": ["here"],
            "properties": {
                "here": {"type": "boolean"},
                "shown": {"type": "string", "examples": ["seen"]},
                "silent": {"type": "string"},
            },
        }

        assert example_of(schema, {}) == {"here": False, "shown": "seen"}

    def test_what_may_be_null_and_has_no_example_is_null(self) -> None:
        assert example_of({"anyOf": [{"type": "string"}, {"type": "null"}]}, {}) is None

    def test_a_choice_without_null_shows_its_first(self) -> None:
        assert example_of({"anyOf": [{"const": "a"}, {"type": "integer"}]}, {}) == "a"
