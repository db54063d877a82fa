"""Builds complete examples for the OpenAPI document from the examples of a schema's fields.

Each field declares `Field(examples=[...])` once. So no operation needs its own copy of, for example, a credential.
"""

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]


class ExampleMissing(LookupError):
    """A field has no example, and its type does not determine one."""


def example_of(schema: Schema, schemas: Schema) -> Any:
    """Build a value that the schema describes.

    Args:
        schema: any schema of the document.
        schemas: the document's `components.schemas`, to resolve references.

    Raises:
        ExampleMissing
    """
    if "examples" in schema:
        return schema["examples"][0]
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return None if _is_nullable(schema) else example_of(schema["anyOf"][0], schemas)
    return _by_type(schema, schemas)


def _by_type(schema: Schema, schemas: Schema) -> Any:
    match schema.get("type"), schema.get("format"):
        case "object", _ if "properties" in schema:
            return _object(schema, schemas)
        case "array", _:
            return [example_of(schema["items"], schemas)]
        case "boolean", _:
            return False
        case "string", "uuid":
            return "0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819"
    raise ExampleMissing(schema.get("title", "a schema without a title"))


def _object(schema: Schema, schemas: Schema) -> dict[str, Any]:
    """All required fields, and the optional ones that have an example."""
    required = schema.get("required", ())
    return {
        name: example_of(field, schemas)
        for name, field in schema["properties"].items()
        if name in required or "examples" in field
    }


def _is_nullable(schema: Schema) -> bool:
    return any(option.get("type") == "null" for option in schema["anyOf"])
