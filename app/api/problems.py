"""The one table: what went wrong → HTTP status and problem+json (RFC 9457).

Nothing of what the client sent is ever repeated, in whole or part: field names come from our own
declarations, messages are constants.
"""

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from app.api.problem_schema import Committed, FieldProblem, Problem
from app.api.schemas import RequestModel
from app.core import errors as e
from app.core.secret_store_errors import SECRET_STORE_TROUBLES
from app.core.url_errors import MESSAGES as URL_MESSAGES
from app.core.url_errors import DnsUnavailable, UrlReason

MEDIA_TYPE = "application/problem+json"

STATUSES: dict[type[e.ByokError], int] = {
    e.InvalidInput: 422,
    e.Unauthenticated: 401,
    e.InsufficientScope: 403,
    e.ServiceOnly: 403,
    e.NotFound: 404,
    e.DuplicateKey: 409,
    e.CredentialDeleted: 409,
    e.CredentialInUse: 409,
    e.RotationInProgress: 409,
    e.RotationNotPending: 409,
    e.NoPreviousVersion: 409,
    e.VersionInUse: 409,
    e.TooManyVersions: 409,
    e.ModeIsManaged: 409,
    e.NotReady: 409,
    e.TooManyLimits: 409,
    e.TooManyEndpoints: 409,
    e.ReservationEnded: 409,
    e.SpendLimitExceeded: 402,
    e.StatementClosed: 409,
    e.MonthNotOver: 409,
    e.LeaseRequiresVault: 501,
    e.ConcurrentChange: 409,
    e.IdempotencyInProgress: 409,
    e.IdempotencyKeyReused: 422,
    e.PreconditionFailed: 412,
    e.RateLimited: 429,
    e.IngestionOverloaded: 429,
    e.MalformedJson: 400,
    e.LineTooLong: 413,
    e.DatabaseUnavailable: 503,
    e.SecretStoreUnavailable: 503,
    **dict.fromkeys(SECRET_STORE_TROUBLES, 503),
    e.IdentityProviderUnavailable: 503,
    DnsUnavailable: 503,
}

METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")

# Errors of HTTP itself, which no use case raises: status → code and sentence.
_OF_HTTP: dict[int, tuple[str, str]] = {
    400: ("malformed_json", "The body is not valid JSON."),
    404: ("not_found", e.NotFound.detail),
    405: (
        "method_not_allowed",
        "This path does not know this method; the Allow header names those it knows.",
    ),
    408: ("request_timeout", "The request took too long to arrive."),
    413: ("payload_too_large", "The body is larger than this operation accepts."),
    415: ("unsupported_media_type", "The body must be JSON: Content-Type: application/json."),
    431: ("headers_too_large", "The request line and the header fields are too large."),
    500: ("internal_error", e.ByokError.detail),
}

# pydantic's kinds of errors → our code and sentence. Whatever is not here is `invalid`.
_OF_FIELD: dict[str, tuple[str, str]] = {
    "missing": ("required", "This field is required."),
    "extra_forbidden": ("unknown_field", "The request has a field that this operation does not know."),
    "string_too_short": ("too_short", "The text is too short."),
    "string_too_long": ("too_long", "The text is too long."),
    "string_type": ("invalid_type", "A text is needed here."),
    "string_unicode": ("invalid_text", "The text is not valid Unicode."),
    "string_pattern_mismatch": ("invalid_format", "The text does not have the form that is needed here."),
    "int_type": ("invalid_type", "A whole number is needed here."),
    "int_parsing": ("invalid_type", "A whole number is needed here."),
    "greater_than_equal": ("too_small", "The number is too small."),
    "less_than_equal": ("too_large", "The number is too large."),
    "enum": ("invalid_choice", "The value is not one of those allowed here."),
    "literal_error": ("invalid_choice", "The value is not one of those allowed here."),
    "uuid_parsing": ("invalid_format", "A UUID is needed here."),
    "datetime_from_date_parsing": ("invalid_format", "An RFC 3339 instant is needed here."),
    "datetime_parsing": ("invalid_format", "An RFC 3339 instant is needed here."),
    "timezone_aware": ("invalid_format", "An RFC 3339 instant with a zone is needed here."),
    "model_attributes_type": ("invalid_type", "A JSON object is needed here."),
    "model_repeated": ("model_repeated", "A model stands in the list more than once."),
    "label_has_controls": ("label_has_controls", "The label holds control or invisible characters."),
    "text_has_controls": ("text_has_controls", "The text holds control or invisible characters."),
    "text_blank": ("text_blank", "The text is blank."),
    "looks_like_key": ("looks_like_key", "This field holds a key. Paste the key only into api_key."),
    "amount_too_large": ("amount_too_large", "The amount is too large."),
    "thresholds_repeated": ("thresholds_repeated", "A threshold is named twice."),
    "too_long": ("too_long", "The list is too long."),
    "label_blank": ("label_blank", "The label is blank."),
    **{reason.value: (reason.value, message) for reason, message in URL_MESSAGES.items()},
}
_INVALID = ("invalid", "The value is not allowed here.")


