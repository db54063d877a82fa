"""The decision table: what an answer of the provider, or the lack of one, says about the key.

`ROWS` is read from top to bottom, and the first row that holds decides. A row names a reason;
which reasons mean valid, invalid or indeterminate is said in `app.credentials.verdicts`.

Statuses and error codes decide wherever they can. Prose decides only what has no code, is never
alone in calling a key invalid, and is never kept.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from app.credentials.verdicts import Reason


class Probe(StrEnum):
    """What we asked. The bodies are always the same, so a complaint about them says nothing of the key."""

    MODELS = "models"  # GET /v1/models?limit=1
    MESSAGE = "message"  # POST /v1/messages: one token of a named model
    EMPTY_MESSAGE = "empty_message"  # POST /v1/messages with {}: refused, but not before the key is accepted


class TransportFailure(StrEnum):
    """Why there was no answer."""

    TIMEOUT = "timeout"
    TLS = "tls"
    UNREACHABLE = "unreachable"
    RESET = "reset"  # the connection broke before the answer was complete
    DNS = "dns"  # no resolver answered; a name that does not exist is UNREACHABLE
    ADDRESS_REFUSED = "address_refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderAnswer:
    """An HTTP answer. `body` is parsed JSON, or None if it was none; a repr does not show it."""

    status_code: int
    body: object = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagePatterns:
    """The provider's prose that carries meaning: substrings, in any case. It may change any day."""

    cors_refused: tuple[str, ...] = ("CORS requests are not allowed",)
    billing_problem: tuple[str, ...] = (
        "credit balance is too low",
        "you have reached your specified API usage limits",
        "you have reached your specified workspace API usage limits",
    )
    spend_cap: tuple[str, ...] = (
        "you have reached your API usage limits",
        "crossed its monthly API usage threshold",
    )
    organization_disabled: tuple[str, ...] = ("organization has been disabled",)
    workspace_required: tuple[str, ...] = ("not scoped to a workspace", "anthropic-workspace-id")
    model_missing: tuple[str, ...] = ("model",)


