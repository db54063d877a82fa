"""The conditions that rows of the decision table test: what one response says, and in which context."""

import re
from collections.abc import Iterable

from app.validation.billing_words import has_billing_code, speaks_of_billing
from app.validation.body_complaints import is_complaint, names_field, names_model
from app.validation.error_words import plain, words_of
from app.validation.message_patterns import DEFAULT_PATTERNS, MessagePatterns
from app.validation.probes import Probe
from app.validation.provider_response import BodyKind, JsonObject, ProviderResponse, as_object
from app.validation.speakers import speaker_of, speaks_of_maintenance

_SERVER_ERROR = 500

_AUTHENTICATION = re.compile(
    r"authenti|unauthori[sz]ed|(?:invalid|incorrect|expired|revoked|wrong|missing)_?(?:x_?)?(?:api_?)?(?:key|token|credential)"
    r"|(?:api_?key|token)_?(?:invalid|expired|revoked|not_found|incorrect)|^auth_?error$"
)
_PERMISSION = re.compile(r"permission|access_?denied|forbidden|not_?authorized|access_?terminated")
_OUTAGE = re.compile(r"unavailable|timeout|internal|failed")
_MODEL_CODES = frozenset(
    {"model_not_found", "modelnotfound", "model_not_exist", "invalid_model", "unknown_model", "deploymentnotfound"}
)  # fmt: skip
# They mean the model only if the sentence beside them does: Moonshot, Volcengine Ark, vLLM, WP Engine.
_RESOURCE_CODES = frozenset(
    {"resource_not_found_error", "invalidendpointormodel.notfound", "notfounderror", "not_found_error"}
)
_LIST_FIELDS = frozenset({"data", "has_more", "first_id", "last_id"})
_OVERLOAD = frozenset({"overloaded_error", "api_error", "timeout_error", "rate_limit_error"})


