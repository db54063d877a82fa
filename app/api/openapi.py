"""Completes FastAPI's OpenAPI document: authentication, the problem schema, headers, examples."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.api.examples import example_of
from app.api.paths import is_private
from app.api.problem_schema import Problem

DESCRIPTION = """\
Bring your own Anthropic key. The service encrypts keys, validates them with the provider, and shows them only masked.

Every error is `application/problem+json` with a stable `code`. Timestamps are RFC 3339 in UTC.
Lists are paginated: to get the next page, pass `next_page` as the parameter `page`.
"""
TAGS = {
    "credentials": "Save a key, read its masked credential, change its label.",
    "rotation": "Rotate a credential's key without downtime, or roll back to the previous key.",
    "retirement": "Disable, enable and delete credentials; destroy key versions.",
    "billing": "The usage mode, which determines whose key is used, and readiness.",
    "usage": "The usage ledger: ingest events, list them, and report on them.",
    "statements": "Monthly costs: subscription, endpoints and managed usage.",
    "spend limits": "Caps on spend, with their current spend.",
    "spend reservations": "Reserve spend before a request. For internal services.",
    "webhooks": "Endpoints that are notified of thresholds, keys, rotations and usage modes.",
    "leases": "Lease the active key to an internal service.",
    "validation": "Find out whether the provider accepts a key.",
    "exports": "Download a file by a link that works once, without a token.",
    "audit": "The audit log: which client changed which credential.",
    "session": "What the token of the client is for.",
    "health": "For load balancers and monitoring. Requires no token.",
}

HEADERS: dict[str, Any] = {
    "X-Request-Id": {
        "description": "The id of the request. Quote it when you ask for help.",
        "required": True,
        "schema": {"type": "string", "pattern": "^req_[0-9a-f]{32}$"},
        "example": "req_0199a2b4c6d87e01a2b3c4d5e6f70819",
    },
    "ETag": {
        "description": "The revision of the resource. Pass it as `If-Match` to change only this revision.",
        "required": True,
        "schema": {"type": "string"},
        "example": '"r1"',
    },
    "Location": {
        "description": "The path of the created resource.",
        "required": True,
        "schema": {"type": "string"},
        "example": "/v1/organizations/org_acme/provider-credentials/0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819",
    },
    "Retry-After": {
        "description": "Seconds to wait before you repeat the request. Absent if waiting does not help.",
        "schema": {"type": "integer", "minimum": 0},
        "example": 5,
    },
    "WWW-Authenticate": {
        "description": "The required kind of token.",
        "required": True,
        "schema": {"type": "string"},
        "example": 'Bearer realm="byok"',
    },
    "Content-Disposition": {
        "description": "An attachment, and the name of its file.",
        "required": True,
        "schema": {"type": "string"},
        "example": 'attachment; filename="usage-report-org_acme.csv"',
    },
    "Data-As-Of": {
        "description": "The file includes all events that were accepted before this time.",
        "required": True,
        "schema": {"type": "string", "format": "date-time"},
        "example": "2026-11-23T14:05:06.123456Z",
    },
    "Idempotency-Replayed": {
        "description": "`true`: this is the stored first response for this Idempotency-Key.",
        "schema": {"type": "string", "const": "true"},
    },
    "Preference-Applied": {
        "description": "`respond-async`, if the request preferred that.",
        "schema": {"type": "string", "const": "respond-async"},
    },
}


def describe(app: FastAPI, more: Mapping[str, Any], webhooks: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document. It is generated on the first call.

    Args:
        app: the application.
        more: further schemas by name, for models that FastAPI does not find.
        webhooks: the requests that the service sends, by name.
    """
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            openapi_version="3.1.0",
            description=DESCRIPTION,
            license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
            servers=[{"url": "/", "description": "The service that sent this document."}],
            tags=[{"name": name, "description": text} for name, text in TAGS.items()],
            routes=app.routes,
        )
        _add_problem(document, more)
        _add_token(document)
        _name_pages(document)
        _tidy_parameters(document)
        _describe_defaults(document)
        _add_headers(document)
        document["webhooks"] = dict(webhooks)
        _add_examples(document)
        app.openapi_schema = document
    return app.openapi_schema


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for operation in item.values():
            yield path, operation


