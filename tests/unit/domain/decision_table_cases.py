"""Cases of the decision table, as data: row, probe, status, body and the reason expected."""

from typing import Any

from app.credentials.verdicts import Reason
from app.validation.decision_table import Probe

MODELS = Probe.MODELS
MESSAGE = Probe.MESSAGE
EMPTY = Probe.EMPTY_MESSAGE

A_LIST: dict[str, Any] = {"data": [{"type": "model", "id": "claude-haiku-5-5"}], "has_more": False}
A_MESSAGE: dict[str, Any] = {
    "type": "message",
    "content": [],
    "usage": {"input_tokens": 12, "output_tokens": 1},
}
LOW_CREDIT = "Your credit balance is too low to access the Anthropic API."
CAP = "You have reached your API usage limits: your organization has crossed its monthly API usage threshold"


def envelope(kind: str, text: str = "", code: str | None = None) -> dict[str, Any]:
    details = {"error_code": code} if code else None
    return {"type": "error", "error": {"type": kind, "message": text, "details": details}, "request_id": None}


def openai(text: str) -> dict[str, Any]:
    return {"error": {"message": text, "type": "invalid_request_error", "code": "some_code"}}


ANSWERS: list[tuple[str, Probe, int, object, Reason]] = [
    ("T4", MODELS, 301, None, Reason.REDIRECT_REFUSED),
    ("T4", MODELS, 307, A_LIST, Reason.REDIRECT_REFUSED),
    ("T4", MESSAGE, 304, None, Reason.REDIRECT_REFUSED),
    ("1", MODELS, 200, A_LIST, Reason.OK),
    ("1", MODELS, 200, {"data": []}, Reason.OK),
    ("2", MESSAGE, 200, A_MESSAGE, Reason.OK),
    ("2", EMPTY, 200, A_MESSAGE, Reason.OK),
    ("3", MODELS, 200, None, Reason.NOT_ANTHROPIC_COMPATIBLE),
    ("3", MODELS, 200, {"object": "list", "data": [{"id": "x"}]}, Reason.NOT_ANTHROPIC_COMPATIBLE),
    ("3", MODELS, 200, {"data": {}}, Reason.NOT_ANTHROPIC_COMPATIBLE),
    ("3", MODELS, 200, {"code": 401, "success": False}, Reason.NOT_ANTHROPIC_COMPATIBLE),
    ("3", MODELS, 200, A_MESSAGE, Reason.NOT_ANTHROPIC_COMPATIBLE),
    ("3", MESSAGE, 200, A_LIST, Reason.NOT_ANTHROPIC_COMPATIBLE),
    ("3", MESSAGE, 200, {**A_MESSAGE, "usage": {"input_tokens": 1}}, Reason.NOT_ANTHROPIC_COMPATIBLE),
    ("3", MESSAGE, 200, {**A_MESSAGE, "content": "text"}, Reason.NOT_ANTHROPIC_COMPATIBLE),
    ("3", MESSAGE, 200, envelope("authentication_error"), Reason.NOT_ANTHROPIC_COMPATIBLE),
    ("5", MODELS, 401, envelope("authentication_error", "CORS requests are not allowed for this Organization because"), Reason.UNEXPECTED_ANSWER),
    ("6", MODELS, 401, envelope("authentication_error", "API key is invalid."), Reason.INVALID_KEY),
    ("6", MESSAGE, 401, openai("Incorrect API key"), Reason.INVALID_KEY),
    ("6", MESSAGE, 401, None, Reason.INVALID_KEY),
    ("7", MESSAGE, 402, envelope("billing_error"), Reason.BILLING_PROBLEM),
    ("7", MESSAGE, 402, openai("Insufficient Balance"), Reason.BILLING_PROBLEM),
    ("7", MESSAGE, 402, None, Reason.BILLING_PROBLEM),
    ("8", MESSAGE, 400, envelope("invalid_request_error", LOW_CREDIT), Reason.BILLING_PROBLEM),
    ("8", MESSAGE, 400, envelope("invalid_request_error", LOW_CREDIT.upper()), Reason.BILLING_PROBLEM),
    ("8", MODELS, 400, envelope("invalid_request_error", "You have reached your specified API usage limits. You will"), Reason.BILLING_PROBLEM),
    ("8", MODELS, 400, envelope("invalid_request_error", "You have reached your specified workspace API usage limits."), Reason.BILLING_PROBLEM),
    ("9", MODELS, 400, envelope("invalid_request_error", "This organization has been disabled."), Reason.REVOKED_OR_DISABLED),
    ("10", MODELS, 400, envelope("invalid_request_error", "This API key is not scoped to a workspace, so"), Reason.WORKSPACE_REQUIRED),
    ("10", MODELS, 400, envelope("invalid_request_error", "Invalid anthropic-workspace-id header."), Reason.WORKSPACE_REQUIRED),
    ("11", MODELS, 403, {"error": {"type": "forbidden", "message": "Request not allowed"}}, Reason.EDGE_BLOCKED),
    ("11", MODELS, 403, None, Reason.EDGE_BLOCKED),
    ("12", MODELS, 403, envelope("permission_error"), Reason.INSUFFICIENT_PERMISSION),
    ("12", MODELS, 403, envelope("forbidden"), Reason.INSUFFICIENT_PERMISSION),
    ("12", MESSAGE, 403, openai("No access"), Reason.INSUFFICIENT_PERMISSION),
    ("13", MESSAGE, 404, envelope("not_found_error", "model: claude-none"), Reason.MODEL_NOT_FOUND),
    ("13", MESSAGE, 404, openai("The model does not exist"), Reason.MODEL_NOT_FOUND),
    ("14", MODELS, 404, None, Reason.NOT_ANTHROPIC_COMPATIBLE),
    ("14", MODELS, 404, {"detail": "Not Found"}, Reason.NOT_ANTHROPIC_COMPATIBLE),
    ("14", MESSAGE, 404, openai("No such route"), Reason.NOT_ANTHROPIC_COMPATIBLE),
    ("14", MESSAGE, 405, None, Reason.NOT_ANTHROPIC_COMPATIBLE),
    ("14", MESSAGE, 501, None, Reason.NOT_ANTHROPIC_COMPATIBLE),
    ("15", EMPTY, 400, envelope("invalid_request_error", "max_tokens: Field required"), Reason.OK),
    ("15", MESSAGE, 400, envelope("invalid_request_error", "This model refuses zero data retention"), Reason.OK),
    ("15", EMPTY, 422, openai("messages is required"), Reason.OK),
    ("16", MODELS, 429, envelope("rate_limit_error", CAP), Reason.BILLING_PROBLEM),
    ("16", MODELS, 429, envelope("rate_limit_error", "Slow down"), Reason.RATE_LIMITED),
    ("16", MODELS, 429, openai("Slow down"), Reason.RATE_LIMITED),
    ("17", MODELS, 500, envelope("api_error"), Reason.OVERLOADED),
    ("17", MODELS, 502, None, Reason.OVERLOADED),
    ("17", MODELS, 503, None, Reason.OVERLOADED),
    ("17", MODELS, 504, envelope("timeout_error"), Reason.OVERLOADED),
    ("17", MODELS, 520, None, Reason.OVERLOADED),
    ("17", MODELS, 527, None, Reason.OVERLOADED),
    ("17", MODELS, 529, envelope("overloaded_error"), Reason.OVERLOADED),
    ("18", MODELS, 418, None, Reason.NOT_ANTHROPIC_COMPATIBLE),
    ("18", MODELS, 204, None, Reason.NOT_ANTHROPIC_COMPATIBLE),
    ("18", EMPTY, 400, None, Reason.NOT_ANTHROPIC_COMPATIBLE),
    ("18", MODELS, 418, envelope("teapot_error"), Reason.UNEXPECTED_ANSWER),
    ("18", MODELS, 404, envelope("not_found_error", "Not found"), Reason.UNEXPECTED_ANSWER),
    ("18", MESSAGE, 501, envelope("api_error"), Reason.UNEXPECTED_ANSWER),
]  # fmt: skip

