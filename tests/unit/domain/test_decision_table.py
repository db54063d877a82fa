"""The decision table, row by row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.credentials.verdicts import Reason
from app.validation.decision_table import (
    ROWS,
    MessagePatterns,
    Probe,
    ProviderAnswer,
    TransportFailure,
    judge,
)
from tests.unit.domain.decision_table_cases import (
    A_LIST,
    ANSWERS,
    CODES,
    EMPTY,
    LOW_CREDIT,
    MESSAGE,
    MODELS,
    envelope,
)


def verdict_on(
    status: int,
    body: object = None,
    *,
    probe: Probe = MODELS,
    is_anthropic: bool = True,
    previously_valid: bool = False,
    patterns: MessagePatterns | None = None,
) -> Reason:
    return judge(
        ProviderAnswer(status_code=status, body=body),
        probe=probe,
        is_anthropic=is_anthropic,
        previously_valid=previously_valid,
        patterns=patterns or MessagePatterns(),
    )


class TestRows:
    @pytest.mark.parametrize(("row", "probe", "status", "body", "reason"), ANSWERS)
    def test_decide(self, row: str, probe: Probe, status: int, body: object, reason: Reason) -> None:
        assert verdict_on(status, body, probe=probe) is reason, f"row {row}"

    @pytest.mark.parametrize(("status", "code", "reason"), CODES)
    def test_error_codes_decide(self, status: int, code: str, reason: Reason) -> None:
        assert verdict_on(status, envelope("some_error", code=code), probe=MESSAGE) is reason

    @pytest.mark.parametrize(
        ("failure", "reason"),
        [
            (TransportFailure.TIMEOUT, Reason.TIMEOUT),
            (TransportFailure.TLS, Reason.TLS_ERROR),
            (TransportFailure.UNREACHABLE, Reason.UNREACHABLE),
            (TransportFailure.RESET, Reason.UNREACHABLE),
            (TransportFailure.DNS, Reason.DNS_UNAVAILABLE),
            (TransportFailure.ADDRESS_REFUSED, Reason.ADDRESS_REFUSED),
        ],
    )
    def test_a_missing_answer_has_its_own(self, failure: TransportFailure, reason: Reason) -> None:
        assert judge(failure, probe=MODELS, is_anthropic=True, previously_valid=True) is reason

    def test_stand_in_the_order_of_their_numbers(self) -> None:
        numbers = [0 if row.number == "T4" else int(row.number) for row in ROWS]

        assert numbers == sorted(numbers)
        assert set(numbers) == set(range(19))

    def test_are_all_tried(self) -> None:
        tried = {row for row, *_ in ANSWERS} | {"4"}

        assert tried == {row.number for row in ROWS}


class TestPrecedence:
    def test_a_code_beats_the_status(self) -> None:
        body = envelope("authentication_error", "API key is invalid.", code="organization_on_hold")

        assert verdict_on(401, body) is Reason.REVOKED_OR_DISABLED

    def test_a_code_beats_prose(self) -> None:
        body = envelope("invalid_request_error", LOW_CREDIT, code="cmek_key_disabled")

        assert verdict_on(400, body) is Reason.INSUFFICIENT_PERMISSION

    def test_a_code_inside_200_is_no_success(self) -> None:
        assert verdict_on(200, envelope("x", code="ramp_limit_exceeded")) is Reason.NOT_ANTHROPIC_COMPATIBLE

    def test_a_redirect_beats_everything_in_its_body(self) -> None:
        assert verdict_on(302, envelope("x", code="ramp_limit_exceeded")) is Reason.REDIRECT_REFUSED

    def test_an_unknown_code_counts_as_none(self) -> None:
        assert verdict_on(529, envelope("overloaded_error", code="brand_new")) is Reason.OVERLOADED

    def test_prose_counts_only_at_its_status(self) -> None:
        assert verdict_on(500, envelope("api_error", LOW_CREDIT)) is Reason.OVERLOADED
        assert verdict_on(401, envelope("authentication_error", LOW_CREDIT)) is Reason.INVALID_KEY

    def test_a_workspace_error_is_no_accepted_request(self) -> None:
        body = envelope("invalid_request_error", "This API key is not scoped to a workspace")

        assert verdict_on(400, body, probe=EMPTY) is Reason.WORKSPACE_REQUIRED


class TestContext:
    def test_a_401_for_a_key_that_worked_means_revoked(self) -> None:
        assert verdict_on(401, None, previously_valid=True) is Reason.REVOKED_OR_DISABLED

    def test_cors_says_nothing_of_a_key_that_worked(self) -> None:
        body = envelope("authentication_error", "CORS requests are not allowed for this Organization")

        assert verdict_on(401, body, previously_valid=True) is Reason.UNEXPECTED_ANSWER

    def test_a_public_list_of_models_proves_nothing(self) -> None:
        assert verdict_on(200, A_LIST, is_anthropic=False) is Reason.UNEXPECTED_ANSWER

    def test_a_refused_list_of_models_is_no_accepted_key(self) -> None:
        assert verdict_on(400, envelope("invalid_request_error", "whatever")) is Reason.UNEXPECTED_ANSWER

    def test_a_route_that_is_called_models_is_no_missing_model(self) -> None:
        body = envelope("not_found_error", "Not found: /v1/models")

        assert verdict_on(404, body, probe=MODELS) is Reason.UNEXPECTED_ANSWER

    def test_patterns_can_be_replaced(self) -> None:
        body = envelope("invalid_request_error", "Kein Guthaben.")

        assert verdict_on(400, body, patterns=MessagePatterns(billing_problem=("guthaben",))) is (
            Reason.BILLING_PROBLEM
        )


_KEYS = st.sampled_from(["type", "error", "message", "details", "error_code", "data", "usage", "content"])
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["error", "message"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(_KEYS | st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=12,
)


class TestAnyAnswer:
    @given(
        status=st.integers(0, 999),
        body=_JSON,
        probe=st.sampled_from(Probe),
        is_anthropic=st.booleans(),
        previously_valid=st.booleans(),
    )
    def test_gets_a_reason(
        self, status: int, body: object, probe: Probe, is_anthropic: bool, previously_valid: bool
    ) -> None:
        reason = verdict_on(
            status, body, probe=probe, is_anthropic=is_anthropic, previously_valid=previously_valid
        )

        assert isinstance(reason, Reason)

    def test_does_not_show_in_a_repr(self) -> None:
        answer = ProviderAnswer(status_code=401, body={"error": {"message": "canary"}})

        assert "canary" not in repr(answer)
