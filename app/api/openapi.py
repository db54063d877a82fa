"""What FastAPI cannot know of the OpenAPI document: the token, the problem shape, headers, whole examples."""

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.api.examples import example_of
from app.api.middleware import is_private
from app.api.problem_schema import Problem

DESCRIPTION = """\
Bring your own Anthropic key: keys are sealed, checked honestly, and shown only masked.

Every error is `application/problem+json` with a stable `code`. Times are RFC 3339 in UTC.
Lists are pages: pass `next_page` back as `page`.
"""
TAGS = {
    "credentials": "Save a key, read what may be shown of it, change its label.",
    "rotation": "Bring a new key without downtime, or put the one before back.",
    "retirement": "Disable, destroy and delete.",
    "billing": "Whose key pays, and whether work may start.",
    "usage": "The ledger: take in what was used, and read it back.",
    "statements": "What a month costs: subscription, endpoints, managed usage.",
    "spend limits": "How much may be spent, and what is left of it.",
    "spend reservations": "Put spend aside before a request. For internal services.",
    "webhooks": "Who is told when a limit's threshold is crossed.",
    "leases": "Hand the key in force to an internal service.",
    "validation": "Whether the provider accepts a key.",
    "audit": "Who did what to which credential.",
    "health": "For load balancers and monitoring. Needs no token.",
}

HEADERS: dict[str, Any] = {
    "X-Request-Id": {
        "description": "Quote it when you ask for help.",
        "required": True,
        "schema": {"type": "string", "pattern": "^req_[0-9a-f]{32}$"},
        "example": "req_0199a2b4c6d87e01a2b3c4d5e6f70819",
    },
    "ETag": {
        "description": "The revision; pass it as If-Match.",
        "required": True,
        "schema": {"type": "string"},
        "example": '"r1"',
    },
    "Location": {
        "description": "Path of what was created.",
        "required": True,
        "schema": {"type": "string"},
        "example": "/v1/organizations/org_acme/provider-credentials/0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819",
    },
    "Retry-After": {
        "description": "Seconds to wait before repeating. Absent where waiting alone does not help.",
        "schema": {"type": "integer", "minimum": 0},
        "example": 5,
    },
    "WWW-Authenticate": {
        "description": "What kind of token is needed.",
        "required": True,
        "schema": {"type": "string"},
        "example": 'Bearer realm="byok"',
    },
    "Idempotency-Replayed": {
        "description": "`true`: this is the first answer to this Idempotency-Key once more.",
        "schema": {"type": "string", "const": "true"},
    },
    "Preference-Applied": {
        "description": "`respond-async`, where that was preferred.",
        "schema": {"type": "string", "const": "respond-async"},
    },
}


def describe(app: FastAPI, more: Mapping[str, Any]) -> dict[str, Any]:
    """The document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            openapi_version="3.1.0",
            description=DESCRIPTION,
            tags=[{"name": name, "description": text} for name, text in TAGS.items()],
            routes=app.routes,
        )
        _add_problem(document, more)
        _add_token(document)
        _name_pages(document)
        _tidy_parameters(document)
        _add_headers(document)
        _add_examples(document)
        app.openapi_schema = document
    return app.openapi_schema


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for operation in item.values():
            yield path, operation


def _add_problem(document: dict[str, Any], more: Mapping[str, Any]) -> None:
    """FastAPI's own 422 shape never goes out; ours does."""
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
            "description": "See `byok token`.",
        }
    }
    for path, operation in _operations(document):
        if is_private(path):
            operation["security"] = [{"bearer": []}]


def _name_pages(document: dict[str, Any]) -> None:
    """`CredentialPage` rather than `Page_Credential_`."""
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
    """In the path's order, each described once; and an optional one is left out, never null."""
    for path, operation in _operations(document):
        # `sort` is stable: what does not stand in the path stays behind, in its order.
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


def _add_headers(document: dict[str, Any]) -> None:
    document["components"]["headers"] = HEADERS
    for _, operation in _operations(document):
        sent = {parameter["name"] for parameter in operation.get("parameters", ())}
        for status, response in operation["responses"].items():
            response["headers"] = {
                name: {"$ref": f"#/components/headers/{name}"} for name in _headers(status, response, sent)
            }


def _headers(status: str, response: dict[str, Any], sent: set[str]) -> Iterator[str]:
    """Which headers an answer has. `sent`: the parameters of the request."""
    yield "X-Request-Id"
    content = response.get("content", {})
    shape = content.get("application/json", {}).get("schema", {}).get("$ref", "").rpartition("/")[2]
    if shape == "Credential":
        yield "ETag"
        if status == "201":
            yield "Location"
    if status in {"201", "409"} and "Idempotency-Key" in sent:
        yield "Idempotency-Replayed"
    if status == "201" and "Prefer" in sent:
        yield "Preference-Applied"
    if status in {"429", "503"} and "application/problem+json" in content:
        yield "Retry-After"
    if status == "401":
        yield "WWW-Authenticate"


def _add_examples(document: dict[str, Any]) -> None:
    """To every body that goes in or out and has none yet."""
    schemas = document["components"]["schemas"]
    for _, operation in _operations(document):
        for body in (operation.get("requestBody", {}), *operation["responses"].values()):
            for content in body.get("content", {}).values():
                if "examples" not in content:
                    content["examples"] = {"default": {"value": example_of(content["schema"], schemas)}}
