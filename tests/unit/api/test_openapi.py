"""The OpenAPI document: complete, consistent, without a key in a response, and identical to the file in openapi/."""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema_rs
import pytest

from app import main
from app.api.examples import ExampleMissing, example_of
from app.core.notifications import EventType
from tests.support.openapi import openapi_document

DOCUMENT = openapi_document()
REFERENCE = "#/components/schemas/"

Operation = dict[str, Any]

OPERATIONS: list[Operation] = [
    {"path": path, **operation} for path, item in DOCUMENT["paths"].items() for operation in item.values()
]
PRIVATE = [operation for operation in OPERATIONS if operation["path"].startswith("/v1")]


def name_of(operation: Operation) -> str:
    return str(operation["operationId"])


def bodies(operation: Operation) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every request and response body: a description of its place, and its media type object."""
    for name, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"request {name}", content
    for status, response in operation["responses"].items():
        for name, content in response.get("content", {}).items():
            yield f"{status} {name}", content


def schema_errors(schema: dict[str, Any], value: Any) -> list[str]:
    return [error.message for error in validator(json.dumps(schema)).iter_errors(value)]


@cache  # many operations have the same responses
def validator(schema: str) -> jsonschema_rs.Draft202012Validator:
    rooted = {**json.loads(schema), "components": DOCUMENT["components"]}
    return jsonschema_rs.Draft202012Validator(rooted, validate_formats=True)


def reachable(schema: Any, seen: set[str]) -> Iterator[dict[str, Any]]:
    """The schema and all schemas that it contains or refers to."""
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


MESSAGES: list[Operation] = [
    {"name": name, **operation} for name, item in DOCUMENT["webhooks"].items() for operation in item.values()
]


class TestWebhooks:
    def test_describe_every_event(self) -> None:
        assert sorted(DOCUMENT["webhooks"]) == sorted(EventType)

    @pytest.mark.parametrize("message", MESSAGES, ids=lambda it: it["name"])
    def test_have_an_example_of_their_type(self, message: Operation) -> None:
        ((_, content),) = bodies(message)
        example = content["examples"]["default"]["value"]

        assert schema_errors(content["schema"], example) == []
        assert example["type"] == message["name"]
        assert list(example) == ["type", "timestamp", "data"]

    def test_have_other_ids_than_the_operations(self) -> None:
        ids = [operation["operationId"] for operation in (*OPERATIONS, *MESSAGES)]

        assert len(ids) == len(set(ids))


class TestDocument:
    def test_is_version_3_1(self) -> None:
        assert DOCUMENT["openapi"].startswith("3.1")

    def test_describes_the_application(self) -> None:
        assert main.openapi_document() == DOCUMENT, "run `make openapi`"

    def test_operation_ids_are_unique(self) -> None:
        ids = [operation["operationId"] for operation in OPERATIONS]

        assert len(ids) == len(set(ids))

    def test_every_tag_is_described(self) -> None:
        used = {tag for operation in OPERATIONS for tag in operation["tags"]}

        assert used == {tag["name"] for tag in DOCUMENT["tags"] if tag["description"]}

    def test_schema_names_are_valid_class_names(self) -> None:
        names = DOCUMENT["components"]["schemas"]

        assert "CredentialPage" in names
        assert all(name.isidentifier() and "_" not in name for name in names)

    def test_timestamps_have_the_format_date_time(self) -> None:
        fields = DOCUMENT["components"]["schemas"]["Credential"]["properties"]

        assert fields["created_at"]["format"] == "date-time"

    @pytest.mark.parametrize("name", DOCUMENT["components"]["schemas"])
    def test_examples_of_fields_match_their_schemas(self, name: str) -> None:
        schemas = reachable(DOCUMENT["components"]["schemas"][name], set())

        wrong = [
            error
            for shape in schemas
            if isinstance(shape.get("examples"), list)
            for value in shape["examples"]
            for error in schema_errors(shape, value)
        ]

        assert wrong == []


@pytest.mark.parametrize("operation", OPERATIONS, ids=name_of)
class TestEveryOperation:
    def test_has_an_id_a_summary_and_a_description(self, operation: Operation) -> None:
        assert operation["operationId"]
        assert operation["summary"]
        assert operation["description"]

    def test_describes_its_parameters(self, operation: Operation) -> None:
        parameters = operation.get("parameters", [])

        assert all(parameter["description"] for parameter in parameters)
        assert all(f"{{{p['name']}}}" in operation["path"] for p in parameters if p["in"] == "path")

    def test_lists_path_parameters_in_the_order_of_the_path(self, operation: Operation) -> None:
        positions = [
            operation["path"].index(f"{{{p['name']}}}")
            for p in operation.get("parameters", [])
            if p["in"] == "path"
        ]

        assert positions == sorted(positions)
        assert len(positions) == operation["path"].count("{")

    def test_describes_its_responses(self, operation: Operation) -> None:
        descriptions = [response["description"] for response in operation["responses"].values()]

        assert all(descriptions)
        assert "Successful Response" not in descriptions

    def test_has_examples_that_match_their_schemas(self, operation: Operation) -> None:
        for where, content in bodies(operation):
            assert content["examples"], where
            for name, example in content["examples"].items():
                assert schema_errors(content["schema"], example["value"]) == [], f"{where} {name}"

    def test_has_no_key_in_a_response(self, operation: Operation) -> None:
        returned = [
            content["schema"] for where, content in bodies(operation) if not where.startswith("request")
        ]

        fields = {name for shape in reachable(returned, set()) for name in shape.get("properties", {})}

        assert "api_key" not in fields

    def test_marks_keys_as_write_only(self, operation: Operation) -> None:
        accepted = [content["schema"] for where, content in bodies(operation) if where.startswith("request")]

        keys = [
            shape["properties"]["api_key"]
            for shape in reachable(accepted, set())
            if "api_key" in shape.get("properties", {})
        ]

        assert all(key["writeOnly"] is True for key in keys)


@pytest.mark.parametrize("operation", PRIVATE, ids=name_of)
class TestEveryPrivateOperation:
    def test_requires_a_token(self, operation: Operation) -> None:
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
    def test_documents_common_errors(self, operation: Operation, status: str, code: str) -> None:
        if status == "404" and operation["operationId"] in {"checkProviderUrl", "getSession"}:
            return  # their paths have no id of a resource
        if (status, operation["operationId"]) == ("403", "getSession"):
            return  # needs no scope
        content = operation["responses"][status]["content"]

        assert list(content) == ["application/problem+json"]
        assert code in content["application/problem+json"]["examples"]

    def test_documents_every_error_as_a_problem(self, operation: Operation) -> None:
        for status, response in operation["responses"].items():
            if status >= "400":
                problem = response["content"]["application/problem+json"]
                assert problem["schema"] == {"$ref": f"{REFERENCE}Problem"}
                assert all(
                    example["value"]["code"] == code and example["value"]["status"] == int(status)
                    for code, example in problem["examples"].items()
                )

    def test_names_the_code_of_every_error_in_the_description(self, operation: Operation) -> None:
        for status, response in operation["responses"].items():
            if status >= "400":
                codes = response["content"]["application/problem+json"]["examples"]
                assert all(f"`{code}`" in response["description"] for code in codes)


class TestExampleOf:
    def test_raises_for_a_field_without_example(self) -> None:
        with pytest.raises(ExampleMissing):
            example_of({"type": "string", "title": "NoExample"}, {})

    def test_includes_an_optional_field_that_has_an_example(self) -> None:
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

    def test_uses_null_for_a_nullable_field_without_example(self) -> None:
        assert example_of({"anyOf": [{"type": "string"}, {"type": "null"}]}, {}) is None

    def test_uses_the_first_choice_of_a_field_that_is_not_nullable(self) -> None:
        assert example_of({"anyOf": [{"const": "a"}, {"type": "integer"}]}, {}) == "a"
