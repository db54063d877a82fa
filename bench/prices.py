"""Measures the time to price a request, compared with the package that the price list is compiled from.

python -m bench.prices
"""

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import genai_prices

from app.pricing.price_list import load_price_list
from app.pricing.prices import OrganizationPrices, OverrideList, PriceOverride
from app.pricing.rates import Rates
from app.usage_events.records import ModelUsage, TokenUsage
from bench.measures import Measure, progress

# If it were less than 10 times as fast as the package, compiling the list would not be worth the code.
MIN_TIMES_FASTER: Final = 10.0
# This run only compares a few costs. Unit tests compare them thoroughly.
ROUNDS: Final = 9
REPEATS: Final = 400
AT: Final = datetime(2026, 11, 25, 12, tzinfo=UTC)

# Short and long prompts, a snapshot's id, a batch, fast mode.
REQUESTS: Final = (
    ModelUsage(
        model="claude-haiku-5-5", tokens=TokenUsage(uncached_input=900, cache_read=120_000, output=400)
    ),
    ModelUsage(model="claude-haiku-4-5-20251001", tokens=TokenUsage(uncached_input=2_000, output=700)),
    ModelUsage(model="claude-opus-5-5", tokens=TokenUsage(cache_write_5m=40_000, output=900), speed="fast"),
    ModelUsage(
        model="claude-sonnet-5-5",
        tokens=TokenUsage(uncached_input=10_000, cache_write_1h=5_000, output=2_000, web_search_requests=2),
        service_tier="batch",
    ),
)

Price = Callable[[ModelUsage], object]


def run() -> list[Measure]:
    """Raises AssertionError if the two costs differ: then the times are meaningless."""
    started_at = time.perf_counter()
    listed = load_price_list()
    loading = (time.perf_counter() - started_at) * 1000
    progress(f"list compiled in {loading:.0f} ms")
    own = Rates(uncached_input=1, cache_write_5m=1, cache_write_1h=1, cache_read=1, output=1, web_search=1)
    overrides = OverrideList(
        number=1,
        effective_from=AT,
        set_at=AT,
        set_by="bench",
        overrides=[PriceOverride(model="claude-opus-*", rates=own)],
    )
    compiled, overridden = OrganizationPrices(listed), OrganizationPrices(listed, [overrides])
    contestants: dict[str, Price] = {
        "compiled": lambda request: compiled.price((request,), at=AT),
        "with overrides": lambda request: overridden.price((request,), at=AT),
        "genai-prices": _by_the_package,
    }
    for request in REQUESTS:
        cost = compiled.price((request,), at=AT).cost
        assert cost == _by_the_package(request).total_price * 10**12, request.model
    best = {name: float("inf") for name in contestants}
    # Alternate and take the best of several rounds, so that other load affects all of them equally.
    for _ in range(ROUNDS):
        for name, price in contestants.items():
            best[name] = min(
                best[name], _microseconds(price, REPEATS if name != "genai-prices" else REPEATS // 20)
            )
    for name, microseconds in best.items():
        progress(f"{name:16}{microseconds:8.2f} us per request")
    return [
        Measure(name="price of a request", value=best["compiled"], unit="us"),
        Measure(name="price of a request, with overrides", value=best["with overrides"], unit="us"),
        Measure(
            name="faster than genai-prices",
            value=best["genai-prices"] / best["compiled"],
            unit="x",
            at_least=MIN_TIMES_FASTER,
            note=f"which takes {best['genai-prices']:.0f} us",
        ),
        Measure(name="compiling the price list", value=loading, unit="ms", note="once, at start"),
    ]


def _by_the_package(request: ModelUsage) -> Any:
    tokens = request.tokens
    usage = genai_prices.Usage(
        input_tokens=tokens.prompt,
        cache_write_tokens=tokens.cache_write_5m + tokens.cache_write_1h,
        cache_write_1h_tokens=tokens.cache_write_1h,
        cache_read_tokens=tokens.cache_read,
        output_tokens=tokens.output,
        web_searches=tokens.web_search_requests,
    )
    context = {"speed": request.speed or "standard"}
    if request.service_tier == "batch":
        context["processing"] = "batch"
    return genai_prices.calc_price(
        usage,
        request.model,
        provider_id="anthropic",
        genai_request_timestamp=AT,
        price_context=context,
    )


def _microseconds(price: Price, repeats: int) -> float:
    started_at = time.perf_counter()
    for _ in range(repeats):
        for request in REQUESTS:
            price(request)
    return (time.perf_counter() - started_at) / (repeats * len(REQUESTS)) * 1e6


if __name__ == "__main__":
    sys.exit(0 if all(measure.is_met for measure in run()) else 1)
