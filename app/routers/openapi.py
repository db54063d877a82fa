"""What FastAPI cannot know of the OpenAPI document: the token, the problem shape, headers, an example key."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.routers.middleware import is_private
from app.schemas.problems import Problem

DESCRIPTION = """\
Bring your own Anthropic key: keys are sealed, checked honestly, and shown only masked.

Every error is `application/problem+json` with a stable `code`. Times are RFC 3339 in UTC.
Lists are pages: pass `next_page` back as `page`.
"""
EXAMPLE_KEY = "sk-ant-api03-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE"


def describe(app: FastAPI) -> dict[str, Any]:
    """The document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            openapi_version="3.1.0",
            description=DESCRIPTION,
            routes=app.routes,
        )
        _add_problem(document)
        _add_token(document)
        _add_headers(document)
        _add_examples(document)
        app.openapi_schema = document
    return app.openapi_schema


def _operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if isinstance(operation, dict)
    ]


def _add_problem(document: dict[str, Any]) -> None:
    """FastAPI's own 422 shape never goes out; ours does."""
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    shape = Problem.model_json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
    schemas.update(shape.pop("$defs", {}))
    schemas["Problem"] = shape
    for _, _, operation in _operations(document):
        refused = operation["responses"].get("422", {}).get("content", {})
        refused.pop("application/json", None)
        if "422" in operation["responses"] and not refused:
            del operation["responses"]["422"]


def _add_token(document: dict[str, Any]) -> None:
    document["components"]["securitySchemes"] = {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "See `byok token`.",
        }
    }
    for path, _, operation in _operations(document):
        if is_private(path):
            operation["security"] = [{"bearer": []}]


def _add_headers(document: dict[str, Any]) -> None:
    request_id = {"description": "Quote it when you ask for help.", "schema": {"type": "string"}}
    entity_tag = {"description": "The revision; pass it as If-Match.", "schema": {"type": "string"}}
    retry_after = {"description": "Seconds to wait before repeating.", "schema": {"type": "integer"}}
    for _, _, operation in _operations(document):
        for status, response in operation["responses"].items():
            headers = response.setdefault("headers", {})
            headers["X-Request-Id"] = request_id
            schema = response.get("content", {}).get("application/json", {}).get("schema", {})
            if schema.get("$ref", "").endswith("/Credential"):
                headers["ETag"] = entity_tag
            if status in {"429", "503"} and "application/problem+json" in response.get("content", {}):
                headers["Retry-After"] = retry_after


def _add_examples(document: dict[str, Any]) -> None:
    credential = {
        "id": "0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819",
        "organization_id": "org_acme",
        "provider": "anthropic",
        "label": "Acme production",
        "state": "active",
        "key_hint": "sk-ant-api03-R2D...igAA",
        "fingerprint": "v1:9f2c61d0c5a84a6e2f37b9d4e15a0c83b7f6d2948e01c35a7b6f90d2e4c81a57",
        "key_version": 1,
        "base_url": None,
        "messages_url": "https://api.anthropic.com/v1/messages",
        "auth_style": "x_api_key",
        "workspace_id": None,
        "probe_model": None,
        "validation": {
            "status": "valid",
            "reason": "ok",
            "checked_at": "2026-11-23T14:05:06.123456Z",
            "key_version": 1,
            "provider_request_id": "req_011CSHoEeqs5C35K2UUqR7Fy",
            "latest": {"status": "valid", "reason": "ok", "checked_at": "2026-11-23T14:05:06.123456Z"},
        },
        "previous": None,
        "created_at": "2026-11-23T14:05:05.934511Z",
        "created_by": "ada@acme.example",
        "updated_at": "2026-11-23T14:05:06.123456Z",
        "rotated_at": None,
        "last_used_at": None,
    }
    schemas = document["components"]["schemas"]
    schemas["Credential"]["examples"] = [credential]
    schemas["CredentialCreate"]["examples"] = [{"label": "Acme production", "api_key": EXAMPLE_KEY}]
    schemas["CredentialUpdate"]["examples"] = [{"label": "Acme production, EU"}]
    schemas["Validation"]["examples"] = [
        {
            "id": "0199a2b4-d0aa-7b32-9c11-7a5e3f1d2b60",
            "credential_id": credential["id"],
            "key_version": 1,
            "status": "invalid",
            "reason": "revoked_or_disabled",
            "checked_at": "2026-11-23T15:00:00.204001Z",
            "provider_request_id": None,
            "trigger": "request",
            "requested_by": "ada@acme.example",
            "created_at": "2026-11-23T14:59:59.801276Z",
        }
    ]
