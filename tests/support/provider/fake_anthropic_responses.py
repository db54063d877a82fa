"""Responses of the fake, with bodies like those that the real API sends."""

import json
import secrets
from dataclasses import dataclass, field
from typing import Any

from tests.support.relay import sample_streams

EVENT_STREAM = "text/event-stream; charset=utf-8"


@dataclass(frozen=True)
class FakeResponse:
    """A status, a body (bytes are sent unchanged) and headers. Responses of the edge have no request id."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)
    has_request_id: bool = True

    def encoded(self) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        # A client that sends this cookie back gets a complaint in the journal.
        headers = {
            "content-type": "application/json",
            "server": "cloudflare",
            "set-cookie": "__cf_bm=fake; path=/",
        }
        body = self.body
        if self.has_request_id:
            headers["request-id"] = f"req_{secrets.token_hex(12)}"
        headers |= self.headers
        if not isinstance(body, bytes):
            if isinstance(body, dict) and body.get("type") == "error":
                body = {**body, "request_id": headers.get("request-id")}
            body = json.dumps(body).encode()
        if "content-length" not in headers and headers["content-type"] != EVENT_STREAM:
            headers["content-length"] = str(len(body))
        return body, [(name.encode(), value.encode()) for name, value in headers.items()]


def error(
    status: int,
    kind: str,
    text: str,
    *,
    code: str | None = None,
    details: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    has_request_id: bool = True,
) -> FakeResponse:
    """Return an error in Anthropic's format."""
    content: dict[str, Any] = {"type": kind, "message": text}
    if code is not None:
        content["details"] = {"error_code": code, **(details or {})}
    return FakeResponse(status, {"type": "error", "error": content}, headers or {}, has_request_id)


def bad_request(text: str, *, code: str | None = None, has_request_id: bool = True) -> FakeResponse:
    return error(400, "invalid_request_error", text, code=code, has_request_id=has_request_id)


def html_page(status: int) -> FakeResponse:
    text = b"<html><body>cloudflare</body></html>"
    return FakeResponse(status, text, {"content-type": "text/html"}, has_request_id=False)


def message(model: str) -> FakeResponse:
    return FakeResponse(
        200,
        {
            "id": f"msg_{secrets.token_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [{"type": "text", "text": "Hello"}],
            "stop_reason": "max_tokens",
            "stop_sequence": None,
            "usage": {
                "input_tokens": 12,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": 1,
                "service_tier": "standard",
                "inference_geo": "global",
            },
        },
    )


MODELS = FakeResponse(
    200,
    {
        "data": [
            {"type": "model", "id": name, "display_name": name, "created_at": "2026-10-07T00:00:00Z"}
            for name in ("claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5")
        ],
        "has_more": False,
        "first_id": "claude-haiku-5-5",
        "last_id": "claude-opus-5-5",
    },
    {"anthropic-organization-id": "00000000-0000-4000-8000-000000000000"},
)
OPENAI_MODELS = FakeResponse(200, {"object": "list", "data": [{"id": "claude-haiku-5-5", "object": "model"}]})
NO_SUCH_PATH = error(404, "not_found_error", "Not found")
LOW_CREDIT = bad_request(
    "Your credit balance is too low to access the Anthropic API. "
    "Please go to Plans & Billing to upgrade or purchase credits."
)

ALL_PATHS = frozenset({"/v1/models", "/v1/messages", "/v1/messages/count_tokens"})

# Paths on which a behaviour responds as for a valid key. On other paths its response is in `RESPONSES`.
NORMAL_PATHS: dict[str, frozenset[str]] = {
    "valid": ALL_PATHS,
    "slow": ALL_PATHS,
    "stall": ALL_PATHS,
    "nocredit": ALL_PATHS - {"/v1/messages"},
    "nocreditcount": frozenset({"/v1/models"}),
    "publicmodels": frozenset({"/v1/models"}),
    "openaimodels": ALL_PATHS - {"/v1/models"},
}

