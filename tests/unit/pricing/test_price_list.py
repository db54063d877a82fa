"""The compiled price list: equal to the package, equal to an independent list, with corrections for known errors."""

import csv
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import genai_prices
import pytest
from genai_prices.data import providers
from genai_prices.types import ModelInfo, ModelPrice

from app.core.money import PICO_PER_USD
from app.pricing import price_list
from app.pricing.price_list import UnsupportedPriceList, load_price_list
from app.pricing.prices import OrganizationPrices
from app.usage_events.records import ModelUsage, TokenUsage, UsageFlag

LIST = load_price_list()
PRICES = OrganizationPrices(LIST)
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
ANTHROPIC = next(provider for provider in providers if provider.id == "anthropic")
# Transcribed from LiteLLM's table, the provider's pages and a changelog, never from the package.
INDEPENDENT_LIST = list(
    csv.DictReader(Path(__file__).with_name("anthropic_prices.csv").read_text(encoding="utf-8").splitlines())
)
MILLION = 1_000_000


def cost(model: str, tokens: TokenUsage, at: datetime = NOW, **conditions: Any) -> Decimal | None:
    priced = PRICES.price([ModelUsage(model=model, tokens=tokens, **conditions)], at=at)
    return None if priced.cost is None else Decimal(priced.cost) / PICO_PER_USD


class TestRandomUsage:
    """Cases in which the package is authoritative: no geography, no priority, batches only after it has their prices."""

    def test_costs_the_same_as_in_the_package(self) -> None:
        source = random.Random(20261125)
        compared = 0
        for _ in range(12_000):
            model = source.choice(ANTHROPIC.models)
            tokens, at, speed, tier = random_usage(source, model)
            usage = genai_prices.Usage(
                input_tokens=tokens.prompt,
                cache_write_tokens=tokens.cache_write_5m + tokens.cache_write_1h,
                cache_write_1h_tokens=tokens.cache_write_1h,
                cache_read_tokens=tokens.cache_read,
                output_tokens=tokens.output,
                web_searches=tokens.web_search_requests,
            )
            context = {"speed": speed, "processing": tier} if tier == "batch" else {"speed": speed}

            expected = genai_prices.calc_price(
                usage,
                model.id,
                provider_id="anthropic",
                genai_request_timestamp=at,
                price_context=context,
            )

            assert cost(model.id, tokens, at, speed=speed, service_tier=tier) == expected.total_price, (
                model.id
            )
            compared += 1
        assert compared >= 10_000


def random_usage(source: random.Random, model: ModelInfo) -> tuple[TokenUsage, datetime, str, str]:
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=source.randrange(365 * 86_400))
    if model.id == "claude-sonnet-5-5":
        at = max(at, datetime(2026, 10, 7, tzinfo=UTC))
    if model.id == "claude-sonnet-4-5":
        at = min(at, datetime(2026, 4, 29, tzinfo=UTC))
    priced = vars(model.prices if isinstance(model.prices, ModelPrice) else model.prices[0].prices)
    has_batch = bool(model.price_variants) and at >= datetime(2026, 10, 14, tzinfo=UTC)
    tokens = TokenUsage(
        uncached_input=count(source),
        cache_write_5m=count(source) if "cache_write_mtok" in priced else 0,
        cache_write_1h=count(source) if "cache_write_1h_mtok" in priced else 0,
        cache_read=count(source) if "cache_read_mtok" in priced else 0,
        output=count(source),
        web_search_requests=source.randrange(5) if "web_searches_kcount" in priced else 0,
    )
    tier = source.choice(("standard", "batch")) if has_batch else "standard"
    return tokens, at, source.choice(("standard", "fast")), tier


def count(source: random.Random) -> int:
    """Return zero, a small count, a count near a band limit, or a large count, equally often."""
    edge = source.choice((100_000, 200_000)) + source.randint(-1, 1)
    return source.choice((0, source.randrange(2_000), edge, source.randrange(1_000_000)))