CODES: list[tuple[int, str, Reason]] = [
    (400, "organization_on_hold", Reason.REVOKED_OR_DISABLED),
    (400, "claude_code_key_creator_not_member", Reason.REVOKED_OR_DISABLED),
    (400, "organization_type_not_supported", Reason.INSUFFICIENT_PERMISSION),
    (400, "cmek_key_disabled", Reason.INSUFFICIENT_PERMISSION),
    (400, "cmek_key_network_blocked", Reason.INSUFFICIENT_PERMISSION),
    (400, "user_profile_required", Reason.UNEXPECTED_ANSWER),
    (400, "user_profile_not_found", Reason.UNEXPECTED_ANSWER),
    (402, "linked_organization_billing_unavailable", Reason.BILLING_PROBLEM),
    (402, "linked_organization_spend_limit_reached", Reason.BILLING_PROBLEM),
    (403, "user_profile_billing_not_authorized", Reason.BILLING_PROBLEM),
    (403, "user_profile_not_billable", Reason.BILLING_PROBLEM),
    (403, "api_key_scope_missing", Reason.INSUFFICIENT_PERMISSION),
    (403, "organization_level_scoped_api_key_required", Reason.INSUFFICIENT_PERMISSION),
    (403, "sandbox_egress_restricted", Reason.INSUFFICIENT_PERMISSION),
    (413, "request_body_too_large_after_decoding", Reason.UNEXPECTED_ANSWER),
    (429, "enforced_spend_limit_reached", Reason.BILLING_PROBLEM),
    (429, "contract_spend_limit_reached", Reason.BILLING_PROBLEM),
    (429, "ramp_limit_exceeded", Reason.RATE_LIMITED),
    (503, "cmek_context_unavailable", Reason.OVERLOADED),
    (503, "cmek_key_unreachable", Reason.OVERLOADED),
    (529, "compaction_unavailable", Reason.OVERLOADED),
]