RESPONSES: dict[str, FakeResponse] = {
    "invalid": error(401, "authentication_error", "API key is invalid.", has_request_id=False),
    "legacyinvalid": error(401, "authentication_error", "invalid x-api-key"),
    "cors": error(
        401,
        "authentication_error",
        "CORS requests are not allowed for this Organization because custom retention settings are set.",
    ),
    "orgscoped": bad_request(
        "This API key is not scoped to a workspace, so this request must include the anthropic-workspace-id "
        "header with the ID of the workspace to use. Add the header, or use an API key that is scoped to a "
        "workspace.",
        has_request_id=False,
    ),
    "spendlimit": bad_request(
        "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC."
    ),
    "tiercap": error(
        429,
        "rate_limit_error",
        "You have reached your API usage limits: your organization has crossed its monthly API usage threshold.",
        code="enforced_spend_limit_reached",
    ),
    "tiercaptext": error(
        429,
        "rate_limit_error",
        "You have reached your API usage limits: your organization has crossed its monthly API usage threshold.",
    ),
    "ratelimited": error(
        429,
        "rate_limit_error",
        "This request would exceed your organization's rate limit.",
        headers={
            "retry-after": "7",
            "anthropic-ratelimit-requests-limit": "50",
            "anthropic-ratelimit-requests-remaining": "0",
            "anthropic-ratelimit-requests-reset": "2026-11-23T12:00:07Z",
        },
    ),
    "ramp": error(
        429, "rate_limit_error", "Slow down.", code="ramp_limit_exceeded", headers={"retry-after": "30"}
    ),
    "onhold": error(
        400,
        "invalid_request_error",
        "This organization has been disabled.",
        code="organization_on_hold",
        details={"appeal_url": "https://example.com/appeal"},
    ),
    "disabled": bad_request("This organization has been disabled."),
    "badrequest": bad_request("Something about this request is not to our liking."),
    "forbidden": error(403, "permission_error", "Your API key does not have permission."),
    "edge": FakeResponse(
        403,
        {"error": {"type": "forbidden", "message": "Request not allowed"}},
        {"cf-ray": "8a0b1c2d3e4f5a6b-FRA"},
        has_request_id=False,
    ),
    "html403": html_page(403),
    "billing402": error(402, "billing_error", "There is a problem with your billing."),
    "overloaded": error(529, "overloaded_error", "Overloaded"),
    "err500": error(500, "api_error", "Internal server error"),
    "flaky500": error(500, "api_error", "Internal server error"),
    "err503": error(503, "api_error", "Unavailable", code="cmek_key_unreachable"),
    "err504": error(504, "timeout_error", "Timed out"),
    "html502": html_page(502),
    "html200": html_page(200),
    "html404": html_page(404),
    "openaierr": FakeResponse(
        401, {"error": {"message": "Incorrect API key", "type": "invalid_request_error", "code": "bad_key"}}
    ),
    "openaierr402": FakeResponse(
        402, {"error": {"message": "Insufficient Balance", "type": "unknown_error", "code": "no_balance"}}
    ),
    "ok200err": FakeResponse(200, {"code": 401, "msg": "token expired or incorrect", "success": False}),
    "valid": NO_SUCH_PATH,
    "nocredit": LOW_CREDIT,
    "nocreditcount": LOW_CREDIT,
    "openaimodels": OPENAI_MODELS,
    "envelope200": FakeResponse(
        200, {"type": "error", "error": {"type": "authentication_error", "message": "API key is invalid."}}
    ),
    "redirect303": FakeResponse(303, b"", {"location": "/login"}),
    "teapot": error(418, "teapot_error", "Short and stout"),
}


def route(method: str, path: str, body: bytes) -> FakeResponse:
    """Return the response for a valid key."""
    match (method, path):
        case ("GET", "/v1/models"):
            return MODELS
        case ("GET", _) if path.startswith("/v1/models/"):
            found = [model for model in MODELS.body["data"] if path == f"/v1/models/{model['id']}"]
            return FakeResponse(200, found[0]) if found else error(404, "not_found_error", "model: ?")
        case ("POST", "/v1/messages"):
            return _validation_error(body, "model", "max_tokens", "messages") or _message(json.loads(body))
        case ("POST", "/v1/messages/count_tokens"):
            return _validation_error(body, "model", "messages") or FakeResponse(200, {"input_tokens": 12})
    return NO_SUCH_PATH


def _message(request: dict[str, Any]) -> FakeResponse:
    """A message, or a stream of one with a thinking block or the use of a tool if the request allows them."""
    if not request.get("stream"):
        return message(request["model"])
    blocks: list[bytes] = []
    if "thinking" in request:
        blocks.append(sample_streams.thinking(0, "Let me ", "think."))
    blocks.append(sample_streams.text(len(blocks), "Hel", "lo ", "wörld"))
    if request.get("tools"):
        blocks.append(sample_streams.tool_use(len(blocks), '{"city": ', '"Köln"}'))
    stream = sample_streams.message(*blocks).replace(sample_streams.MODEL.encode(), request["model"].encode())
    return FakeResponse(200, stream, {"content-type": EVENT_STREAM})


def _validation_error(body: bytes, *required: str) -> FakeResponse | None:
    try:
        request = json.loads(body)
    except ValueError:
        return bad_request("The request body is not valid JSON")
    for name in required:
        if name not in request:
            return bad_request(f"{name}: Field required")
    if request["model"] not in {model["id"] for model in MODELS.body["data"]}:
        return error(404, "not_found_error", f"model: {request['model']}")
    return None
