"""The decision table: what the response of a provider, or the lack of one, says about the key.

`ROWS` is read from top to bottom, and the first row that matches decides. A row first names who must have spoken
(`app.validation.speakers`), then the statuses, then what the response must say (`app.validation.conditions`). A
definite result (valid or invalid) needs proof that the provider itself looked at the key; a status by itself
proves nothing.

Every row has an id that tests, ADR 0010 and the log share. The provider's prose decides only what has no code, and is
never stored.
"""

from collections.abc import Callable, Container
from functools import lru_cache
from typing import NamedTuple

from app.credentials.validation_results import Reason, ValidationStatus, status_of
from app.validation.conditions import Case, HasCode
from app.validation.message_patterns import DEFAULT_PATTERNS, MessagePatterns
from app.validation.probes import Probe, TransportFailure
from app.validation.provider_response import ProviderResponse
from app.validation.speakers import Speaker


class Row(NamedTuple):
    """One line of the table: who spoke, with which status, and what the response says."""

    id: str
    speakers: Container[Speaker]
    statuses: Container[int]
    matches: Callable[[Case], bool]
    reason: Reason
    status: ValidationStatus | None = None  # None: the status that the reason implies


class Decision(NamedTuple):
    """What a response says about the key, and the row that decided.

    `needs_second_probe`: it makes a key that was valid invalid only if a second probe says the same.
    """

    row: str
    status: ValidationStatus
    reason: Reason
    needs_second_probe: bool = False


TRANSPORT_ROWS: dict[TransportFailure, tuple[str, Reason]] = {
    TransportFailure.TIMEOUT: ("transport.timeout", Reason.TIMEOUT),
    TransportFailure.TLS: ("transport.tls", Reason.TLS_ERROR),
    TransportFailure.UNREACHABLE: ("transport.unreachable", Reason.UNREACHABLE),
    TransportFailure.RESET: ("transport.reset", Reason.UNREACHABLE),
    TransportFailure.DNS: ("transport.dns", Reason.DNS_UNAVAILABLE),
    TransportFailure.ADDRESS_REFUSED: ("transport.address", Reason.ADDRESS_REFUSED),
}

ANYONE = frozenset(Speaker)
PROVIDER = frozenset({Speaker.PROVIDER})
EDGE = frozenset({Speaker.EDGE})
NOT_EDGE = frozenset({Speaker.PROVIDER, Speaker.UNKNOWN})
ANY = range(1000)
REDIRECTS = range(300, 400)
SERVER_ERRORS = range(500, 600)
UNAUTHORIZED = 401
INDETERMINATE = ValidationStatus.INDETERMINATE