def problem_response(request_id: str, error: e.ByokError, *, committed: Committed | None = None) -> Response:
    """A use case's error as it goes out; `committed`: what was kept before it."""
    status = STATUSES.get(type(error)) or next(
        (STATUSES[t] for t in type(error).__mro__ if t in STATUSES), 500
    )
    code, fields, headers = error.code, None, {}
    more: dict[str, Any] = {}
    if isinstance(error, e.InvalidInput):
        code = error.problem_code
        fields = [FieldProblem(field=f.field, code=f.code, message=f.message) for f in error.errors]
    if isinstance(error, e.IdempotencyKeyReused):
        fields = [FieldProblem(field="Idempotency-Key", code=code, message=error.detail)]
    if committed is not None:
        more["committed"] = committed
    if isinstance(error, e.DuplicateKey):
        more["credential_id"] = error.credential_id
    if isinstance(error, e.NotReady):
        more["blockers"] = list(error.blockers)
    if isinstance(error, e.SpendLimitExceeded):
        more |= {"limit_id": error.limit_id, "limit_name": error.limit_name, "reason": error.reason}
    if isinstance(error, e.RateLimited | e.Unavailable) and error.retry_after_seconds is not None:
        headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, e.Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="byok"'
    if isinstance(error, e.InsufficientScope):
        headers["WWW-Authenticate"] = f'Bearer error="insufficient_scope", scope="{error.scope}"'
    return _response(request_id, status, code, error.detail, fields=fields, headers=headers, more=more)


def http_problem(request_id: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """An error of HTTP itself as it goes out."""
    code, detail = _OF_HTTP.get(status, _OF_HTTP[500])
    return _response(request_id, status if status in _OF_HTTP else 500, code, detail, headers=headers or {})


def malformed_request(request_id: str, headers: Mapping[str, str]) -> Response:
    """What came was no request, so there is nothing else to say of it."""
    return _response(request_id, 400, "malformed_request", "This is no HTTP/1.1 request.", headers=headers)


def _response(
    request_id: str,
    status: int,
    code: str,
    detail: str,
    *,
    fields: list[FieldProblem] | None = None,
    headers: Mapping[str, str],
    more: Mapping[str, Any] | None = None,
) -> Response:
    problem = Problem(
        type=f"urn:byok:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        request_id=request_id,
        errors=fields,
        **(more or {}),
    )
    return Response(
        problem.model_dump_json(exclude_none=True),
        status_code=status,
        headers=dict(headers),
        media_type=MEDIA_TYPE,
    )


def add_problem_handlers(app: FastAPI) -> None:
    """Everything that can be raised while a request is handled becomes a problem."""

    async def on_byok_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, e.ByokError)
        return problem_response(request.state.request_id, error)

    async def on_validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _refused_fields(request.state.request_id, error.errors())

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = (
            {"Allow": _methods_of(request)}
            if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED
            else error.headers
        )
        return http_problem(request.state.request_id, error.status_code, headers)

    app.add_exception_handler(e.ByokError, on_byok_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_error)


def _methods_of(request: Request) -> str:
    """Every method of the path. A route that refuses one knows only its own, so each is tried."""
    routes = request.app.routes
    found = [
        method
        for method in METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]
    return ", ".join(found)


