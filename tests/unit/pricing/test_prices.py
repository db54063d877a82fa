"""Price calculation: rates, bands, dates, conditions and overrides."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields, replace

from app.core.model_identity import without_snapshot_date
from app.core.money import LARGEST_AMOUNT_PICO
from app.pricing.prices import (
    OrganizationPrices,
    OverrideList,
    PriceList,
    PriceOverride,
    matches_pattern,
)
from app.pricing.rates import Band, DatedPrice, Rates
from app.usage_events.records import ModelUsage, TokenUsage, UsageFlag

CHANGE = datetime(2026, 10, 7, tzinfo=UTC)
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
TOKEN_CLASSES = tuple(field.name for field in fields(TokenUsage))
MICROSECOND = timedelta(microseconds=1)


def rates(factor: int = 1, **given: int | None) -> Rates:
    standard: dict[str, int | None] = {
        "uncached_input": 2_000_000 * factor,
        "cache_write_5m": 2_500_000 * factor,
        "cache_write_1h": 4_000_000 * factor,
        "cache_read": 200_000 * factor,
        "output": 10_000_000 * factor,
        "web_search": 10_000_000_000,
    }
    return Rates(**{**standard, **given})


def flat(factor: int = 1) -> tuple[Band, ...]:
    return (Band(longer_than=-1, rates=rates(factor)),)


BANDED = (Band(longer_than=100_000, rates=rates(5)), *flat())
LIST = PriceList(
    "list-1",
    {
        "flat": [
            DatedPrice.of(CHANGE, flat(3), fast=flat(6), has_geography=True),
            DatedPrice.of(datetime.min.replace(tzinfo=UTC), flat(1), has_geography=True),
        ],
        "other": [DatedPrice.of(datetime.min.replace(tzinfo=UTC), flat(7), has_geography=False)],
        "banded": [DatedPrice.of(datetime.min.replace(tzinfo=UTC), BANDED, has_geography=True)],
        "recent": [DatedPrice.of(CHANGE, flat(), has_geography=True)],
        "partial": [
            DatedPrice.of(
                datetime.min.replace(tzinfo=UTC),
                (Band(longer_than=-1, rates=rates(cache_write_1h=None, web_search=None)),),
                has_geography=False,
            )
        ],
    },
)
PRICES = OrganizationPrices(LIST)
ONE_OF_EACH = TokenUsage(**dict.fromkeys(TOKEN_CLASSES, 1))
TOKEN_COST = 18_700_000  # of one token of each class at rates(1)
SEARCH_COST = 10_000_000_000


def part(model: str = "flat", tokens: TokenUsage = ONE_OF_EACH, **conditions: Any) -> ModelUsage:
    return ModelUsage(model=model, tokens=tokens, **conditions)


class TestCost:
    @pytest.mark.parametrize("name", TOKEN_CLASSES)
    def test_prices_each_class_at_its_own_rate(self, name: str) -> None:
        rate_name = name.removesuffix("_requests")

        priced = PRICES.price([part("other", TokenUsage(**{name: 1000}))], at=NOW)

        assert priced.cost == 1000 * getattr(flat(7)[0].rates, rate_name)
        assert priced.price_version == "list-1"
        assert priced.flags == UsageFlag.NONE

    def test_is_zero_without_tokens(self) -> None:
        assert PRICES.price([part(tokens=TokenUsage())], at=NOW).cost == 0

    def test_is_none_for_an_unknown_model(self) -> None:
        priced = PRICES.price([part("unknown", TokenUsage())], at=NOW)

        assert (priced.cost, priced.price_version) == (None, None)

    @pytest.mark.parametrize(
        ("tokens", "is_known"),
        [
            (TokenUsage(uncached_input=5, output=5, cache_read=5, cache_write_5m=5), True),
            (TokenUsage(uncached_input=5, cache_write_1h=1), False),
            (TokenUsage(uncached_input=5, web_search_requests=1), False),
        ],
    )
    def test_is_none_if_a_used_class_has_no_price(self, tokens: TokenUsage, is_known: bool) -> None:
        assert (PRICES.price([part("partial", tokens)], at=NOW).cost is not None) is is_known

    def test_is_none_if_it_does_not_fit_a_row(self) -> None:
        maximum = LARGEST_AMOUNT_PICO // (7 * 10_000_000)

        assert PRICES.price([part("other", TokenUsage(output=maximum))], at=NOW).cost is not None
        assert PRICES.price([part("other", TokenUsage(output=maximum + 1))], at=NOW).cost is None
        halves = [
            part("other", TokenUsage(output=maximum // 2 + 1)),
            part("other", TokenUsage(output=maximum // 2 + 1)),
        ]
        assert PRICES.price(halves, at=NOW).cost is None


class TestModelLookup:
    @pytest.mark.parametrize("model", ["flat", "flat-20261001"])
    def test_finds_a_model_by_id_and_by_dated_snapshot(self, model: str) -> None:
        assert PRICES.price([part(model)], at=NOW).cost == 3 * TOKEN_COST + SEARCH_COST

    @pytest.mark.parametrize(
        "model",
        [
            "flat-2026100",
            "flat-202610011",
            "flat-2026100a",
            "flat-latest",
            "FLAT",
            "flat-",
            "xflat",
            "flat-20261001-v1:0",
        ],
    )
    def test_does_not_guess(self, model: str) -> None:
        assert PRICES.price([part(model)], at=NOW).cost is None

    @pytest.mark.parametrize("model", ["dated-20261001-20261002", "dated-latest-20261001"])
    def test_snapshot_has_no_snapshots(self, model: str) -> None:
        price = DatedPrice.of(datetime.min.replace(tzinfo=UTC), flat(), has_geography=True)
        listed = PriceList("list", {"dated-20261001": [price], "dated-latest": [price]})

        assert listed.terms(part("dated-20261001"), NOW) is not None
        assert listed.terms(part(model), NOW) is None

    def test_digits_of_another_script_are_not_a_snapshot_date(self) -> None:
        assert without_snapshot_date("flat-" + "\u0661" * 8) == "flat-" + "\u0661" * 8


class TestPriceDates:
    def test_a_price_changes_at_its_start_inclusive(self) -> None:
        before = PRICES.price([part()], at=CHANGE - MICROSECOND)
        after = PRICES.price([part()], at=CHANGE)

        assert before.cost == TOKEN_COST + SEARCH_COST
        assert after.cost == 3 * TOKEN_COST + SEARCH_COST

    def test_a_model_has_no_price_before_its_first_one(self) -> None:
        assert PRICES.price([part("recent")], at=CHANGE - MICROSECOND).cost is None
        assert PRICES.price([part("recent")], at=CHANGE).cost is not None


class TestPromptBands:
    @pytest.mark.parametrize(
        "prompt",
        [
            {"uncached_input": 100_000},
            {"cache_read": 100_000},
            {
                "uncached_input": 25_000,
                "cache_write_5m": 25_000,
                "cache_write_1h": 25_000,
                "cache_read": 25_000,
            },
        ],
    )
    def test_count_prompt_tokens_of_all_classes(self, prompt: dict[str, int]) -> None:
        tokens = TokenUsage(**prompt, output=10)
        longer = replace(tokens, cache_read=tokens.cache_read + 1)

        assert PRICES.price([part("banded", tokens)], at=NOW).cost == rates().cost(tokens)
        assert PRICES.price([part("banded", longer)], at=NOW).cost == rates(5).cost(longer)

    def test_do_not_count_output_tokens(self) -> None:
        tokens = TokenUsage(uncached_input=1, output=1_000_000)

        assert PRICES.price([part("banded", tokens)], at=NOW).cost == rates().cost(tokens)

    def test_apply_to_each_part_separately(self) -> None:
        tokens = TokenUsage(uncached_input=60_000)
        one = PRICES.price([part("banded", tokens)], at=NOW).cost
        assert one is not None

        assert PRICES.price([part("banded", tokens), part("banded", tokens)], at=NOW).cost == 2 * one


NONE, TIER, SPEED, GEOGRAPHY = (
    UsageFlag.NONE,
    UsageFlag.TIER_ASSUMED,
    UsageFlag.SPEED_ASSUMED,
    UsageFlag.GEOGRAPHY_ASSUMED,
)


class TestConditions:
    @pytest.mark.parametrize(
        ("conditions", "tenths", "flags"),
        [
            ((None, None, None), 30, NONE),
            (("standard", "standard", "global"), 30, NONE),
            ((None, None, "not_available"), 30, NONE),
            ((None, None, "us"), 33, NONE),
            (("batch", None, None), 15, NONE),
            (("standard", "fast", None), 60, NONE),
            (("standard", "fast", "us"), 66, NONE),
            (("priority", None, None), 30, TIER),
            (("priority", "fast", "us"), 66, TIER),
            (("batch", "fast", None), 15, SPEED),
            (("flex", None, None), 30, TIER),
            ((None, "ludicrous", None), 30, SPEED),
            ((None, None, "eu"), 30, GEOGRAPHY),
            (("flex", "ludicrous", "eu"), 30, TIER | SPEED | GEOGRAPHY),
            (("batch", "ludicrous", "eu"), 15, SPEED | GEOGRAPHY),
            (("priority", "ludicrous", "us"), 33, TIER | SPEED),
        ],
    )
    def test_determine_the_price_and_the_flags(
        self, conditions: tuple[str | None, str | None, str | None], tenths: int, flags: UsageFlag
    ) -> None:
        tier, speed, geography = conditions

        priced = PRICES.price([part(service_tier=tier, speed=speed, inference_geo=geography)], at=NOW)

        assert priced.cost == TOKEN_COST * tenths // 10 + SEARCH_COST
        assert priced.flags == flags

    @pytest.mark.parametrize(
        ("conditions", "flags"),
        [({"speed": "fast"}, SPEED), ({"inference_geo": "us"}, GEOGRAPHY)],
    )
    def test_that_a_model_lacks_do_not_change_the_price_and_are_flagged(
        self, conditions: dict[str, Any], flags: UsageFlag
    ) -> None:
        priced = PRICES.price([part("other", **conditions)], at=NOW)

        assert priced.cost == 7 * TOKEN_COST + SEARCH_COST
        assert priced.flags == flags

    def test_prices_below_a_pico_usd_are_rejected(self) -> None:
        odd = (Band(longer_than=-1, rates=rates(uncached_input=5)),)

        with pytest.raises(ValueError, match="whole number"):
            DatedPrice.of(NOW, odd, has_geography=False)


class TestRequestParts:
    def test_have_their_own_price_and_add_up(self) -> None:
        parts = [part(), part(), part("other")]

        priced = PRICES.price(parts, at=NOW)

        assert priced.cost == (3 + 3 + 7) * TOKEN_COST + 3 * SEARCH_COST
        assert priced.price_version == "list-1"
        assert priced.flags == UsageFlag.NONE
        costs = [one.cost for one in PRICES.price_each(parts, at=NOW)]
        assert costs == [factor * TOKEN_COST + SEARCH_COST for factor in (3, 3, 7)]

    def test_combine_their_flags(self) -> None:
        priced = PRICES.price([part(), part(service_tier="priority"), part("other", speed="fast")], at=NOW)

        assert priced.flags == UsageFlag.TIER_ASSUMED | UsageFlag.SPEED_ASSUMED

    def test_have_no_cost_if_one_has_no_price(self) -> None:
        priced = PRICES.price([part(), part("unknown")], at=NOW)

        assert (priced.cost, priced.price_version) == (None, None)

    def test_that_are_free_need_no_price_except_for_searches(self) -> None:
        prompt = TokenUsage(uncached_input=5)

        assert PRICES.price([part("unknown", prompt, is_free=True)], at=NOW).cost == 0
        assert PRICES.price([part("flat", is_free=True)], at=NOW).cost == SEARCH_COST
        assert PRICES.price([part("unknown", is_free=True)], at=NOW).cost is None


class TestBandsOfCalls:
    TWO_SHORT = (TokenUsage(uncached_input=60_000), TokenUsage(uncached_input=60_000, output=9))
    ONE_LONG = (TokenUsage(uncached_input=1), TokenUsage(uncached_input=119_999, output=9))
    TOTAL = TokenUsage(uncached_input=120_000, output=9)

    @pytest.mark.parametrize(
        ("calls", "cost"),
        [
            (TWO_SHORT, 120_000 * 2_000_000 + 9 * 10_000_000),
            (ONE_LONG, 2_000_000 + 5 * (119_999 * 2_000_000 + 9 * 10_000_000)),
        ],
    )
    def test_are_judged_by_each_prompt(self, calls: tuple[TokenUsage, ...], cost: int) -> None:
        priced = PRICES.price([part("banded", self.TOTAL, calls=calls)], at=NOW)

        assert (priced.cost, priced.flags) == (cost, UsageFlag.NONE)

    def test_are_judged_by_the_total_and_flagged_if_the_calls_are_unknown(self) -> None:
        priced = PRICES.price([part("banded", self.TOTAL)], at=NOW)

        assert priced.cost == 5 * (120_000 * 2_000_000 + 9 * 10_000_000)
        assert priced.flags == UsageFlag.BAND_ASSUMED

    @pytest.mark.parametrize("model", ["banded", "flat"])
    def test_are_certain_if_no_prompt_can_be_in_another_band(self, model: str) -> None:
        uncached = 100_000 if model == "banded" else 500_000

        priced = PRICES.price([part(model, TokenUsage(uncached_input=uncached))], at=NOW)

        assert priced.flags == UsageFlag.NONE

    def test_have_no_cost_if_a_call_uses_a_class_without_a_price(self) -> None:
        bands = (BANDED[0], Band(longer_than=-1, rates=rates(output=None)))
        always = datetime.min.replace(tzinfo=UTC)
        prices = OrganizationPrices(
            PriceList("1", {"m": [DatedPrice.of(always, bands, has_geography=False)]})
        )

        assert prices.price([part("m", self.TOTAL, calls=self.TWO_SHORT)], at=NOW).cost is None
        assert prices.price([part("m", self.TOTAL, calls=(self.TOTAL,))], at=NOW).cost is not None


def override_list(number: int, at: datetime, **models: int) -> OverrideList:
    return OverrideList(
        number=number,
        effective_from=at,
        set_at=at,
        set_by="ada",
        overrides=[
            PriceOverride(model=model.replace("_all", "*"), rates=rates(factor))
            for model, factor in models.items()
        ],
    )


def factor_of(prices: OrganizationPrices, model: str, at: datetime = NOW) -> tuple[int | None, str | None]:
    priced = prices.price([part(model)], at=at)
    return None if priced.cost is None else (priced.cost - SEARCH_COST) // TOKEN_COST, priced.price_version


class TestPriceOverrides:
    def test_replace_list_prices_from_their_start(self) -> None:
        prices = OrganizationPrices(LIST, [override_list(1, NOW, flat=2)])

        assert factor_of(prices, "flat", NOW - MICROSECOND) == (3, "list-1")
        assert factor_of(prices, "flat", NOW) == (2, "override-1")
        assert factor_of(prices, "flat-20261001", NOW) == (2, "override-1")
        assert factor_of(prices, "other", NOW) == (7, "list-1")

    def test_end_with_the_next_list_even_an_empty_one(self) -> None:
        later = NOW + timedelta(days=1)
        prices = OrganizationPrices(LIST, [override_list(1, NOW, flat=2), override_list(2, later)])

        assert factor_of(prices, "flat", later - MICROSECOND) == (2, "override-1")
        assert factor_of(prices, "flat", later) == (3, "list-1")

    def test_set_later_replace_a_scheduled_list(self) -> None:
        later = NOW + timedelta(days=1)
        prices = OrganizationPrices(LIST, [override_list(1, later, flat=2), override_list(2, NOW, flat=5)])

        assert factor_of(prices, "flat", NOW) == (5, "override-2")
        assert factor_of(prices, "flat", later) == (5, "override-2")

    @pytest.mark.parametrize(
        ("models", "factors"),
        [
            ({"flat": 2}, {"flat-latest": 2, "flat-20261001": 2, "flat-2026100": None}),
            ({"flat-20261001": 2}, {"flat": 2, "flat-latest": 2, "flat-20261001": 2, "flat-20260101": 2}),
            (
                {"flat": 2, "flat-20260101": 4, "flat-20261001": 5},
                {"flat": 2, "flat-20260101": 4, "flat-20261001": 5, "flat-latest": 2, "flat-20250101": 2},
            ),
            ({"flat-20261001": 5, "flat-20260101": 4}, {"flat": 5}),
            ({"flat-20261001": 5, "flat-latest": 4}, {"flat": 4}),
        ],
    )
    def test_apply_to_other_spellings_of_the_model(
        self, models: dict[str, int], factors: dict[str, int | None]
    ) -> None:
        """The exact id wins, then the bare id, then `-latest`, then the newest snapshot."""
        prices = OrganizationPrices(PriceList("list-1", {}), [override_list(1, NOW, **models)])

        assert {model: factor_of(prices, model)[0] for model in factors} == factors

    @pytest.mark.parametrize(
        ("pattern", "matching", "others"),
        [
            ("*", ["", "anything"], []),
            ("claude-*", ["claude-", "claude-opus-5"], ["claude", "xclaude-opus-5", "Claude-opus-5"]),
            ("*/claude-opus-5", ["anthropic/claude-opus-5", "a/b/claude-opus-5"], ["claude-opus-5"]),
            (
                "us.*-v*:0",
                ["us.anthropic.claude-opus-5-v1:0", "us.-v:0"],
                ["us.-v:01", "eu.x-v1:0", "us.v:0"],
            ),
            ("a*a", ["aa", "aba"], ["a", "ab"]),
            ("*b*b*", ["bb", "abcb", "bab"], ["b", "aba"]),
            ("claude-opus-4-8[1m]*", ["claude-opus-4-8[1m]"], ["claude-opus-4-8", "claude-opus-4-81"]),
            ("a.c*", ["a.c"], ["abc"]),
        ],
    )
    def test_match_by_pattern(self, pattern: str, matching: list[str], others: list[str]) -> None:
        assert [model for model in matching if not matches_pattern(pattern, model)] == []
        assert [model for model in others if matches_pattern(pattern, model)] == []

    def test_match_other_spellings_by_pattern(self) -> None:
        prices = OrganizationPrices(PriceList("list-1", {}), [override_list(1, NOW, **{"*/flat": 2})])

        assert factor_of(prices, "vendor/flat-20261001")[0] == 2
        assert factor_of(prices, "vendor/flat-5")[0] is None

    def test_prefer_an_id_over_the_longest_prefix(self) -> None:
        prices = OrganizationPrices(LIST, [override_list(1, NOW, _all=2, fl_all=4, flat_all=5, flat=6)])

        assert factor_of(prices, "flat")[0] == 6
        assert factor_of(prices, "flat-20261001")[0] == 6
        assert factor_of(prices, "flat-x")[0] == 5
        assert factor_of(prices, "flux")[0] == 4
        assert factor_of(prices, "other")[0] == 2

    def test_ignore_conditions_and_set_flags(self) -> None:
        prices = OrganizationPrices(LIST, [override_list(1, NOW, flat=2)])

        priced = prices.price([part(service_tier="batch", speed="fast", inference_geo="us")], at=NOW)

        assert priced.cost == 2 * TOKEN_COST + SEARCH_COST
        assert priced.flags == TIER | SPEED | GEOGRAPHY

    def test_are_named_together_with_the_price_list(self) -> None:
        prices = OrganizationPrices(LIST, [override_list(1, NOW, flat=2)])

        assert prices.price([part(), part("other")], at=NOW).price_version == "override-1 list-1"


class TestCompatibleEndpoints:
    def test_have_no_list_price(self) -> None:
        priced = PRICES.price([part()], at=NOW, is_compatible_endpoint=True)

        assert (priced.cost, priced.price_version) == (None, None)

    def test_have_the_price_of_an_override(self) -> None:
        prices = OrganizationPrices(LIST, [override_list(1, NOW, deepseek_all=2)])

        priced = prices.price([part("deepseek-chat")], at=NOW, is_compatible_endpoint=True)

        assert (priced.cost, priced.price_version) == (2 * TOKEN_COST + SEARCH_COST, "override-1")


counts = st.builds(TokenUsage, **{name: st.integers(0, 10**7) for name in TOKEN_CLASSES})
models = st.sampled_from(sorted(LIST.models.keys() - {"partial", "recent"}))
conditions = st.fixed_dictionaries(
    {
        "service_tier": st.sampled_from([None, "standard", "priority", "batch", "flex"]),
        "speed": st.sampled_from([None, "standard", "fast", "x"]),
        "inference_geo": st.sampled_from([None, "global", "us", "not_available", "eu"]),
    }
)


def cost_of(model: str, tokens: TokenUsage, given: dict[str, str | None]) -> int:
    cost = PRICES.price([part(model, tokens, **given)], at=NOW).cost
    assert cost is not None
    return cost


class TestAnyUsage:
    @given(models, counts, counts, conditions)
    def test_parts_cost_the_sum_of_their_costs(
        self, model: str, one: TokenUsage, two: TokenUsage, given: dict[str, str | None]
    ) -> None:
        parts = [part(model, tokens, **given) for tokens in (one, two)]

        assert PRICES.price(parts, at=NOW).cost == cost_of(model, one, given) + cost_of(model, two, given)

    @given(st.sampled_from(["flat", "other"]), counts, counts, conditions)
    def test_cost_without_bands_is_additive(
        self, model: str, one: TokenUsage, two: TokenUsage, given: dict[str, str | None]
    ) -> None:
        both = TokenUsage(**{name: getattr(one, name) + getattr(two, name) for name in TOKEN_CLASSES})

        assert cost_of(model, both, given) == cost_of(model, one, given) + cost_of(model, two, given)

    @given(models, counts, st.sampled_from(TOKEN_CLASSES), st.integers(1, 10**6), conditions)
    def test_more_tokens_cost_more(
        self, model: str, tokens: TokenUsage, name: str, more: int, given: dict[str, str | None]
    ) -> None:
        longer = replace(tokens, **{name: getattr(tokens, name) + more})

        assert cost_of(model, longer, given) > cost_of(model, tokens, given)