# fmt: off
ROWS: tuple[Row, ...] = (
    # Redirects are never followed: the key would go to a host that no one configured.
    Row("redirect", ANYONE, REDIRECTS, Case.always, Reason.REDIRECT_REFUSED),

    # No money, whatever the status: providers say it with 400, 402, 403, 429, 500 and inside a 200.
    Row("billing.402", ANYONE, {402}, Case.always, Reason.BILLING_PROBLEM),
    Row("billing.code", ANYONE, ANY, Case.has_billing_code, Reason.BILLING_PROBLEM),

    # Anthropic's error codes decide, whatever the status. A ramp limit is proof only as a 429 (row 429.anthropic).
    Row("code.revoked", NOT_EDGE, ANY, HasCode("organization_on_hold", "claude_code_key_creator_not_member"), Reason.REVOKED_OR_DISABLED),
    Row("code.organization", NOT_EDGE, ANY, HasCode("organization_type_not_supported", "sandbox_egress_restricted"), Reason.INSUFFICIENT_PERMISSION),
    Row("code.encryption", NOT_EDGE, ANY, HasCode("cmek_key_disabled", "cmek_key_network_blocked"), Reason.INSUFFICIENT_PERMISSION),
    Row("code.scope", NOT_EDGE, ANY, HasCode("api_key_scope_missing", "organization_level_scoped_api_key_required"), Reason.INSUFFICIENT_PERMISSION),
    Row("code.linked_payer", NOT_EDGE, ANY, HasCode("linked_organization_billing_unavailable", "linked_organization_spend_limit_reached"), Reason.BILLING_PROBLEM),
    Row("code.profile_payer", NOT_EDGE, ANY, HasCode("user_profile_billing_not_authorized", "user_profile_not_billable"), Reason.BILLING_PROBLEM),
    Row("code.spend_limit", NOT_EDGE, ANY, HasCode("enforced_spend_limit_reached", "contract_spend_limit_reached"), Reason.BILLING_PROBLEM),
    Row("code.overload", NOT_EDGE, ANY, HasCode("cmek_context_unavailable", "cmek_key_unreachable", "compaction_unavailable"), Reason.OVERLOADED),
    Row("code.request", NOT_EDGE, ANY, HasCode("user_profile_required", "user_profile_not_found", "request_body_too_large_after_decoding"), Reason.UNEXPECTED_ANSWER),

    Row("billing.words", ANYONE, ANY, Case.speaks_of_billing, Reason.BILLING_PROBLEM),

    # A peer in front of the provider spoke. Its block of this service's network says nothing about the key.
    Row("edge.outage", EDGE, SERVER_ERRORS, Case.always, Reason.OVERLOADED),
    Row("edge.block", EDGE, ANY, Case.always, Reason.EDGE_BLOCKED),

    # The provider says that it is out of order. Then it did not look at the key, whatever the status is.
    Row("outage.words", PROVIDER, ANY, Case.speaks_of_outage, Reason.OVERLOADED),

    # A 200 by itself proves nothing: some gateways wrap errors in it, and some model lists are public.
    Row("ok.models", NOT_EDGE, {200}, Case.is_anthropic_model_list, Reason.OK),
    Row("ok.public_list", NOT_EDGE, {200}, Case.is_model_list, Reason.UNEXPECTED_ANSWER),
    Row("ok.message", NOT_EDGE, {200}, Case.is_message, Reason.OK),
    Row("ok.wrapped_overload", NOT_EDGE, {200}, Case.wraps_overload, Reason.OVERLOADED),
    Row("ok.other_api", NOT_EDGE, {200}, Case.is_of_another_api, Reason.NOT_ANTHROPIC_COMPATIBLE),
    Row("ok.unreadable", NOT_EDGE, {200}, Case.always, Reason.UNEXPECTED_ANSWER),

    # A CORS error concerns a header of the request, not the key. Revoked, expired and invalid keys all get the same
    # 401; the previous result distinguishes them.
    Row("401.cors", NOT_EDGE, {401}, Case.reports_cors_error, Reason.UNEXPECTED_ANSWER),
    Row("401.revoked", NOT_EDGE, {401}, Case.revokes_key, Reason.REVOKED_OR_DISABLED),
    Row("401.refused", NOT_EDGE, {401}, Case.refuses_key, Reason.INVALID_KEY),

    Row("403.permission", PROVIDER, {403}, Case.always, Reason.INSUFFICIENT_PERMISSION),
    Row("403.unknown", NOT_EDGE, {403}, Case.always, Reason.EDGE_BLOCKED),

    Row("400.workspace", PROVIDER, {400, 422}, Case.requires_workspace, Reason.WORKSPACE_REQUIRED),
    Row("400.disabled", PROVIDER, {400, 422}, Case.reports_disabled_organization, Reason.REVOKED_OR_DISABLED),
    Row("400.revoked", PROVIDER, {400, 422}, Case.was_valid_and_has_authentication_code, Reason.REVOKED_OR_DISABLED),
    Row("400.refused", PROVIDER, {400, 422}, Case.has_authentication_code, Reason.INVALID_KEY),
    Row("400.permission", PROVIDER, {400, 422}, Case.has_permission_code, Reason.INSUFFICIENT_PERMISSION),
    # The key was accepted; the body of the probe was not.
    Row("400.model", PROVIDER, {400, 422}, Case.complains_of_model, Reason.MODEL_NOT_FOUND),
    Row("400.body", PROVIDER, {400, 422}, Case.complains_of_body, Reason.OK),

    Row("404.model", PROVIDER, {404}, Case.misses_model, Reason.MODEL_NOT_FOUND),
    Row("404.model_elsewhere", PROVIDER, {404}, Case.misses_model_elsewhere, Reason.MODEL_NOT_FOUND),
    Row("404.other_api", NOT_EDGE, {404, 405}, Case.is_of_another_api_at_this_path, Reason.NOT_ANTHROPIC_COMPATIBLE),

    Row("429.anthropic", PROVIDER, {429}, Case.is_rate_limit_of_anthropic, Reason.RATE_LIMITED),
    Row("429.other", NOT_EDGE, {429}, Case.always, Reason.RATE_LIMITED, INDETERMINATE),

    Row("timeout", NOT_EDGE, {408, 499}, Case.always, Reason.TIMEOUT),
    Row("outage", NOT_EDGE, SERVER_ERRORS, Case.always, Reason.OVERLOADED),
    Row("blocked", NOT_EDGE, {407, 451}, Case.always, Reason.EDGE_BLOCKED),
    Row("rest", ANYONE, ANY, Case.always, Reason.UNEXPECTED_ANSWER),
)
# fmt: on
_STATUSES = {reason: status_of(reason) for reason in Reason}  # faster than the function