DEFAULT_PATTERNS = MessagePatterns()
_Object: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One answer, and the questions that rows ask about it."""

    answer: ProviderAnswer
    probe: Probe
    is_anthropic: bool
    previously_valid: bool
    patterns: MessagePatterns

    def is_any(self) -> bool:
        return True

    def is_anthropic_model_list(self) -> bool:
        return self.is_anthropic and self.is_model_list()

    def is_model_list(self) -> bool:
        openai_shape = self._body.get("object") == "list"
        return self.probe is Probe.MODELS and isinstance(self._body.get("data"), list) and not openai_shape

    def is_message(self) -> bool:
        usage = _object(self._body.get("usage"))
        return (
            self.probe is not Probe.MODELS
            and self._body.get("type") == "message"
            and isinstance(self._body.get("content"), list)
            and isinstance(usage.get("input_tokens"), int)
            and isinstance(usage.get("output_tokens"), int)
        )

    def was_valid(self) -> bool:
        return self.previously_valid

    def refuses_cors(self) -> bool:
        return self._says(self.patterns.cors_refused)

    def tells_billing_problem(self) -> bool:
        return self._says(self.patterns.billing_problem)

    def tells_spend_cap(self) -> bool:
        return self._says(self.patterns.spend_cap)

    def tells_organization_disabled(self) -> bool:
        return self._says(self.patterns.organization_disabled)

    def wants_workspace(self) -> bool:
        return self._says(self.patterns.workspace_required)

    def misses_model(self) -> bool:
        return self.probe is Probe.MESSAGE and self._says(self.patterns.model_missing)

    def refuses_fixed_body(self) -> bool:
        return self.probe is not Probe.MODELS and isinstance(self._error.get("message"), str)

    def is_from_edge(self) -> bool:
        """The network in front of the API answered: its own shape of error, or no JSON at all."""
        forbidden = self._error.get("type") == "forbidden" and "type" not in self._body
        return forbidden or self.answer.body is None

    def lacks_envelope(self) -> bool:
        words = (self._error.get("type"), self._error.get("message"))
        return self._body.get("type") != "error" or not all(isinstance(word, str) for word in words)

    @property
    def error_code(self) -> object:
        return _object(self._error.get("details")).get("error_code")

    @property
    def _body(self) -> _Object:
        return _object(self.answer.body)

    @property
    def _error(self) -> _Object:
        return _object(self._body.get("error"))

    def _says(self, patterns: tuple[str, ...]) -> bool:
        message = self._error.get("message")
        if not isinstance(message, str):
            return False
        return any(pattern.casefold() in message.casefold() for pattern in patterns)


def has_code(*codes: str) -> Callable[[Case], bool]:
    return lambda case: case.error_code in codes


class Row(NamedTuple):
    """One line of the table."""

    number: str
    statuses: Container[int]
    holds: Callable[[Case], bool]
    reason: Reason


ANY = range(1000)

TRANSPORT_ROWS: dict[TransportFailure, Reason] = {
    TransportFailure.TIMEOUT: Reason.TIMEOUT,  # T1
    TransportFailure.TLS: Reason.TLS_ERROR,  # T2
    TransportFailure.UNREACHABLE: Reason.UNREACHABLE,  # T3, as are the rest
    TransportFailure.RESET: Reason.UNREACHABLE,
    TransportFailure.DNS: Reason.DNS_UNAVAILABLE,
    TransportFailure.ADDRESS_REFUSED: Reason.ADDRESS_REFUSED,
}

# fmt: off
ROWS: tuple[Row, ...] = (
    # Never followed: the key would go where nobody entered it for.
    Row("T4", range(300, 400), Case.is_any, Reason.REDIRECT_REFUSED),

    # 200 alone proves nothing: some gateways wrap errors in it, and some lists of models are public.
    Row("1", {200}, Case.is_anthropic_model_list, Reason.OK),
    Row("1", {200}, Case.is_model_list, Reason.UNEXPECTED_ANSWER),
    Row("2", {200}, Case.is_message, Reason.OK),
    Row("3", {200}, Case.is_any, Reason.NOT_ANTHROPIC_COMPATIBLE),

    # Codes settle it, whatever the status. Unknown codes count as none.
    Row("4", ANY, has_code("organization_on_hold", "claude_code_key_creator_not_member"), Reason.REVOKED_OR_DISABLED),
    Row("4", ANY, has_code("organization_type_not_supported", "sandbox_egress_restricted"), Reason.INSUFFICIENT_PERMISSION),
    Row("4", ANY, has_code("cmek_key_disabled", "cmek_key_network_blocked"), Reason.INSUFFICIENT_PERMISSION),
    Row("4", ANY, has_code("api_key_scope_missing", "organization_level_scoped_api_key_required"), Reason.INSUFFICIENT_PERMISSION),
    Row("4", ANY, has_code("linked_organization_billing_unavailable", "linked_organization_spend_limit_reached"), Reason.BILLING_PROBLEM),
    Row("4", ANY, has_code("user_profile_billing_not_authorized", "user_profile_not_billable"), Reason.BILLING_PROBLEM),
    Row("4", ANY, has_code("enforced_spend_limit_reached", "contract_spend_limit_reached"), Reason.BILLING_PROBLEM),
    Row("4", ANY, has_code("ramp_limit_exceeded"), Reason.RATE_LIMITED),
    Row("4", ANY, has_code("cmek_context_unavailable", "cmek_key_unreachable", "compaction_unavailable"), Reason.OVERLOADED),
    Row("4", ANY, has_code("user_profile_required", "user_profile_not_found"), Reason.UNEXPECTED_ANSWER),
    Row("4", ANY, has_code("request_body_too_large_after_decoding"), Reason.UNEXPECTED_ANSWER),

    # CORS is about a header of ours. Revoked, expired and made-up keys all get the same 401: what
    # was known before tells them apart.
    Row("5", {401}, Case.refuses_cors, Reason.UNEXPECTED_ANSWER),
    Row("6", {401}, Case.was_valid, Reason.REVOKED_OR_DISABLED),
    Row("6", {401}, Case.is_any, Reason.INVALID_KEY),

    Row("7", {402}, Case.is_any, Reason.BILLING_PROBLEM),
    Row("8", {400}, Case.tells_billing_problem, Reason.BILLING_PROBLEM),
    Row("9", {400}, Case.tells_organization_disabled, Reason.REVOKED_OR_DISABLED),
    Row("10", {400}, Case.wants_workspace, Reason.WORKSPACE_REQUIRED),

    # A block of our network or region is not the customer's fault.
    Row("11", {403}, Case.is_from_edge, Reason.EDGE_BLOCKED),
    Row("12", {403}, Case.is_any, Reason.INSUFFICIENT_PERMISSION),

    # The key was accepted, what we asked with it was not. A list of models has no body to refuse.
    Row("13", {404}, Case.misses_model, Reason.MODEL_NOT_FOUND),
    Row("14", {404, 405, 501}, Case.lacks_envelope, Reason.NOT_ANTHROPIC_COMPATIBLE),
    Row("15", {400, 422}, Case.refuses_fixed_body, Reason.OK),

    Row("16", {429}, Case.tells_spend_cap, Reason.BILLING_PROBLEM),
    Row("16", {429}, Case.is_any, Reason.RATE_LIMITED),
    Row("17", {500, 502, 503, 504, *range(520, 528), 529}, Case.is_any, Reason.OVERLOADED),

    Row("18", ANY, Case.lacks_envelope, Reason.NOT_ANTHROPIC_COMPATIBLE),
    Row("18", ANY, Case.is_any, Reason.UNEXPECTED_ANSWER),
)
# fmt: on


def judge(
    answer: ProviderAnswer | TransportFailure,
    *,
    probe: Probe,
    is_anthropic: bool,
    previously_valid: bool,
    patterns: MessagePatterns = DEFAULT_PATTERNS,
) -> Reason:
    """The reason of the first row that holds. Never raises, whatever the provider says."""
    if isinstance(answer, TransportFailure):
        return TRANSPORT_ROWS[answer]
    case = Case(
        answer=answer,
        probe=probe,
        is_anthropic=is_anthropic,
        previously_valid=previously_valid,
        patterns=patterns,
    )
    return next(row.reason for row in ROWS if answer.status_code in row.statuses and row.holds(case))


def _object(value: object) -> _Object:
    return value if isinstance(value, dict) else {}
