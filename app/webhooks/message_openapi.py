"""The section `webhooks` of the OpenAPI document: the messages that endpoints receive, from the models that write them."""

from typing import Any, get_args

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.webhooks.messages import Message

_REFERENCE = "#/components/schemas/{model}"
_MODELS: tuple[type[BaseModel], ...] = get_args(Message)
# Standard Webhooks: what a receiver verifies a message with.
_HEADERS = (
    (
        "webhook-id",
        "The id of the message, the same in every attempt. Use it to ignore repetitions.",
        "string",
    ),
    ("webhook-timestamp", "When this attempt was sent, in seconds since 1970.", "integer"),
    (
        "webhook-signature",
        "`v1,` and the base64 of HMAC-SHA256 over id, timestamp and body, joined by dots, with the signing secret.",
        "string",
    ),
)


def message_schemas() -> dict[str, Any]:
    """The schemas of the messages for the document's components."""
    _, found = models_json_schema([(model, "serialization") for model in _MODELS], ref_template=_REFERENCE)
    schemas: dict[str, Any] = found["$defs"]
    return schemas


def message_operations() -> dict[str, Any]:
    """The requests to endpoints, by the type of the message, in the order in which they are described."""
    return {_type_of(model): {"post": _operation(model)} for model in _MODELS}


def _type_of(model: type[BaseModel]) -> str:
    (event_type,) = get_args(model.model_fields["type"].annotation)
    return str(event_type.value)


def _operation(model: type[BaseModel]) -> dict[str, Any]:
    name = model.__name__
    return {
        "tags": ["webhooks"],
        "summary": f"Receive `{_type_of(model)}`",
        "description": " ".join((model.__doc__ or "").split()),
        "operationId": f"receive{name}",
        "security": [],
        "parameters": [
            {"name": header, "in": "header", "required": True, "description": text, "schema": {"type": kind}}
            for header, text, kind in _HEADERS
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": _REFERENCE.format(model=name)}}},
        },
        "responses": {
            "2XX": {"description": "The message is received. The body is ignored."},
            "default": {"description": "The message is sent again later. A redirect is not followed."},
        },
    }
