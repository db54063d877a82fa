"""Unit tests of the decision table."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.credentials.validation_results import Reason, ValidationStatus
from app.validation.decision_table import ROWS, TRANSPORT_ROWS, Decision, decide
from app.validation.message_patterns import HostPatterns, MessagePatterns
from app.validation.probes import Probe, TransportFailure
from app.validation.provider_response import ProviderResponse
from tests.support.provider.provider_answers import Case, case_named, cases, decision_of

ADR = Path(__file__).parents[3] / "docs/explanation/adr/0010-decision-table.md"


def respond(
    status: int, body: object, *, host: str = "custom", probe: str = "messages", **headers: str
) -> Case:
    content_type = {"content-type": "application/json"}
    return {"host": host, "probe": probe, "status": status, "headers": content_type | headers, "body": body}


def envelope(kind: str, message: str, **details: str) -> dict[str, Any]:
    error = {"type": kind, "message": message, "details": details or None}
    return {"type": "error", "error": error, "request_id": "req_011CTest"}


class TestRows:
    @pytest.mark.parametrize("case", [pytest.param(case, id=case["id"]) for case in cases()])
    def test_decide_as_expected(self, case: Case) -> None:
        decision = decision_of(case)

        assert (decision.row, decision.status) == (case["row"], case["expect"]["status"])
        assert decision.reason in case["expect"]["reasons"]

    @pytest.mark.parametrize("failure", TransportFailure)
    def test_map_transport_failures(self, failure: TransportFailure) -> None:
        decision = decide(failure, probe=Probe.MODELS, is_anthropic=True, previously_valid=True)

        assert (decision.row, decision.reason) == TRANSPORT_ROWS[failure]

    def test_have_unique_ids(self) -> None:
        ids = [row.id for row in ROWS] + [row for row, _ in TRANSPORT_ROWS.values()]

        assert len(ids) == len(set(ids))

    def test_all_have_test_cases(self) -> None:
        tested = {case["row"] for case in cases()} | {"401.revoked", "400.revoked"}

        assert tested == {row.id for row in ROWS}

    def test_are_listed_in_the_adr(self) -> None:
        listed = re.findall(r"^\| `([\w.]+)` \|", ADR.read_text(encoding="utf-8"), re.MULTILINE)

        assert listed == [*(row for row, _ in TRANSPORT_ROWS.values()), *(row.id for row in ROWS)]


class TestPreviouslyValidKey:
    @pytest.mark.parametrize(
        ("case_id", "row"), [("401-envelope", "401.revoked"), ("400-authentication", "400.revoked")]
    )
    def test_rejected_key_counts_as_revoked(self, case_id: str, row: str) -> None:
        decision = decision_of(case_named(case_id), previously_valid=True)

        assert (decision.row, decision.reason) == (row, Reason.REVOKED_OR_DISABLED)

    def test_cors_error_does_not_mean_a_revoked_key(self) -> None:
        assert decision_of(case_named("401-cors"), previously_valid=True).row == "401.cors"


class TestSecondProbe:
    @pytest.mark.parametrize(
        "case_id", ["401-envelope", "401-text", "billing-words-on-anthropic", "openai-insufficient-quota"]
    )
    def test_is_not_needed_after_the_own_word_of_the_provider(self, case_id: str) -> None:
        assert not decision_of(case_named(case_id), previously_valid=True).needs_second_probe

    @pytest.mark.parametrize(
        "case_id",
        [
            "redirect-with-models",
            "app-page",
            "403-envelope",
            "400-workspace",
            "404-fastapi",
            "code-organization_on_hold-400",
            "401-openai-at-default",  # not Anthropic's envelope
            "bedrock-payment-instrument",  # behind a gateway's shape
        ],
    )
    def test_is_needed_after_any_other_invalid_result(self, case_id: str) -> None:
        decision = decision_of(case_named(case_id), previously_valid=True)

        assert decision.status is ValidationStatus.INVALID
        assert decision.needs_second_probe

    @pytest.mark.parametrize("failure", [TransportFailure.TLS, TransportFailure.ADDRESS_REFUSED])
    def test_is_needed_after_a_failure_of_the_connection(self, failure: TransportFailure) -> None:
        decision = decide(failure, probe=Probe.MODELS, is_anthropic=True, previously_valid=True)

        assert decision.needs_second_probe

    @pytest.mark.parametrize("case", [pytest.param(case, id=case["id"]) for case in cases()])
    def test_is_needed_only_after_invalid_results(self, case: Case) -> None:
        decision = decision_of(case)

        assert decision.status is ValidationStatus.INVALID or not decision.needs_second_probe


class TestBillingCodes:
    @pytest.mark.parametrize(
        "code",
        [
            "daily_cost_limit_exceeded",
            "InsufficientBalance",
            "USER-BALANCE-INSUFFICIENT",
            "credits_exhausted",
            "credit_limit",
            "out_of_credit",
            "spending cap reached",
            "team_budget_exceeded",
            "over_budget",
            "account_in_arrears",
            "payment_method_required",
            "card_declined",
            "billing_hold",
            "trial_expired",
        ],
    )
    def test_of_any_provider_are_recognized_by_their_words(self, code: str) -> None:
        for error in ({"message": "x", "code": code}, {"message": "x", "type": code}):
            assert decision_of(respond(403, {"error": error})).row == "billing.code"

    @pytest.mark.parametrize(
        "code",
        [
            "invalid_credentials",
            "insufficient_permissions",
            "insufficient_capacity",
            "load_balance_failed",
            "token_budget_exceeded",
            "thinking_budget_exceeded",
            "retry_budget_exhausted",
            "billing_service_unavailable",
            "tokens_per_minute_quota",
            "concurrency_limit_exceeded",
            "exceeded_token_budget",
            "latency_budget_exceeded",
            "overloaded_budget",
            "request_overdue",
            "wildcard_required",
        ],
    )
    def test_do_not_mean_other_shortages(self, code: str) -> None:
        assert decision_of(respond(429, {"error": {"message": "x", "code": code}})).row == "429.other"


class TestBillingSentences:
    @pytest.mark.parametrize(
        "message",
        [
            "Too many requests. You can raise your limits in your billing settings.",
            "Concurrency reached. Buy more capacity or wait.",
            "本分钟额度已用完",
            "并发额度不足",
            "Your balance is 0.53 USD; please slow down.",
            "余额为0.5",
        ],
    )
    def test_about_rates_or_with_money_left_are_not_about_billing(self, message: str) -> None:
        assert decision_of(respond(429, {"error": {"message": message}})).row == "429.other"

    @pytest.mark.parametrize("message", ["Your balance is 0.00 USD.", "余额为0", "额度已用完"])
    def test_without_money_are(self, message: str) -> None:
        assert decision_of(respond(429, {"error": {"message": message}})).row == "billing.words"


class TestSentencesAboutModelOrBody:
    @pytest.mark.parametrize(
        "message",
        [
            "无效的token,模型不存在",
            "未提供key,模型",
            "AccessKey不存在,无法访问模型",
            "帐号不存在,模型",
            "请求IP不存在于白名单中,拒绝访问模型接口",
            "请求被防火墙拦截,模型不存在",
            "未收到模型的响应",
            "服务器内部错误,模型不存在",
            "系统繁忙,模型参数错误",
            "请求路径/v1/messages不存在",
            "Cannot find route /v1/messages",
            "Invalid URL (POST /v1/messages)",
            "Cannot find the tenant for model x",
        ],
    )
    def test_about_the_key_a_block_an_outage_or_a_path_prove_no_key(self, message: str) -> None:
        decision = decision_of(respond(400, {"error": {"message": message}}))

        assert decision.status is not ValidationStatus.VALID

    @pytest.mark.parametrize(
        ("message", "type_"),
        [
            ("Cannot POST /ai-models/v1/messages", "NotFoundError"),
            ("No host models.acme.com", "not_found_error"),
        ],
    )
    def test_about_a_route_or_a_host_prove_no_key(self, message: str, type_: str) -> None:
        decision = decision_of(respond(404, {"error": {"message": message, "type": type_}}))

        assert decision.status is not ValidationStatus.VALID

    def test_about_a_model_with_a_path_as_its_id_are_about_the_model(self) -> None:
        message = "accounts/fireworks/models/llama does not exist"

        assert decision_of(respond(404, {"error": {"message": message}})).row != "404.other_api"


class TestMessagePatterns:
    def test_add_billing_words_for_any_status(self) -> None:
        patterns = MessagePatterns(billing_problem=("guthaben",), spend_cap=("obergrenze",))

        for message in ("Kein GUTHABEN.", "Obergrenze erreicht"):
            decision = decision_of(respond(403, envelope("x", message)), patterns=patterns)
            assert decision.row == "billing.words"

    def test_do_not_remove_built_in_billing_words(self) -> None:
        patterns = MessagePatterns(billing_problem=("guthaben",))

        assert decision_of(case_named("billing-words-on-anthropic"), patterns=patterns).row == "billing.words"

    @pytest.mark.parametrize(
        ("host", "row"),
        [
            ("llm.example.com", "billing.code"),
            ("eu.llm.example.com", "billing.code"),
            ("notllm.example.com", "429.other"),
            (None, "429.other"),
        ],
    )
    def test_of_a_host_apply_to_it_and_its_subdomains(self, host: str | None, row: str) -> None:
        patterns = MessagePatterns(hosts={"llm.example.com": HostPatterns(billing_codes=frozenset({"e42"}))})
        body = {"error": {"message": "Nope", "code": "E42"}}

        assert decision_of(respond(429, body), host=host, patterns=patterns).row == row

    def test_of_a_host_may_be_words(self) -> None:
        patterns = MessagePatterns(hosts={"llm.example.com": HostPatterns(billing_problem=("leer",))})
        case = respond(429, {"error": {"message": "Konto leer"}})

        assert decision_of(case, host="llm.example.com", patterns=patterns).row == "billing.words"
        assert decision_of(case, host="other.example.com", patterns=patterns).row == "429.other"

    @pytest.mark.parametrize(("host", "row"), [("api.z.ai", "billing.code"), ("gw.example.com", "429.other")])
    def test_numeric_code_means_no_money_only_at_its_host(self, host: str, row: str) -> None:
        case = respond(429, {"error": {"message": "1113", "code": "1113"}})

        assert decision_of(case, host=host).row == row

    def test_replace_the_other_built_in_words(self) -> None:
        patterns = MessagePatterns(organization_disabled=("not to our liking",))
        case = respond(400, envelope("invalid_request_error", "This is NOT to our liking"), host="anthropic")

        assert decision_of(case, patterns=patterns).row == "400.disabled"

    def test_add_words_for_a_missing_model(self) -> None:
        patterns = MessagePatterns(model_missing=("modell",))
        case = respond(404, envelope("not_found_error", "Modell fehlt"), host="anthropic")

        assert decision_of(case).row == "rest"
        assert decision_of(case, patterns=patterns).row == "404.model"


# Words of all rows, so that random bodies come close to them.
_WORDS = sorted(
    {
        word
        for case in cases()
        for word in re.findall(r"[\w.-]+", json.dumps(case["body"], ensure_ascii=False))
    }
)
_KEYS = st.sampled_from(
    [
        "type",
        "error",
        "errors",
        "message",
        "details",
        "error_code",
        "data",
        "usage",
        "content",
        "code",
        "request_id",
    ]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(_WORDS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(_KEYS | st.text(max_size=3), inner, max_size=6)
    ),
    max_leaves=14,
)


class TestAnyResponse:
    @given(
        status=st.integers(0, 999),
        body=_JSON,
        probe=st.sampled_from(["models", "messages", "empty"]),
        host=st.sampled_from(["anthropic", "custom"]),
        previously_valid=st.booleans(),
    )
    def test_gets_a_decision(
        self, status: int, body: object, probe: str, host: str, previously_valid: bool
    ) -> None:
        case = respond(status, body, host=host, probe=probe)

        decision = decision_of(case, previously_valid=previously_valid)

        assert isinstance(decision, Decision)
        assert decision.status is not ValidationStatus.PENDING

    @given(content=st.binary(max_size=300), content_type=st.text(max_size=30))
    def test_any_bytes_are_readable(self, content: bytes, content_type: str) -> None:
        response = ProviderResponse.read(200, {"content-type": content_type}, content)

        decision = decide(response, probe=Probe.MODELS, is_anthropic=True, previously_valid=False)

        assert isinstance(decision, Decision)

    @given(status=st.integers(400, 999), body=_JSON, probe=st.sampled_from(["models", "messages", "empty"]))
    def test_default_endpoint_proves_a_key_only_in_its_envelope(
        self, status: int, body: object, probe: str
    ) -> None:
        decision = decision_of(respond(status, body, host="anthropic", probe=probe))

        if decision.status is ValidationStatus.VALID:
            assert isinstance(body, dict)
            assert body["type"] == "error"
            assert decision.row in {"429.anthropic", "404.model"}

    @pytest.mark.parametrize(
        "text",
        [
            "<!---->" * 9000,
            "<!--" + "-" * 60_000,
            "a" * 60_000,
            "`" * 60_000,
            "insufficient " * 4000,
            "a-" * 30_000,
            "budget " * 8000,
        ],
        ids=["comments", "open comment", "one word", "backticks", "insufficient", "hyphens", "budgets"],
    )
    def test_hostile_text_takes_no_time(self, text: str) -> None:
        """No pattern backtracks: a hostile endpoint must not stop the event loop."""
        started_at = time.process_time()
        for body in ({"text": text}, {"error": {"message": text, "type": text}, "message": text}):
            for status in (200, 400, 403):
                decision_of({**respond(status, body), "headers": {}})

        assert time.process_time() - started_at < 1.0

    def test_body_and_headers_are_not_in_the_repr(self) -> None:
        response = ProviderResponse.read(401, {"x-echo": "canary"}, b'{"error": {"message": "canary"}}')
        page = ProviderResponse.read(401, {}, b"canary")

        assert "canary" not in repr(response) + repr(page)