def decide(
    response: ProviderResponse | TransportFailure,
    *,
    probe: Probe,
    is_anthropic: bool,
    previously_valid: bool,
    host: str | None = None,
    patterns: MessagePatterns = DEFAULT_PATTERNS,
) -> Decision:
    """Return the decision of the first row that matches. Never raises, whatever the provider sends.

    Args:
        response: the response, or why there is none.
        probe: the request that was sent.
        is_anthropic: whether the endpoint is Anthropic's or the operator's default one.
        previously_valid: whether the last definite result of this key is valid.
        host: the endpoint's host, for words and codes that mean something only there.
        patterns: the operator's words and codes.
    """
    if isinstance(response, TransportFailure):
        row_id, reason = TRANSPORT_ROWS[response]
        status = _STATUSES[reason]
        return Decision(row_id, status, reason, needs_second_probe=status is ValidationStatus.INVALID)
    case = Case(
        response,
        probe=probe,
        is_anthropic=is_anthropic,
        previously_valid=previously_valid,
        host=host,
        patterns=patterns,
    )
    row = _first_match(case)
    status = row.status or _STATUSES[row.reason]
    is_about_key = response.status_code == UNAUTHORIZED or row.reason is Reason.BILLING_PROBLEM
    is_final = status is not ValidationStatus.INVALID or (is_about_key and _is_own_word(case))
    return Decision(row.id, status, row.reason, needs_second_probe=not is_final)


def _first_match(case: Case) -> Row:
    has_code = case.error_code is not None
    for row in _rows_for(case.response.status_code, case.speaker, has_code=has_code):
        if row.matches(case):
            return row
    return ROWS[-1]


def _is_own_word(case: Case) -> bool:
    """Whether the provider itself said it. On the default endpoint that needs its envelope."""
    return case.speaker is Speaker.PROVIDER or (not case.is_anthropic and case.speaker is Speaker.UNKNOWN)


@lru_cache(maxsize=4096)
def _rows_for(status_code: int, speaker: Speaker, *, has_code: bool) -> tuple[Row, ...]:
    """The rows that can match: most responses are decided by few of them."""
    return tuple(
        row
        for row in ROWS
        if status_code in row.statuses
        and speaker in row.speakers
        and (has_code or not isinstance(row.matches, HasCode))
    )
