"""Anthropic's usage object, as it comes."""

from typing import Any

import msgspec
import pytest

from app.usage.anthropic_usage import UsageObject, parts_of, total_of
from app.usage.records import ModelUsage, TokenUsage, UsageFlag

MODEL = "claude-sonnet-5-5"


def read(**usage: Any) -> tuple[tuple[ModelUsage, ...], UsageFlag]:
    parts, flags = parts_of(MODEL, msgspec.convert(usage, UsageObject))
    return parts, UsageFlag(flags)


class TestTokens:
    def test_are_disjoint_by_class_of_price(self) -> None:
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
    def test_that_are_not_named_are_none(self, usage: dict[str, Any]) -> None:
        (part,), flags = read(**usage)

        assert part == ModelUsage(model=MODEL, tokens=TokenUsage())
        assert flags == UsageFlag.NONE

    def test_of_fields_that_nobody_knows_are_left_out(self) -> None:
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
            {"iterations": [{}] * 257},
            {"service_tier": "x" * 65},
        ],
    )
    def test_that_cannot_be_are_refused(self, usage: dict[str, Any]) -> None:
        with pytest.raises(msgspec.ValidationError):
            read(**usage)


class TestCacheWrites:
    def test_without_a_split_are_taken_for_five_minutes_and_flagged(self) -> None:
        (part,), flags = read(cache_creation_input_tokens=9)

        assert (part.tokens.cache_write_5m, part.tokens.cache_write_1h) == (9, 0)
        assert flags == UsageFlag.CACHE_TTL_ASSUMED

    def test_beyond_the_split_are_taken_for_five_minutes_and_flagged(self) -> None:
        (part,), flags = read(
            cache_creation_input_tokens=100,
            cache_creation={"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 30},
        )

        assert (part.tokens.cache_write_5m, part.tokens.cache_write_1h) == (70, 30)
        assert flags == UsageFlag.CACHE_TTL_ASSUMED

    def test_below_the_split_are_the_splits(self) -> None:
        (part,), flags = read(
            cache_creation_input_tokens=None, cache_creation={"ephemeral_1h_input_tokens": 30}
        )

        assert (part.tokens.cache_write_5m, part.tokens.cache_write_1h) == (0, 30)
        assert flags == UsageFlag.NONE


class TestIterations:
    def test_of_compaction_are_parts_of_their_own(self) -> None:
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
        )
        assert flags == UsageFlag.COMPACTION_ADDED | UsageFlag.CACHE_TTL_ASSUMED
        assert total_of(parts) == TokenUsage(uncached_input=1010, output=55, cache_write_5m=3)

    def test_of_another_model_are_flagged_and_not_added(self) -> None:
        parts, flags = read(
            output_tokens=5,
            iterations=[{"type": "advisor_message", "model": "claude-opus-5-5", "output_tokens": 70}],
        )

        assert total_of(parts) == TokenUsage(output=5)
        assert flags == UsageFlag.MIXED_MODELS

    def test_of_the_same_model_say_nothing_new(self) -> None:
        parts, flags = read(
            output_tokens=5,
            iterations=[{"type": "message", "model": MODEL, "output_tokens": 5}, {"type": "new kind"}],
        )

        assert (len(parts), flags) == (1, UsageFlag.NONE)


class TestConditions:
    def test_of_the_price_are_kept_as_the_provider_named_them(self) -> None:
        (part,), _ = read(service_tier="priority", speed="fast", inference_geo="mars")

        assert (part.service_tier, part.speed, part.inference_geo) == ("priority", "fast", "mars")