def _refused_fields(request_id: str, found: Sequence[Mapping[str, Any]]) -> Response:
    kinds = {error["type"] for error in found}
    if "json_invalid" in kinds:
        return http_problem(request_id, 400)
    if any(error["loc"][0] == "path" for error in found):
        return problem_response(request_id, e.NotFound())  # a path that names nothing
    fields = tuple(_field_error(error) for error in found)
    code = "unknown_field" if "extra_forbidden" in kinds else None
    if len(fields) == 1 and fields[0].code in set(UrlReason):
        code = fields[0].code  # as the other refusals of one field do
    return problem_response(request_id, e.InvalidInput(*fields, code=code))


def _field_error(error: Mapping[str, Any]) -> e.FieldError:
    code, message = _OF_FIELD.get(error["type"], _INVALID)
    where, *path = error["loc"]
    if where == "body":
        # Only names that we declared: a key pasted as a field name must not come back.
        declared = [part for part in path if part in _declared_fields()]
        return e.FieldError(field=".".join(declared) or "body", code=code, message=message)
    return e.FieldError(field=str(path[0]), code=code, message=message)


def _declared_fields() -> frozenset[str]:
    return frozenset(name for model in _all_models(RequestModel) for name in model.model_fields)


def _all_models(model: type[RequestModel]) -> Iterable[type[RequestModel]]:
    for child in model.__subclasses__():
        yield child
        yield from _all_models(child)


# What may be wrong with any body before its fields are looked at.
OF_BODIES = (400, 408, 413, 415)


def problems(
    *kinds: type[e.ByokError] | int, codes: Mapping[int, Sequence[str]] | None = None
) -> dict[int | str, Any]:
    """What to say of errors in the OpenAPI document: by status, with every code as an example.

    Args:
        kinds: errors of use cases, or statuses of HTTP itself, besides those that every operation has.
        codes: further codes by status, such as the ways in which a key is refused.
    """
    listed: dict[int, dict[str, str]] = {}
    for kind in (*kinds, e.Unauthenticated, e.DatabaseUnavailable, e.IdentityProviderUnavailable, 500):
        if isinstance(kind, int):
            code, detail = _OF_HTTP[kind]
            listed.setdefault(kind, {})[code] = detail
        else:
            listed.setdefault(STATUSES[kind], {})[kind.code] = kind.detail
            if kind is e.SecretStoreUnavailable:
                listed[STATUSES[kind]] |= {trouble.code: trouble.detail for trouble in SECRET_STORE_TROUBLES}
    for status, more in (codes or {}).items():
        listed.setdefault(status, {}).update(dict.fromkeys(more, e.InvalidInput.detail))
    return {status: _documented(status, found) for status, found in sorted(listed.items())}


# What examples of some codes have besides.
_MORE: dict[str, dict[str, Any]] = {
    "validation_failed": {
        "errors": [{"field": "label", "code": "too_long", "message": _OF_FIELD["string_too_long"][1]}]
    },
    "unknown_field": {
        "errors": [{"field": "body", "code": "unknown_field", "message": _OF_FIELD["extra_forbidden"][1]}]
    },
    "idempotency_key_reused": {
        "errors": [
            {
                "field": "Idempotency-Key",
                "code": e.IdempotencyKeyReused.code,
                "message": e.IdempotencyKeyReused.detail,
            }
        ]
    },
    "spend_limit_exceeded": {
        "limit_id": "0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819",
        "limit_name": "Monthly budget",
        "reason": "limit_reached",
    },
    "duplicate_key": {"credential_id": "0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819"},
}


def _documented(status: int, found: Mapping[str, str]) -> dict[str, Any]:
    phrase = HTTPStatus(status).phrase
    return {
        "description": f"{phrase}: {', '.join(f'`{code}`' for code in found)}",
        "content": {
            MEDIA_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "examples": {
                    code: {
                        "value": {
                            "type": f"urn:byok:problem:{code}",
                            "title": phrase,
                            "status": status,
                            "detail": detail,
                            "code": code,
                            "request_id": "req_0199a2b4c6d87e01a2b3c4d5e6f70819",
                            **_MORE.get(code, {}),
                        }
                    }
                    for code, detail in found.items()
                },
            }
        },
    }
