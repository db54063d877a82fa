"""Maps errors to HTTP statuses and problem+json (RFC 9457).

A response never repeats any part of what the client sent: field names come from declarations, messages are constants.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from app.api.field_errors import FIELD_ERRORS, field_error
from app.api.problem_schema import Committed, FieldProblem, Problem
from app.core import errors as e
from app.core.secret_store_errors import SECRET_STORE_ERRORS
from app.core.url_errors import DnsUnavailable, UrlReason

MEDIA_TYPE = "application/problem+json"
# A response names at most this many fields, however many are invalid.
MAX_ERRORS = 20

STATUSES: dict[type[e.ByokError], int] = {
    e.InvalidInput: 422,
    e.Unauthenticated: 401,
    e.InsufficientScope: 403,
    e.ServiceOnly: 403,
    e.SignInRefused: 403,
    e.NotFound: 404,
    e.DuplicateKey: 409,
    e.CredentialDeleted: 409,
    e.CredentialInUse: 409,
    e.RotationInProgress: 409,
    e.RotationNotPending: 409,
    e.NoPreviousVersion: 409,
    e.VersionInUse: 409,
    e.TooManyCredentials: 409,
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
    e.ConcurrencyLimited: 429,
    e.SecretStoreUnavailable: 503,
    **dict.fromkeys(SECRET_STORE_ERRORS, 503),
    e.IdentityProviderUnavailable: 503,
    DnsUnavailable: 503,
}

METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")

# Errors of HTTP itself, which no use case raises: status → code and detail.
_HTTP_ERRORS: dict[int, tuple[str, str]] = {
    400: ("malformed_json", "The body is not valid JSON. Send JSON in UTF-8."),
    404: ("not_found", e.NotFound.detail),
    405: (
        "method_not_allowed",
        "This path does not support this method. Use a method from the Allow header.",
    ),
    408: (
        "request_timeout",
        "The request took too long to arrive. Send it again, faster or in smaller parts.",
    ),
    413: ("payload_too_large", "The body is larger than this operation accepts. Send a smaller one."),
    415: (
        "unsupported_media_type",
        "The body must be JSON, without a content encoding. Send it with `Content-Type: application/json`.",
    ),
    429: (e.ConcurrencyLimited.code, e.ConcurrencyLimited.detail),
    431: (
        "headers_too_large",
        "The request line and the header fields are too large. Send fewer or shorter ones.",
    ),
    500: ("internal_error", e.ByokError.detail),
}


_CHALLENGE = 'Bearer realm="byok"'
_INVALID_CHALLENGE = f'{_CHALLENGE}, error="invalid_token"'


def _conflicting(error: e.ByokError) -> dict[str, Any]:
    """The resource because of which a request was refused."""
    match error:
        case e.DuplicateKey():
            return {"credential_id": error.credential_id}
        case e.RotationInProgress():
            return {"rotation_id": error.rotation_id}
        case e.NotReady():
            return {"blockers": list(error.blockers)}
        case e.SpendLimitExceeded():
            return {"limit_id": error.limit_id, "limit_name": error.limit_name, "reason": error.reason}
    return {}


def problem_response(request_id: str, error: e.ByokError, *, committed: Committed | None = None) -> Response:
    """The response for an error of a use case. `committed`: the lines that were ingested before it."""
    status = STATUSES.get(type(error)) or next(
        (STATUSES[t] for t in type(error).__mro__ if t in STATUSES), 500
    )
    code, fields, headers = error.code, None, {}
    more: dict[str, Any] = {}
    if isinstance(error, e.InvalidInput):
        code = error.problem_code
        fields, is_truncated = _field_problems(error)
        more = {"errors_truncated": True} if is_truncated else {}
    if isinstance(error, e.IdempotencyKeyReused):
        fields = [FieldProblem(field="Idempotency-Key", code=code, message=error.detail)]
    if committed is not None:
        more["committed"] = committed
    more |= _conflicting(error)
    if isinstance(error, e.RateLimited | e.Unavailable) and error.retry_after_seconds is not None:
        headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, e.Unauthenticated):
        headers["WWW-Authenticate"] = _INVALID_CHALLENGE if error.has_token else _CHALLENGE
    if isinstance(error, e.InsufficientScope):
        headers["WWW-Authenticate"] = f'Bearer error="insufficient_scope", scope="{error.scope}"'
    return _response(request_id, status, code, error.detail, fields=fields, headers=headers, more=more)


def _field_problems(error: e.InvalidInput) -> tuple[list[FieldProblem], bool]:
    """The invalid fields that a response names, and whether there are more."""
    shown = error.errors[:MAX_ERRORS]
    fields = [FieldProblem(field=f.field, code=f.code, message=f.message) for f in shown]
    return fields, len(error.errors) > MAX_ERRORS


def http_problem(request_id: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """The response for an error of HTTP itself."""
    code, detail = _HTTP_ERRORS.get(status, _HTTP_ERRORS[500])
    return _response(
        request_id, status if status in _HTTP_ERRORS else 500, code, detail, headers=headers or {}
    )


def malformed_request(request_id: str, headers: Mapping[str, str]) -> Response:
    """The response for bytes that are not an HTTP/1.1 request."""
    return _response(request_id, 400, "malformed_request", "Malformed HTTP/1.1 request.", headers=headers)


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


class RejectedBody(HTTPException):
    """Rejects a body while it is read. FastAPI passes errors of other types on as malformed JSON."""

    def __init__(self, error: e.InvalidInput) -> None:
        super().__init__(HTTPStatus.UNPROCESSABLE_ENTITY)
        self.error = error


def add_problem_handlers(app: FastAPI) -> None:
    """Register a handler for every kind of error, so that each response to an error is a problem."""

    async def on_byok_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, e.ByokError)
        return problem_response(request.state.request_id, error)

    async def on_validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _validation_problem(request.state.request_id, error.errors())

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if isinstance(error, RejectedBody):
            return problem_response(request.state.request_id, error.error)
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
    """All methods of the path. Tries every method, because a route knows only its own."""
    routes = request.app.routes
    found = [
        method
        for method in METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]
    return ", ".join(found)


def _validation_problem(request_id: str, errors: Sequence[Mapping[str, Any]]) -> Response:
    """The response for pydantic's errors."""
    kinds = {error["type"] for error in errors}
    if "json_invalid" in kinds:
        return http_problem(request_id, 400)
    if any(error["loc"][0] == "path" for error in errors):
        return problem_response(request_id, e.NotFound())  # an invalid id in the path
    # One more than a response contains, which marks it as truncated.
    fields = tuple(field_error(error) for error in errors[: MAX_ERRORS + 1])
    code = "unknown_field" if "extra_forbidden" in kinds else None
    if len(fields) == 1 and fields[0].code in set(UrlReason):
        code = fields[0].code  # use cases that reject a single field also use its code
    return problem_response(request_id, e.InvalidInput(*fields, code=code))