class Case:
    """One response with its context."""

    __slots__ = (
        "codes", "error_code", "host", "is_anthropic", "message", "patterns", "previously_valid", "probe", "prose",
        "response", "speaker",
    )  # fmt: skip

    def __init__(
        self,
        response: ProviderResponse,
        *,
        probe: Probe,
        is_anthropic: bool,
        previously_valid: bool,
        host: str | None,
        patterns: MessagePatterns,
    ) -> None:
        self.response = response
        self.probe = probe
        self.is_anthropic = is_anthropic
        self.previously_valid = previously_valid
        self.host = host
        self.patterns = patterns
        self.speaker = speaker_of(response, is_anthropic=is_anthropic)
        self.codes, self.prose = words_of(response)
        message = response.error.get("message")
        self.message = plain(message).casefold() if isinstance(message, str) else ""
        # Only as text, and only in the provider's envelope.
        code = as_object(response.error.get("details")).get("error_code") if response.has_envelope else None
        self.error_code = code if isinstance(code, str) else None

    def always(self) -> bool:
        return True

    # --- billing ---

    def has_billing_code(self) -> bool:
        if not self.codes:
            return False
        if has_billing_code(self.codes, self.host):
            return True
        return self.patterns is not DEFAULT_PATTERNS and any(
            self.patterns.is_billing_code(code, self.host) for code in self.codes
        )

    def speaks_of_billing(self) -> bool:
        is_server_error = self.response.status_code >= _SERVER_ERROR
        for text in self.prose:
            if speaks_of_billing(text, is_server_error=is_server_error):
                return True
        if self.patterns is DEFAULT_PATTERNS:
            return False
        words = self.patterns.billing_words_of(self.host)
        return any(_contains(text, words) for text in self.prose)

    def speaks_of_outage(self) -> bool:
        """The provider says that it is out of order for now, whatever the status."""
        return any(speaks_of_maintenance(text) for text in self.prose)

    # --- 200 ---

    def is_anthropic_model_list(self) -> bool:
        return self.is_anthropic and self.is_model_list()

    def is_model_list(self) -> bool:
        """Anthropic's shape. Public lists of other providers have entries without `type`."""
        body = as_object(self.response.json)
        data = body.get("data")
        if self.probe is not Probe.MODELS or not isinstance(data, list) or "object" in body:
            return False
        if not data:
            return body.keys() <= _LIST_FIELDS
        return all(_is_model(as_object(entry)) for entry in data)

    def is_message(self) -> bool:
        body = as_object(self.response.json)
        usage = as_object(body.get("usage"))
        return (
            self.probe is not Probe.MODELS
            and body.get("type") == "message"
            and isinstance(body.get("content"), list)
            and not body.get("error")
            and as_object(body.get("base_resp")).get("status_code", 0) == 0  # MiniMax reports errors there
            and _is_count(usage.get("input_tokens"))
            and _is_count(usage.get("output_tokens"))
        )

    def wraps_overload(self) -> bool:
        return self.response.has_envelope and str(self.response.error.get("type")).casefold() in _OVERLOAD

    def is_of_another_api(self) -> bool:
        if self.response.kind is BodyKind.JSON:
            return bool(as_object(self.response.json))
        return not self.is_anthropic and self.response.kind in (BodyKind.HTML, BodyKind.TEXT)

    # --- refusals ---

    def refuses_key(self) -> bool:
        """The endpoint itself said it: as a JSON object, or as text, which may be a JSON string."""
        response = self.response
        return response.kind is BodyKind.TEXT or bool(response.body) or isinstance(response.json, str)

    def revokes_key(self) -> bool:
        return self.previously_valid and self.refuses_key()

    def reports_cors_error(self) -> bool:
        return self._says(self.patterns.cors_refused)

    def reports_disabled_organization(self) -> bool:
        return self._says(self.patterns.organization_disabled)

    def requires_workspace(self) -> bool:
        return self._says(self.patterns.workspace_required)

    def has_authentication_code(self) -> bool:
        return _any_matches(self.codes, _AUTHENTICATION)

    def was_valid_and_has_authentication_code(self) -> bool:
        return self.previously_valid and self.has_authentication_code()

    def has_permission_code(self) -> bool:
        return _any_matches(self.codes, _PERMISSION)

    def complains_of_model(self) -> bool:
        """About the model that the probe named, and about no other field."""
        return self.probe is Probe.MESSAGE and not names_field(self.message) and self.complains_of_body()

    def complains_of_body(self) -> bool:
        """About `max_tokens`, `messages` or the model, which the body of the probe lacks or names.

        Only a custom endpoint: Anthropic's own is asked for its list of models, which has no body to complain of.
        """
        return (
            self.probe is not Probe.MODELS
            and not self.is_anthropic
            and (names_field(self.message) or names_model(self.message))
            and is_complaint(self.message)
        )

    def misses_model(self) -> bool:
        """The provider's own 404 for the model that the probe named."""
        return (
            self.probe is Probe.MESSAGE
            and self.response.has_envelope
            and self.response.error.get("type") == "not_found_error"
            and self._names_model()
        )

    def misses_model_elsewhere(self) -> bool:
        """The same of a custom endpoint with other codes."""
        return self.probe is Probe.MESSAGE and not self.is_anthropic and self._has_model_code()

    def is_of_another_api_at_this_path(self) -> bool:
        """A custom host does not know the path or the method, in the shape of another API."""
        return (
            not self.is_anthropic
            and self.response.kind is not BodyKind.BROKEN
            and not self.response.has_envelope
            and not self._has_model_code()
            and not self._names_model()
            and not any(names_model(text.casefold()) for text in self.prose)
        )

    def is_rate_limit_of_anthropic(self) -> bool:
        return (
            self.is_anthropic
            and self.response.request_id is not None
            and self.response.error.get("type") == "rate_limit_error"
        )

    def _has_model_code(self) -> bool:
        return not self.codes.isdisjoint(_MODEL_CODES) or (
            not self.codes.isdisjoint(_RESOURCE_CODES) and self._names_model()
        )

    def _names_model(self) -> bool:
        return names_model(self.message) or self._says(self.patterns.model_missing)

    def _says(self, patterns: tuple[str, ...]) -> bool:
        return bool(self.message) and bool(patterns) and _contains(self.message, patterns)


class HasCode:
    """A condition: the envelope's `details.error_code` is one of these. An unknown code counts as none."""

    def __init__(self, *codes: str) -> None:
        self._codes = frozenset(codes)

    def __call__(self, case: Case) -> bool:
        return case.error_code in self._codes


def _contains(text: str, patterns: Iterable[str]) -> bool:
    lower = text.casefold()
    return any(pattern.casefold() in lower for pattern in patterns)


def _any_matches(codes: Iterable[str], pattern: re.Pattern[str]) -> bool:
    normal = [code.replace("-", "_").replace(" ", "_") for code in codes]
    return any(pattern.search(code) is not None and _OUTAGE.search(code) is None for code in normal)


def _is_model(entry: JsonObject) -> bool:
    model_id = entry.get("id")
    if not isinstance(model_id, str):
        return False
    return entry.get("type") == "model" or ("type" not in entry and model_id.startswith("claude-"))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
