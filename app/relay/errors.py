"""The relay's errors: in Anthropic's envelope, with constant messages, so that an SDK raises its own exceptions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

_RETRYABLE: Final = frozenset({408, 429, 502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorKind:
    """One refusal: its status, Anthropic's `error.type`, our stable `error_code` and a constant message."""

    status: int
    type: str
    code: str
    message: str
    retry_after_seconds: int | None = None


class RelayError(Exception):
    """The relay refuses or ends a request.

    Args:
        kind: what to response.
        message: replaces the kind's message. A constant: never input of the client or the provider.
        details: more members of `error.details`, such as `blockers` or `limit_id`.
        allow: the header `Allow`, which a 405 must have (RFC 9110).
    """

    def __init__(
        self,
        kind: ErrorKind,
        *,
        message: str | None = None,
        details: Mapping[str, Any] | None = None,
        allow: str | None = None,
    ) -> None:
        super().__init__(kind.code)
        self.kind = kind
        self.message = message or kind.message
        self.details: Mapping[str, Any] = details or {}
        self.allow = allow


def error_body(error: RelayError, request_id: str) -> bytes:
    """The error in Anthropic's envelope, as JSON without line breaks."""
    return orjson.dumps(
        {
            "type": "error",
            "error": {
                "type": error.kind.type,
                "message": error.message,
                "details": {"error_code": error.kind.code, **error.details},
            },
            "request_id": request_id,
        }
    )


def error_headers(error: RelayError, request_id: str) -> list[tuple[bytes, bytes]]:
    """The headers of an error from the relay, without those of every response."""
    kind = error.kind
    headers = [
        (b"content-type", b"application/json"),
        (b"request-id", request_id.encode()),
        (b"byok-error-source", b"relay"),
    ]
    if kind.status not in _RETRYABLE:
        headers.append((b"x-should-retry", b"false"))
    if kind.retry_after_seconds is not None:
        headers.append((b"retry-after", str(kind.retry_after_seconds).encode()))
    if kind.status == UNAUTHENTICATED.status:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.allow is not None:
        headers.append((b"allow", error.allow.encode()))
    return headers


def _kind(
    status: int, type_: str, code: str, message: str, *, retry_after_seconds: int | None = None
) -> ErrorKind:
    return ErrorKind(
        status=status, type=type_, code=code, message=message, retry_after_seconds=retry_after_seconds
    )


UNAUTHENTICATED: Final = _kind(
    401,
    "authentication_error",
    "unauthenticated",
    "The token is missing or invalid. Send one token of this service, as `Authorization: Bearer` or `x-api-key`.",
)
INSUFFICIENT_SCOPE: Final = _kind(
    403, "permission_error", "insufficient_scope", "The token lacks the scope `relay:messages`."
)
ORGANIZATION_BOUND_TOKEN_REQUIRED: Final = _kind(
    403,
    "permission_error",
    "organization_bound_token_required",
    "The relay needs a token that is bound to one organization.",
)
MODEL_NOT_ALLOWED: Final = _kind(
    403, "permission_error", "model_not_allowed", "The token does not allow this model."
)
ENDPOINT_NOT_ALLOWED: Final = _kind(
    403, "permission_error", "endpoint_not_allowed", "The token does not allow this endpoint."
)
MANAGED_UNAVAILABLE: Final = _kind(
    503, "api_error", "managed_unavailable", "Managed usage is not available at the moment. Try again."
)
MANAGED_NOT_ENABLED: Final = _kind(
    403, "permission_error", "managed_not_enabled", "Managed usage is not enabled for this organization."
)
NOT_READY: Final = _kind(
    403,
    "permission_error",
    "not_ready",
    "The organization is not ready for provider-backed work. See `details.blockers`.",
)
ADDRESS_REFUSED: Final = _kind(
    403, "permission_error", "address_refused", "The address of the provider is not allowed."
)
NOT_FOUND: Final = _kind(
    404,
    "not_found_error",
    "not_found",
    "The relay does not serve this path. It serves `/v1/messages`, `/v1/messages/count_tokens` and `/v1/models`.",
)
METHOD_NOT_ALLOWED: Final = _kind(
    405, "invalid_request_error", "method_not_allowed", "The relay does not serve this method here."
)
REQUEST_TIMEOUT: Final = _kind(
    408, "timeout_error", "request_timeout", "The request body took too long to arrive."
)
REQUEST_TOO_LARGE: Final = _kind(
    413, "request_too_large", "payload_too_large", "The request body exceeds the maximum of 32 MiB."
)
TOO_MANY_VALUES: Final = _kind(
    413, "request_too_large", "payload_too_large", "The request body has more than 2,000,000 values."
)
UNSUPPORTED_MEDIA_TYPE: Final = _kind(
    415,
    "invalid_request_error",
    "unsupported_media_type",
    "The request body must be JSON, without a content encoding.",
)
INVALID_REQUEST: Final = _kind(
    400, "invalid_request_error", "validation_failed", "The request body is not valid."
)
MALFORMED_JSON: Final = _kind(
    400, "invalid_request_error", "malformed_json", "The request body is not valid JSON."
)
DIMENSION_INVALID: Final = _kind(
    400,
    "invalid_request_error",
    "dimension_invalid",
    "A header with a dimension must be sent once, with 1 to 128 allowed characters.",
)
SPEND_LIMIT_EXCEEDED: Final = _kind(
    402,
    "billing_error",
    "spend_limit_exceeded",
    "A spend limit does not allow this request. See `details.limit_id` and `details.reason`.",
)
CONCURRENCY_EXCEEDED: Final = _kind(
    429,
    "rate_limit_error",
    "relay_concurrency_exceeded",
    "Too many requests of this organization are in progress.",
    retry_after_seconds=1,
)
BODY_MEMORY_EXCEEDED: Final = _kind(
    429,
    "rate_limit_error",
    "relay_memory_exceeded",
    "This instance holds too many request bodies. Try again.",
    retry_after_seconds=1,
)
DATABASE_UNAVAILABLE: Final = _kind(
    503, "api_error", "database_unavailable", "The database is unavailable. Try again."
)
SECRET_STORE_UNAVAILABLE: Final = _kind(
    503, "api_error", "secret_store_unavailable", "The secret store is unavailable. Try again."
)
SHUTTING_DOWN: Final = _kind(503, "api_error", "shutting_down", "This instance is shutting down. Try again.")
PROVIDER_UNREACHABLE: Final = _kind(
    502, "api_error", "provider_unreachable", "The provider could not be reached. Try again."
)
PROVIDER_RESPONSE_REFUSED: Final = _kind(
    502,
    "api_error",
    "provider_response_refused",
    "The provider sent a redirect, an encoded or an oversized response, which the relay does not pass on.",
)
PROVIDER_TIMEOUT: Final = _kind(
    504, "timeout_error", "provider_timeout", "The provider took too long to respond."
)
STREAM_INTERRUPTED: Final = _kind(
    502, "api_error", "stream_interrupted", "The provider's response ended before it was complete."
)
STREAM_TIMEOUT: Final = _kind(
    504, "timeout_error", "stream_timeout", "The provider sent nothing for too long."
)
DRAINED: Final = _kind(503, "overloaded_error", "shutting_down", "This instance is shutting down. Try again.")
INTERNAL_ERROR: Final = _kind(
    500,
    "api_error",
    "internal_error",
    "An internal error occurred. Quote the request id when you ask for help.",
)