class TestIndependentList:
    @pytest.mark.parametrize(
        "row", INDEPENDENT_LIST, ids=lambda row: f"{row['model']}-{row['conditions']}{row['longer_than']}"
    )
    def test_agrees_on_every_price(self, row: dict[str, str]) -> None:
        longer_than = int(row["longer_than"] or -1)
        terms = LIST.terms(ModelUsage(model=row["model"], tokens=TokenUsage(), speed=row["conditions"]), NOW)
        assert terms is not None
        assert terms.flags == UsageFlag.NONE
        rates = next(band.rates for band in terms.bands if band.longer_than <= longer_than)

        for column, rate in {
            "input": rates.uncached_input,
            "cache_write_5m": rates.cache_write_5m,
            "cache_write_1h": rates.cache_write_1h,
            "cache_read": rates.cache_read,
            "output": rates.output,
        }.items():
            if row[column]:
                assert rate == int(Decimal(row[column]) * MILLION), column

    def test_has_all_current_models(self) -> None:
        current_models = {row["model"] for row in INDEPENDENT_LIST}

        assert len(current_models) >= 20
        assert all(LIST.terms(ModelUsage(model=model, tokens=TokenUsage()), NOW) for model in current_models)


class TestPublishedPrices:
    """Costs calculated by hand from the provider's published prices."""

    @pytest.mark.parametrize(
        ("model", "tokens", "conditions", "usd"),
        [
            ("claude-opus-5-5", TokenUsage(uncached_input=MILLION), {}, "4"),
            ("claude-opus-5-5", TokenUsage(uncached_input=MILLION), {"inference_geo": "us"}, "4.4"),
            ("claude-opus-5-5", TokenUsage(output=MILLION), {"speed": "fast", "inference_geo": "us"}, "44"),
            ("claude-opus-5-5", TokenUsage(cache_read=MILLION), {"service_tier": "batch"}, "0.1"),
            (
                "claude-haiku-5-5",
                TokenUsage(cache_read=1),
                {"service_tier": "batch", "inference_geo": "us"},
                "0.0000000055",
            ),
            ("claude-haiku-5-5", TokenUsage(uncached_input=100_000, output=1000), {}, "0.0105"),
            ("claude-haiku-5-5", TokenUsage(uncached_input=100_001, output=1000), {}, "0.0525005"),
            ("claude-haiku-5-5", TokenUsage(web_search_requests=3), {"service_tier": "batch"}, "0.03"),
            ("claude-sonnet-4-6", TokenUsage(web_search_requests=3), {"inference_geo": "us"}, "0.03"),
            ("claude-sonnet-4-20250514", TokenUsage(uncached_input=MILLION), {}, "3"),
            ("claude-3-5-haiku-20241022", TokenUsage(uncached_input=MILLION), {}, "0.8"),
        ],
    )
    def test_are_exact(self, model: str, tokens: TokenUsage, conditions: dict[str, Any], usd: str) -> None:
        assert cost(model, tokens, **conditions) == Decimal(usd)

    @pytest.mark.parametrize(
        ("at", "usd"),
        [
            (datetime(2026, 10, 6, 23, 59, 59, 999_999, tzinfo=UTC), "0.2"),
            (datetime(2026, 10, 7, tzinfo=UTC), "0.1"),
        ],
    )
    def test_a_cache_read_of_sonnet_5_5_halved_on_its_day(self, at: datetime, usd: str) -> None:
        assert cost("claude-sonnet-5-5", TokenUsage(cache_read=MILLION), at) == Decimal(usd)
        assert (
            cost("claude-sonnet-5-5", TokenUsage(cache_read=MILLION), at, service_tier="batch")
            == Decimal(usd) / 2
        )

    @pytest.mark.parametrize(
        ("at", "usd"),
        [
            (datetime(2026, 4, 29, 23, 59, 59, 999_999, tzinfo=UTC), "1.5225"),
            (datetime(2026, 4, 30, tzinfo=UTC), "0.765"),
            (datetime(2026, 11, 20, tzinfo=UTC), "0.765"),
        ],
    )
    def test_long_prompts_of_sonnet_4_5_cost_more_until_their_beta_ended(
        self, at: datetime, usd: str
    ) -> None:
        tokens = TokenUsage(uncached_input=250_000, output=1000)

        assert cost("claude-sonnet-4-5-20250929", tokens, at) == Decimal(usd)
        assert cost("claude-sonnet-4-5", tokens, at, service_tier="batch") == Decimal(usd) / 2

    @pytest.mark.parametrize(
        "at", [datetime(2026, 10, 13, 23, 59, tzinfo=UTC), datetime(2026, 10, 14, tzinfo=UTC)]
    )
    def test_batches_cost_half_even_before_the_package_has_the_price(self, at: datetime) -> None:
        assert cost("claude-opus-5", TokenUsage(output=MILLION), at, service_tier="batch") == Decimal("12.5")

    @pytest.mark.parametrize(
        ("model", "flags"),
        [
            ("claude-opus-4-6", UsageFlag.NONE),
            ("claude-sonnet-4-6", UsageFlag.NONE),
            ("claude-haiku-5-5", UsageFlag.NONE),
            ("claude-mythos-5", UsageFlag.NONE),
            ("claude-opus-4-5", UsageFlag.GEOGRAPHY_ASSUMED),
            ("claude-sonnet-4-5-20250929", UsageFlag.GEOGRAPHY_ASSUMED),
            ("claude-haiku-4-5", UsageFlag.GEOGRAPHY_ASSUMED),
            ("claude-3-5-sonnet", UsageFlag.GEOGRAPHY_ASSUMED),
        ],
    )
    def test_the_united_states_price_applies_from_the_4_6_models_on(
        self, model: str, flags: UsageFlag
    ) -> None:
        tokens = TokenUsage(uncached_input=100_000)

        priced = PRICES.price([ModelUsage(model=model, tokens=tokens, inference_geo="us")], at=NOW)

        base, found = cost(model, tokens), cost(model, tokens, inference_geo="us")
        assert base is not None
        assert found == (base if flags else base * Decimal("1.1"))
        assert priced.flags == flags

    @pytest.mark.parametrize(
        "model", ["claude-opus-4-6", "claude-opus-4-7", "claude-sonnet-5-5", "claude-haiku-5-5"]
    )
    def test_fast_mode_without_a_published_price_is_flagged(self, model: str) -> None:
        priced = PRICES.price([ModelUsage(model=model, tokens=TokenUsage(output=1), speed="fast")], at=NOW)

        assert priced.flags == UsageFlag.SPEED_ASSUMED

    @pytest.mark.parametrize(
        "model",
        [
            "claude-mythos-preview",
            "claude-opus-6",
            "claude-opus-5.5",
            "claude-haiku-4-5@20251001",
            "anthropic.claude-opus-5-v1:0",
            "gpt-5",
            "deepseek-chat",
            "",
        ],
    )
    def test_are_not_guessed_for_other_names(self, model: str) -> None:
        assert cost(model, TokenUsage(uncached_input=1)) is None


class TestVersion:
    def test_contains_the_package_version_and_our_revision(self) -> None:
        assert LIST.version == f"genai-prices-{genai_prices.__version__}+2"

    def test_is_pinned(self) -> None:
        # A new version may change prices: review the differences in cost, then pin it.
        assert genai_prices.__version__ == "0.2.3"


class TestPackageUpgrade:
    @pytest.mark.parametrize(
        "prices",
        [
            {"input_mtok": Decimal(1), "output_mtok": Decimal(1), "input_audio_mtok": Decimal(1)},
            {"input_mtok": Decimal("0.0000001"), "output_mtok": Decimal(1)},
        ],
    )
    def test_rejects_prices_that_cannot_be_converted_exactly(self, prices: dict[str, Decimal]) -> None:
        model = ModelInfo(id="claude-new", match=ANTHROPIC.models[0].match, prices=ModelPrice(**prices))

        with pytest.raises(UnsupportedPriceList):
            list(price_list._dated_prices(model))
