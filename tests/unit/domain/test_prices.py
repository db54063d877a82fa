"""Rates, bands, dates, conditions and overrides: the arithmetic of a price."""

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.money import LARGEST_AMOUNT_PICO
from app.pricing.prices import OrganizationPrices, OverrideList, PriceList, PriceOverride, without_snapshot
from app.pricing.rates import Band, DatedPrice, Rates
from app.usage.records import ModelUsage, TokenUsage, UsageFlag

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
        "newborn": [DatedPrice.of(CHANGE, flat(), has_geography=True)],
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


def part(model: str = "flat", tokens: TokenUsage = ONE_OF_EACH, **conditions: str | None) -> ModelUsage:
    return ModelUsage(model=model, tokens=tokens, **conditions)


class TestCost:
    @pytest.mark.parametrize("name", TOKEN_CLASSES)
    def test_counts_each_class_at_its_own_rate(self, name: str) -> None:
        rate_name = name.removesuffix("_requests")

        priced = PRICES.price([part("other", TokenUsage(**{name: 1000}))], at=NOW)

        assert priced.cost == 1000 * getattr(flat(7)[0].rates, rate_name)
        assert priced.price_version == "list-1"
        assert priced.flags == UsageFlag.NONE

    def test_of_nothing_is_zero_and_known(self) -> None:
        assert PRICES.price([part(tokens=TokenUsage())], at=NOW).cost == 0

    def test_of_an_unknown_model_is_unknown_not_zero(self) -> None:
        priced = PRICES.price([part("nobody-knows", TokenUsage())], at=NOW)

        assert (priced.cost, priced.price_version) == (None, None)

    @pytest.mark.parametrize(
        ("tokens", "is_known"),
        [
            (TokenUsage(uncached_input=5, output=5, cache_read=5, cache_write_5m=5), True),
            (TokenUsage(uncached_input=5, cache_write_1h=1), False),
            (TokenUsage(uncached_input=5, web_search_requests=1), False),
        ],
    )
    def test_is_unknown_where_a_used_class_has_no_price(self, tokens: TokenUsage, is_known: bool) -> None:
        assert (PRICES.price([part("partial", tokens)], at=NOW).cost is not None) is is_known

    def test_that_no_row_can_hold_is_unknown(self) -> None:
        most = LARGEST_AMOUNT_PICO // (7 * 10_000_000)

        assert PRICES.price([part("other", TokenUsage(output=most))], at=NOW).cost is not None
        assert PRICES.price([part("other", TokenUsage(output=most + 1))], at=NOW).cost is None
        halves = [
            part("other", TokenUsage(output=most // 2 + 1)),
            part("other", TokenUsage(output=most // 2 + 1)),
        ]
        assert PRICES.price(halves, at=NOW).cost is None


class TestModel:
    @pytest.mark.parametrize("model", ["flat", "flat-20261001"])
    def test_is_found_by_its_id_and_by_a_dated_snapshot(self, model: str) -> None:
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
    def test_is_not_guessed(self, model: str) -> None:
        assert PRICES.price([part(model)], at=NOW).cost is None

    def test_with_digits_of_another_script_is_no_snapshot(self) -> None:
        assert without_snapshot("flat-" + "\u0661" * 8) == "flat-" + "\u0661" * 8


class TestDate:
    def test_changes_the_price_at_its_instant_inclusive(self) -> None:
        before = PRICES.price([part()], at=CHANGE - MICROSECOND)
        after = PRICES.price([part()], at=CHANGE)

        assert before.cost == TOKEN_COST + SEARCH_COST
        assert after.cost == 3 * TOKEN_COST + SEARCH_COST

    def test_before_the_first_price_is_unknown(self) -> None:
        assert PRICES.price([part("newborn")], at=CHANGE - MICROSECOND).cost is None
        assert PRICES.price([part("newborn")], at=CHANGE).cost is not None


class TestBand:
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
    def test_ends_with_its_last_token_whatever_the_class(self, prompt: dict[str, int]) -> None:
        tokens = TokenUsage(**prompt, output=10)
        longer = replace(tokens, cache_read=tokens.cache_read + 1)

        assert PRICES.price([part("banded", tokens)], at=NOW).cost == rates().cost(tokens)
        assert PRICES.price([part("banded", longer)], at=NOW).cost == rates(5).cost(longer)

    def test_is_not_decided_by_output(self) -> None:
        tokens = TokenUsage(uncached_input=1, output=1_000_000)

        assert PRICES.price([part("banded", tokens)], at=NOW).cost == rates().cost(tokens)

    def test_is_each_part_s_own(self) -> None:
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
    def test_decide_the_price_and_say_what_was_assumed(
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
    def test_that_a_model_does_not_have_cost_nothing_more_and_are_flagged(
        self, conditions: dict[str, Any], flags: UsageFlag
    ) -> None:
        priced = PRICES.price([part("other", **conditions)], at=NOW)

        assert priced.cost == 7 * TOKEN_COST + SEARCH_COST
        assert priced.flags == flags

    def test_finer_than_a_pico_usd_are_refused_when_the_list_is_made(self) -> None:
        odd = (Band(longer_than=-1, rates=rates(uncached_input=5)),)

        with pytest.raises(ValueError, match="finer"):
            DatedPrice.of(NOW, odd, has_geography=False)


class TestParts:
    def test_of_the_same_model_are_compaction(self) -> None:
        priced = PRICES.price([part(), part()], at=NOW)

        assert priced.cost == 2 * (3 * TOKEN_COST + SEARCH_COST)
        assert priced.price_version == "list-1"
        assert priced.flags == UsageFlag.COMPACTION_ADDED

    def test_of_other_models_are_priced_by_their_own(self) -> None:
        priced = PRICES.price([part(), part("other")], at=NOW)

        assert priced.cost == 10 * TOKEN_COST + 2 * SEARCH_COST
        assert priced.flags == UsageFlag.MIXED_MODELS

    def test_keep_the_flags_of_each(self) -> None:
        priced = PRICES.price([part(), part(service_tier="priority"), part("other", speed="fast")], at=NOW)

        assert priced.flags == (
            UsageFlag.COMPACTION_ADDED
            | UsageFlag.MIXED_MODELS
            | UsageFlag.TIER_ASSUMED
            | UsageFlag.SPEED_ASSUMED
        )

    def test_with_one_unknown_are_unknown_together(self) -> None:
        priced = PRICES.price([part(), part("nobody-knows")], at=NOW)

        assert (priced.cost, priced.price_version) == (None, None)
        assert priced.flags == UsageFlag.MIXED_MODELS


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


class TestOverride:
    def test_comes_before_the_list_from_its_instant_on(self) -> None:
        prices = OrganizationPrices(LIST, [override_list(1, NOW, flat=2)])

        assert factor_of(prices, "flat", NOW - MICROSECOND) == (3, "list-1")
        assert factor_of(prices, "flat", NOW) == (2, "override-1")
        assert factor_of(prices, "flat-20261001", NOW) == (2, "override-1")
        assert factor_of(prices, "other", NOW) == (7, "list-1")

    def test_ends_with_the_next_list_even_an_empty_one(self) -> None:
        later = NOW + timedelta(days=1)
        prices = OrganizationPrices(LIST, [override_list(1, NOW, flat=2), override_list(2, later)])

        assert factor_of(prices, "flat", later - MICROSECOND) == (2, "override-1")
        assert factor_of(prices, "flat", later) == (3, "list-1")

    def test_set_later_takes_the_place_of_one_scheduled_before(self) -> None:
        later = NOW + timedelta(days=1)
        prices = OrganizationPrices(LIST, [override_list(1, later, flat=2), override_list(2, NOW, flat=5)])

        assert factor_of(prices, "flat", NOW) == (5, "override-2")
        assert factor_of(prices, "flat", later) == (5, "override-2")

    def test_of_an_id_comes_before_the_longest_beginning(self) -> None:
        prices = OrganizationPrices(LIST, [override_list(1, NOW, _all=2, fl_all=4, flat_all=5, flat=6)])

        assert factor_of(prices, "flat")[0] == 6
        assert factor_of(prices, "flat-20261001")[0] == 6
        assert factor_of(prices, "flat-x")[0] == 5
        assert factor_of(prices, "flux")[0] == 4
        assert factor_of(prices, "other")[0] == 2

    def test_is_taken_as_it_is_and_flagged_where_conditions_are_not_standard(self) -> None:
        prices = OrganizationPrices(LIST, [override_list(1, NOW, flat=2)])

        priced = prices.price([part(service_tier="batch", speed="fast", inference_geo="us")], at=NOW)

        assert priced.cost == 2 * TOKEN_COST + SEARCH_COST
        assert priced.flags == TIER | SPEED | GEOGRAPHY

    def test_and_list_together_name_both(self) -> None:
        prices = OrganizationPrices(LIST, [override_list(1, NOW, flat=2)])

        assert prices.price([part(), part("other")], at=NOW).price_version == "override-1 list-1"


class TestCompatibleEndpoint:
    def test_has_no_list_price(self) -> None:
        priced = PRICES.price([part()], at=NOW, is_compatible_endpoint=True)

        assert (priced.cost, priced.price_version) == (None, None)

    def test_has_the_price_that_the_organization_set(self) -> None:
        prices = OrganizationPrices(LIST, [override_list(1, NOW, deepseek_all=2)])

        priced = prices.price([part("deepseek-chat")], at=NOW, is_compatible_endpoint=True)

        assert (priced.cost, priced.price_version) == (2 * TOKEN_COST + SEARCH_COST, "override-1")


counts = st.builds(TokenUsage, **{name: st.integers(0, 10**7) for name in TOKEN_CLASSES})
models = st.sampled_from(sorted(LIST.models.keys() - {"partial", "newborn"}))
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
    def test_costs_as_much_in_two_parts_as_their_sum(
        self, model: str, one: TokenUsage, two: TokenUsage, given: dict[str, str | None]
    ) -> None:
        parts = [part(model, tokens, **given) for tokens in (one, two)]

        assert PRICES.price(parts, at=NOW).cost == cost_of(model, one, given) + cost_of(model, two, given)

    @given(st.sampled_from(["flat", "other"]), counts, counts, conditions)
    def test_without_bands_is_additive(
        self, model: str, one: TokenUsage, two: TokenUsage, given: dict[str, str | None]
    ) -> None:
        both = TokenUsage(**{name: getattr(one, name) + getattr(two, name) for name in TOKEN_CLASSES})

        assert cost_of(model, both, given) == cost_of(model, one, given) + cost_of(model, two, given)

    @given(models, counts, st.sampled_from(TOKEN_CLASSES), st.integers(1, 10**6), conditions)
    def test_costs_more_with_more_tokens(
        self, model: str, tokens: TokenUsage, name: str, more: int, given: dict[str, str | None]
    ) -> None:
        longer = replace(tokens, **{name: getattr(tokens, name) + more})

        assert cost_of(model, longer, given) > cost_of(model, tokens, given)