def _add_problem(document: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Replace FastAPI's schemas of a 422 response, which the service never sends, with `Problem`."""
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    shape = Problem.model_json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
    schemas.update(shape.pop("$defs", {}))
    schemas["Problem"] = shape
    for name, schema in more.items():
        schemas.setdefault(name, schema)
    for _, operation in _operations(document):
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
            "description": "A JWT. `byok token` issues one for development.",
        }
    }
    for path, operation in _operations(document):
        # Without a list, generated clients take the operation for one that may need a token.
        operation["security"] = [{"bearer": []}] if is_private(path) else []


def _name_pages(document: dict[str, Any]) -> None:
    """Rename schemas of pages: `CredentialPage`, not `Page_Credential_`."""
    schemas = document["components"]["schemas"]
    pages = {name: schemas[name]["title"] for name in schemas if name.startswith("Page_")}
    for name, page in pages.items():
        schemas[page] = schemas.pop(name)
    for _, operation in _operations(document):
        for response in operation["responses"].values():
            for content in response.get("content", {}).values():
                page = pages.get(content["schema"].get("$ref", "").rpartition("/")[2])
                if page is not None:
                    content["schema"]["$ref"] = f"#/components/schemas/{page}"


def _tidy_parameters(document: dict[str, Any]) -> None:
    """Sort path parameters in the order of the path, describe each only once, and make optional ones not nullable."""
    for path, operation in _operations(document):
        # `sort` is stable: all other parameters follow in their original order.
        operation.get("parameters", []).sort(
            key=lambda it, path=path: path.find(f"{{{it['name']}}}") if it["in"] == "path" else len(path)
        )
        for parameter in operation.get("parameters", ()):
            schema = parameter["schema"]
            for name in ("description", "title"):
                schema.pop(name, None)
            options = [option for option in schema.pop("anyOf", ()) if option != {"type": "null"}]
            for option in options[:1]:
                schema.update(option)


def _describe_defaults(document: dict[str, Any]) -> None:
    """Move the default of every field into its description.

    Generators read a default as a promise that the field is there: openapi-typescript makes it required in requests too.
    """
    for schema in document["components"]["schemas"].values():
        required = schema.get("required", ())
        for name, field in schema.get("properties", {}).items():
            default = field.pop("default", None)
            if default is not None and name not in required:
                sentence = f"Default: `{json.dumps(default)}`."
                field["description"] = f"{field.get('description', '')} {sentence}".strip()


def _add_headers(document: dict[str, Any]) -> None:
    document["components"]["headers"] = HEADERS
    for _, operation in _operations(document):
        parameters = {parameter["name"] for parameter in operation.get("parameters", ())}
        for status, response in operation["responses"].items():
            response["headers"] = {
                name: {"$ref": f"#/components/headers/{name}"}
                for name in _headers(status, response, parameters)
            }


def _headers(status: str, response: dict[str, Any], parameters: set[str]) -> Iterator[str]:
    """The headers of a response: those that its route declares, and those that follow from status and parameters."""
    yield "X-Request-Id"
    yield from response.get("headers", ())
    if status in {"201", "409"} and "Idempotency-Key" in parameters:
        yield "Idempotency-Replayed"
    if status == "201" and "Prefer" in parameters:
        yield "Preference-Applied"
    if status in {"429", "503"} and "application/problem+json" in response.get("content", {}):
        yield "Retry-After"
    if status == "401":
        yield "WWW-Authenticate"


def _add_examples(document: dict[str, Any]) -> None:
    """Add an example to every request and response body that has none."""
    schemas = document["components"]["schemas"]
    sent = [operation for item in document["webhooks"].values() for operation in item.values()]
    for operation in (*(operation for _, operation in _operations(document)), *sent):
        for body in (operation.get("requestBody", {}), *operation["responses"].values()):
            for content in body.get("content", {}).values():
                if "examples" not in content:
                    content["examples"] = {"default": {"value": example_of(content["schema"], schemas)}}
