"""The relay's errors in Anthropic's envelope."""

import json
from http import HTTPStatus

import pytest

from app.relay import errors
from app.relay.errors import ErrorKind, RelayError, error_body, error_headers

KINDS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, ErrorKind)}
# `error.type` values that the SDKs know, and that Anthropic documents.
KNOWN_TYPES = {
    "api_error",
    "authentication_error",
    "billing_error",
    "invalid_request_error",
    "not_found_error",
    "overloaded_error",
    "permission_error",
    "rate_limit_error",
    "request_too_large",
    "timeout_error",
}


class TestKinds:
    @pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
    def test_are_errors_that_an_sdk_knows(self, kind: ErrorKind) -> None:
        assert HTTPStatus(kind.status) >= 400
        assert kind.type in KNOWN_TYPES
        assert kind.message.endswith(".")
        assert kind.code == kind.code.lower()

    @pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
    def test_are_retried_only_if_that_can_help(self, kind: ErrorKind) -> None:
        headers = dict(error_headers(RelayError(kind), "req_1"))

        is_retryable = kind.status in {408, 429, 502, 503, 504}
        assert headers.get(b"x-should-retry") == (None if is_retryable else b"false")

    @pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
    def test_every_429_says_when_to_retry(self, kind: ErrorKind) -> None:
        headers = dict(error_headers(RelayError(kind), "req_1"))

        assert (b"retry-after" in headers) is (kind.status == 429)


class TestEnvelope:
    def test_is_anthropics(self) -> None:
        error = RelayError(errors.SPEND_LIMIT_EXCEEDED, details={"limit_id": "l", "reason": "limit_reached"})

        assert json.loads(error_body(error, "req_1")) == {
            "type": "error",
            "error": {
                "type": "billing_error",
                "message": "A spend limit does not allow this request. See `details.limit_id` and `details.reason`.",
                "details": {"error_code": "spend_limit_exceeded", "limit_id": "l", "reason": "limit_reached"},
            },
            "request_id": "req_1",
        }

    def test_has_no_line_break_so_that_it_fits_into_one_event(self) -> None:
        error = RelayError(errors.INVALID_REQUEST, message="one\ntwo")

        assert b"\n" not in error_body(error, "req_1")

    def test_names_the_relay_as_its_source(self) -> None:
        headers = dict(error_headers(RelayError(errors.UNAUTHENTICATED), "req_1"))

        assert headers == {
            b"content-type": b"application/json",
            b"request-id": b"req_1",
            b"byok-error-source": b"relay",
            b"x-should-retry": b"false",
            b"www-authenticate": b"Bearer",
        }
