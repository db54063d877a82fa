"""Decoding of Anthropic's usage object."""

from typing import Any

import msgspec
import pytest

from app.usage_events.anthropic_usage import UsageObject, priced_parts, total_tokens
from app.usage_events.records import ModelUsage, TokenUsage, UsageFlag

MODEL = "claude-sonnet-5-5"


def read(**usage: Any) -> tuple[tuple[ModelUsage, ...], UsageFlag]:
    parts, flags = priced_parts(MODEL, msgspec.convert(usage, UsageObject))
    return parts, UsageFlag(flags)


class TestTokenClasses:
    def test_splits_tokens_into_disjoint_price_classes(self) -> None:
        (part,), flags = read(
            input_tokens=1,
            cache_creation_input_tokens=12,
            cache_creation={"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 7},
            cache_read_input_tokens=20,
            output_tokens=40,
            output_tokens_details={"thinking_tokens": 30},
            server_tool_use={"web_search_requests": 2, "web_fetch_requests": 9},
        )

        assert part.tokens == TokenUsage(
            uncached_input=1,
            cache_write_5m=5,
            cache_write_1h=7,
            cache_read=20,
            output=40,
            web_search_requests=2,
        )
        assert flags == UsageFlag.NONE

    @pytest.mark.parametrize(
        "usage",
        [
            {},
            dict.fromkeys(
                (
                    *("input_tokens", "cache_creation_input_tokens", "cache_creation", "output_tokens"),
                    *("cache_read_input_tokens", "server_tool_use", "service_tier", "iterations"),
                )
            ),
            {"cache_creation": {}, "server_tool_use": {}, "iterations": []},
        ],
    )
    def test_counts_absent_and_null_fields_as_zero(self, usage: dict[str, Any]) -> None:
        (part,), flags = read(**usage)

        assert part == ModelUsage(model=MODEL, tokens=TokenUsage())
        assert flags == UsageFlag.NONE

    def test_ignores_unknown_fields(self) -> None:
        (part,), _ = read(input_tokens=3, fallback_credit={"a": [{"b": None}]}, more=7)

        assert part.tokens == TokenUsage(uncached_input=3)

    @pytest.mark.parametrize(
        "usage",
        [
            {"input_tokens": -1},
            {"input_tokens": 1_000_000_001},
            {"input_tokens": 1.0},
            {"input_tokens": "1"},
            {"input_tokens": True},
            {"cache_creation": {"ephemeral_1h_input_tokens": -1}},
            {"server_tool_use": {"web_search_requests": 100_001}},
            {"iterations": [{}] * 10_001},
            {"service_tier": "x" * 65},
        ],
    )
    def test_rejects_impossible_counts(self, usage: dict[str, Any]) -> None:
        with pytest.raises(msgspec.ValidationError):
            read(**usage)


class TestCacheWrites:
    def test_counts_writes_without_a_split_as_five_minutes_and_sets_a_flag(self) -> None:
        (part,), flags = read(cache_creation_input_tokens=9)

        assert (part.tokens.cache_write_5m, part.tokens.cache_write_1h) == (9, 0)
        assert flags == UsageFlag.CACHE_TTL_ASSUMED

    def test_counts_writes_beyond_the_split_as_five_minutes_and_sets_a_flag(self) -> None:
        (part,), flags = read(
            cache_creation_input_tokens=100,
            cache_creation={"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 30},
        )

        assert (part.tokens.cache_write_5m, part.tokens.cache_write_1h) == (70, 30)
        assert flags == UsageFlag.CACHE_TTL_ASSUMED

    def test_uses_the_split_if_the_total_is_missing(self) -> None:
        (part,), flags = read(
            cache_creation_input_tokens=None, cache_creation={"ephemeral_1h_input_tokens": 30}
        )

        assert (part.tokens.cache_write_5m, part.tokens.cache_write_1h) == (0, 30)
        assert flags == UsageFlag.NONE


class TestIterations:
    def test_adds_compaction_iterations_as_separate_parts(self) -> None:
        parts, flags = read(
            input_tokens=10,
            output_tokens=5,
            service_tier="batch",
            speed="fast",
            inference_geo="us",
            iterations=[
                {
                    "type": "compaction",
                    "input_tokens": 1000,
                    "output_tokens": 50,
                    "cache_creation_input_tokens": 3,
                },
                {"type": "message", "input_tokens": 10, "output_tokens": 5},
            ],
        )

        message, compaction = parts
        assert message.tokens == TokenUsage(uncached_input=10, output=5)
        assert compaction == ModelUsage(
            model=MODEL,
            tokens=TokenUsage(uncached_input=1000, output=50, cache_write_5m=3),
            service_tier="batch",
            speed="fast",
            inference_geo="us",
            calls=(TokenUsage(uncached_input=1000, output=50, cache_write_5m=3),),
        )
        assert flags == UsageFlag.COMPACTION_ADDED | UsageFlag.CACHE_TTL_ASSUMED
        assert total_tokens(parts) == TokenUsage(uncached_input=1010, output=55, cache_write_5m=3)

    def test_adds_advisor_iterations_at_the_advisors_model(self) -> None:
        parts, flags = read(
            output_tokens=5,
            iterations=[
                {"type": "message", "output_tokens": 5},
                {"type": "advisor_message", "model": "claude-opus-5-5", "output_tokens": 70},
            ],
        )

        assert [(it.model, it.tokens) for it in parts] == [
            (MODEL, TokenUsage(output=5)),
            ("claude-opus-5-5", TokenUsage(output=70)),
        ]
        assert flags == UsageFlag.MIXED_MODELS

    def test_does_not_guess_the_model_of_an_advisor(self) -> None:
        parts, _ = read(output_tokens=5, iterations=[{"type": "advisor_message", "output_tokens": 70}])

        assert parts[1].model == "unknown"

    def test_ignores_added_iterations_without_tokens(self) -> None:
        parts, flags = read(
            output_tokens=5,
            iterations=[
                {"type": "advisor_message", "model": "new", "input_tokens": 0},
                {"type": "compaction"},
            ],
        )

        assert (len(parts), flags) == (1, UsageFlag.NONE)

    def test_ignores_message_iterations_of_the_same_model(self) -> None:
        parts, flags = read(
            output_tokens=5, iterations=[{"type": "message", "model": MODEL, "output_tokens": 5}]
        )

        assert (len(parts), flags) == (1, UsageFlag.NONE)

    @pytest.mark.parametrize("kind", ["new kind", None])
    def test_flags_iterations_of_an_unknown_type(self, kind: str | None) -> None:
        parts, flags = read(
            output_tokens=5, iterations=[{"type": kind, "model": "other", "output_tokens": 9}]
        )

        assert (len(parts), flags) == (1, UsageFlag.USAGE_FIELD_IGNORED)

    def test_takes_the_only_model_that_message_iterations_name(self) -> None:
        parts, _ = read(
            output_tokens=5,
            iterations=[{"type": "message", "model": "claude-opus-5", "output_tokens": 5}],
        )

        assert [it.model for it in parts] == ["claude-opus-5"]

    def test_keeps_the_events_model_if_an_iteration_names_its_snapshot(self) -> None:
        parts, flags = read(
            output_tokens=5,
            iterations=[{"type": "message", "model": f"{MODEL}-20260930", "output_tokens": 5}],
        )

        assert ([it.model for it in parts], flags) == ([MODEL], UsageFlag.NONE)

    def test_keeps_the_events_model_if_an_iteration_names_none(self) -> None:
        parts, _ = read(
            output_tokens=5,
            iterations=[
                {"type": "message", "model": "claude-opus-5", "output_tokens": 3},
                {"type": "message", "output_tokens": 2},
            ],
        )

        assert [it.model for it in parts] == [MODEL]


class TestFallback:
    def test_prices_the_message_at_the_model_that_served_it(self) -> None:
        parts, _ = read(
            output_tokens=5,
            iterations=[
                {"type": "message", "model": MODEL, "input_tokens": 3, "output_tokens": 0},
                {"type": "fallback_message", "model": "claude-opus-5", "output_tokens": 5},
            ],
        )

        assert [(it.model, it.tokens) for it in parts] == [("claude-opus-5", TokenUsage(output=5))]

    def test_adds_attempts_that_declined_after_some_output(self) -> None:
        parts, flags = read(
            output_tokens=5,
            iterations=[
                {"type": "message", "input_tokens": 3, "output_tokens": 2},
                {"type": "message", "model": "claude-fable-5", "input_tokens": 4, "output_tokens": 1},
                {"type": "fallback_message", "model": "claude-opus-5", "output_tokens": 5},
            ],
        )

        assert [(it.model, it.tokens) for it in parts[1:]] == [
            (MODEL, TokenUsage(uncached_input=3, output=2)),
            ("claude-fable-5", TokenUsage(uncached_input=4, output=1)),
        ]
        assert flags == UsageFlag.MIXED_MODELS

    def test_is_free_if_no_model_produced_output(self) -> None:
        parts, flags = read(
            input_tokens=7,
            iterations=[{"type": "fallback_message", "model": "claude-opus-5", "input_tokens": 7}],
        )

        assert [it.is_free for it in parts] == [True]
        assert UsageFlag.REFUSAL in flags

    def test_bills_attempts_without_output_in_billed_refusal_categories(self) -> None:
        usage = {
            "output_tokens": 5,
            "iterations": [
                {"type": "message", "model": "claude-fable-5", "input_tokens": 4, "output_tokens": 0},
                {"type": "fallback_message", "model": MODEL, "output_tokens": 5},
            ],
        }

        parts, _ = priced_parts(MODEL, msgspec.convert(usage, UsageObject), is_refusal_billed=True)

        assert [it.model for it in parts] == [MODEL, "claude-fable-5"]


class TestSingleCalls:
    def test_are_known_if_the_iterations_add_up_to_the_total(self) -> None:
        parts, _ = read(
            input_tokens=9,
            cache_creation_input_tokens=7,
            cache_creation={"ephemeral_1h_input_tokens": 7},
            server_tool_use={"web_search_requests": 1},
            iterations=[
                {"type": "message", "input_tokens": 4, "cache_creation_input_tokens": 7},
                {"type": "message", "input_tokens": 5},
            ],
        )

        assert parts[0].calls == (
            TokenUsage(uncached_input=4, cache_write_1h=7, web_search_requests=1),
            TokenUsage(uncached_input=5),
        )

    def test_are_unknown_if_the_iterations_are_only_some_of_them(self) -> None:
        parts, _ = read(input_tokens=9, iterations=[{"type": "message", "input_tokens": 4}])

        assert parts[0].calls == ()


class TestRefusal:
    @pytest.mark.parametrize(
        ("output", "is_billed", "is_free", "flags"),
        [
            (0, False, True, UsageFlag.REFUSAL),
            (0, True, False, UsageFlag.REFUSAL),
            (3, False, False, UsageFlag.NONE),
        ],
    )
    def test_is_free_only_before_output_and_unless_its_category_is_billed(
        self, output: int, is_billed: bool, is_free: bool, flags: UsageFlag
    ) -> None:
        usage = UsageObject(input_tokens=106, output_tokens=output)

        (part,), found = priced_parts(MODEL, usage, is_refusal=True, is_refusal_billed=is_billed)

        assert (part.is_free, UsageFlag(found)) == (is_free, flags)
        assert part.tokens == TokenUsage(uncached_input=106, output=output)


class TestPriceConditions:
    def test_keeps_the_providers_values(self) -> None:
        (part,), _ = read(service_tier="priority", speed="fast", inference_geo="mars")

        assert (part.service_tier, part.speed, part.inference_geo) == ("priority", "fast", "mars")