# Statuses of errors that every operation with a body has.
BODY_ERRORS = (400, 408, 413, 415)
_EVERYWHERE = (
    e.Unauthenticated,
    e.RateLimited,
    e.ConcurrencyLimited,
    e.DatabaseUnavailable,
    e.IdentityProviderUnavailable,
    500,
)


def problems(
    *kinds: type[e.ByokError] | int,
    codes: Mapping[int, Sequence[str]] | None = None,
    needs_token: bool = True,
) -> dict[int | str, Any]:
    """The error responses of an operation for the OpenAPI document: by status, with an example for every code.

    Args:
        kinds: errors of use cases, or statuses of HTTP errors, in addition to those that every operation has.
        codes: further codes by status, such as the codes for an invalid key.
        needs_token: operations that need no token have only the errors that `kinds` names.
    """
    listed: dict[int, dict[str, str]] = {}
    for kind in (*kinds, *(_EVERYWHERE if needs_token else ())):
        if isinstance(kind, int):
            code, detail = _HTTP_ERRORS[kind]
            listed.setdefault(kind, {})[code] = detail
        else:
            listed.setdefault(STATUSES[kind], {})[kind.code] = kind.detail
            if kind is e.SecretStoreUnavailable:
                listed[STATUSES[kind]] |= {error.code: error.detail for error in SECRET_STORE_ERRORS}
    for status, more in (codes or {}).items():
        listed.setdefault(status, {}).update(dict.fromkeys(more, e.InvalidInput.detail))
    return {status: _documented(status, found) for status, found in sorted(listed.items())}


# Further fields in the examples of some codes.
_EXAMPLE_FIELDS: dict[str, dict[str, Any]] = {
    "validation_failed": {
        "errors": [{"field": "label", "code": "too_long", "message": FIELD_ERRORS["string_too_long"][1]}]
    },
    "unknown_field": {
        "errors": [{"field": "body", "code": "unknown_field", "message": FIELD_ERRORS["extra_forbidden"][1]}]
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
                            **_EXAMPLE_FIELDS.get(code, {}),
                        }
                    }
                    for code, detail in found.items()
                },
            }
        },
    }
