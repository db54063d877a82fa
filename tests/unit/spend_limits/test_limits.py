"""Spend limits: periods, scopes, thresholds, estimates."""

import time
from datetime import UTC, datetime, timedelta, timezone
from itertools import product
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pricing.price_list import load_price_list
from app.pricing.prices import OrganizationPrices
from app.spend_limits.counters import increments_for
from app.spend_limits.limits import (
    BEGINNING,
    Enforcement,
    ExpectedUsage,
    LimitMode,
    LimitPeriod,
    LimitScope,
    LimitState,
    LimitTerms,
    Spend,
    Spender,
    SpendLimit,
    counts_from,
    crossed_thresholds,
    estimate,
)
from app.usage_events.records import LedgerRow, ModelUsage, TokenUsage
from app.usage_mode.modes import UsageMode
from tests.support.database.spending_ledger import make_row
from tests.support.request_cost import without_collection

NOON = datetime(2026, 3, 15, 12, tzinfo=UTC)


def terms(
    amount: int = 1000,
    *thresholds: int,
    period: LimitPeriod = LimitPeriod.MONTH,
    scope: LimitScope | None = None,
) -> LimitTerms:
    return LimitTerms(
        name="Budget",
        amount=amount,
        period=period,
        scope=scope or LimitScope(mode=LimitMode.ANY),
        enforcement=Enforcement.BLOCK,
        thresholds=thresholds or (50, 80, 100),
    )


def spender_of(row: LedgerRow) -> Spender:
    return Spender(mode=row.mode, model=row.model, endpoint_id=row.endpoint_id, feature=row.feature)


def limit(limit_terms: LimitTerms, *, since: datetime = BEGINNING) -> SpendLimit:
    return SpendLimit(
        id=uuid4(),
        terms=limit_terms,
        counts_from=since,
        revision=1,
        created_at=NOON,
        created_by="admin",
        updated_at=NOON,
    )


def state(spend: Spend, *, amount: int = 1000, period: LimitPeriod = LimitPeriod.DAY) -> LimitState:
    return LimitState(
        limit=limit(terms(amount, period=period)),
        period_starts_at=period.start_of(NOON),
        spend=spend,
        crossings=(),
        read_at=NOON,
    )


class TestLimitPeriod:
    @pytest.mark.parametrize(
        ("period", "starts_at", "ends_at"),
        [
            (LimitPeriod.DAY, datetime(2026, 12, 31, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
            (LimitPeriod.MONTH, datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
            (LimitPeriod.TOTAL, BEGINNING, None),
        ],
    )
    def test_starts_and_ends_in_utc(
        self, period: LimitPeriod, starts_at: datetime, ends_at: datetime | None
    ) -> None:
        """At UTC+14 the new year has begun; in UTC it has not."""
        instant = datetime(2027, 1, 1, 13, 59, 59, tzinfo=timezone(timedelta(hours=14)))

        assert period.start_of(instant) == starts_at
        assert period.end_of(starts_at) == ends_at

    @pytest.mark.parametrize("month", range(1, 13))
    def test_ends_a_month_where_the_next_one_starts(self, month: int) -> None:
        start = datetime(2028, month, 1, tzinfo=UTC)
        end = LimitPeriod.MONTH.end_of(start)

        assert end is not None
        assert LimitPeriod.MONTH.start_of(end) == end
        assert LimitPeriod.MONTH.start_of(end - timedelta(microseconds=1)) == start

    def test_counts_from_the_period_of_the_oldest_accepted_event(self) -> None:
        assert counts_from(LimitPeriod.DAY, NOON) == datetime(2026, 2, 8, tzinfo=UTC)
        assert counts_from(LimitPeriod.MONTH, NOON) == datetime(2026, 2, 1, tzinfo=UTC)
        assert counts_from(LimitPeriod.TOTAL, NOON) == BEGINNING


class TestCrossedThresholds:
    @pytest.mark.parametrize(
        ("before", "after", "expected"),
        [
            (0, 499, []),
            (0, 500, [50]),
            (499, 500, [50]),
            (500, 501, []),
            (500, 799, []),
            (0, 1000, [50, 80, 100]),
            (999, 5000, [100]),
            (1000, 999, []),
            (800, 700, []),
        ],
    )
    def test_are_those_reached_from_below(self, before: int, after: int, expected: list[int]) -> None:
        assert crossed_thresholds(terms(), before=before, after=after) == expected

    def test_round_fractional_amounts_up(self) -> None:
        assert crossed_thresholds(terms(3, 50), before=0, after=1) == []
        assert crossed_thresholds(terms(3, 50), before=1, after=2) == [50]

    def test_are_empty_for_an_amount_of_0(self) -> None:
        assert crossed_thresholds(terms(0), before=0, after=10) == []


class TestLimitState:
    def test_remaining_excludes_spent_and_reserved(self) -> None:
        found = state(Spend(managed=300, byo=100, reserved=200))

        assert (found.remaining, found.overrun, found.percent_used) == (400, 0, 60.0)

    def test_overrun_ignores_reservations(self) -> None:
        found = state(Spend(managed=900, reserved=200))

        assert (found.remaining, found.overrun) == (0, 0)
        assert state(Spend(managed=1200, reserved=200)).overrun == 200

    def test_percent_used_rounds_down(self) -> None:
        assert state(Spend(managed=10**12 - 1), amount=10**12).percent_used == 99.99

    def test_projects_the_spend_at_the_end_of_the_period(self) -> None:
        assert state(Spend(managed=300)).projected == 600
        assert state(Spend(managed=300), period=LimitPeriod.TOTAL).projected is None

    def test_projects_at_the_start_of_a_period(self) -> None:
        found = LimitState(
            limit=limit(terms()),
            period_starts_at=NOON,
            spend=Spend(managed=1),
            crossings=(),
            read_at=NOON,
        )

        assert found.projected is not None


class TestLimitScope:
    @pytest.mark.parametrize(
        ("scope", "expected"),
        [
            (LimitScope(), True),
            (LimitScope(mode=LimitMode.ANY), True),
            (LimitScope(mode=LimitMode.BYO), False),
            (LimitScope(model="m"), True),
            (LimitScope(model="m-20260101"), True),
            (LimitScope(model="m-latest"), True),
            (LimitScope(model="other"), False),
            (LimitScope(model="m-5"), False),
            (LimitScope(feature="f"), True),
            (LimitScope(endpoint_id="e"), False),
        ],
    )
    def test_covers_matching_spend_only(self, scope: LimitScope, expected: bool) -> None:
        spender = Spender(mode=UsageMode.MANAGED, model="m", feature="f")

        assert scope.covers(spender) is expected


class TestIncrements:
    def test_are_one_for_each_counter_in_lock_order(self) -> None:
        limits = [limit(terms(period=period)) for period in (LimitPeriod.DAY, LimitPeriod.TOTAL)]
        days = [NOON, NOON - timedelta(days=1), NOON]

        increments = increments_for(limits, [make_row(1, started_at=day) for day in days], [])

        counters = [(increment.limit_id, increment.period_starts_at) for increment in increments]
        assert counters == sorted(counters)
        assert len(set(counters)) == 3
        assert sorted(increment.spend.managed for increment in increments) == [1, 2, 3]

    def test_leave_out_spend_before_counts_from(self) -> None:
        new_limit = limit(terms(period=LimitPeriod.DAY), since=LimitPeriod.DAY.start_of(NOON))

        assert increments_for([new_limit], [make_row(1, started_at=NOON - timedelta(days=1))], []) == []

    def test_take_time_for_each_row_and_not_for_each_row_and_limit(self) -> None:
        scopes = [
            LimitScope(model=model, endpoint_id=f"e{number}") for model in ("m", None) for number in range(50)
        ]
        limits = [limit(terms(scope=scope)) for scope in scopes]
        rows = [make_row(1, model=f"m{n}", endpoint_id=f"e{n}", feature=f"f{n}") for n in range(5000)]

        with without_collection():
            started = time.thread_time()
            increments_for(limits, rows, [])
            seconds = time.thread_time() - started

        assert seconds < 0.2

    @given(data=st.data())
    def test_are_those_of_each_limit_that_covers_the_spender(self, data: st.DataObject) -> None:
        maybe = st.sampled_from([None, "m", "m-latest", "n"])
        scopes = st.builds(
            LimitScope, mode=st.sampled_from(LimitMode), model=maybe, endpoint_id=maybe, feature=maybe
        )
        days = st.sampled_from([NOON, NOON - timedelta(days=1), NOON - timedelta(days=40)])
        limits = [
            limit(terms(period=LimitPeriod.TOTAL, scope=scope), since=LimitPeriod.DAY.start_of(since))
            for scope, since in data.draw(st.lists(st.tuples(scopes, days), max_size=5))
        ]
        texts = st.fixed_dictionaries({"endpoint_id": maybe, "feature": maybe, "started_at": days})
        models = st.sampled_from(["m", "m-latest", "n"])
        modes = st.sampled_from(UsageMode)
        rows = [
            make_row(1, model=model, mode=mode, **fields)
            for model, mode, fields in data.draw(st.lists(st.tuples(models, modes, texts), max_size=8))
        ]

        found = {one.limit_id: one.spend.settled for one in increments_for(limits, rows, [])}

        for one in limits:
            covered = [row for row in rows if one.counts(spender_of(row), row.started_at)]
            assert found.get(one.id, 0) == len(covered)


def expected_usage(**conditions: Any) -> ExpectedUsage:
    return ExpectedUsage(model="m", input_tokens=100, max_output_tokens=7, **conditions)


class TestEstimate:
    def test_assumes_the_most_expensive_token_class(self) -> None:
        def price(usage: ModelUsage) -> int:
            tokens = usage.tokens
            return tokens.uncached_input + 2 * tokens.cache_write_5m + tokens.cache_read + 10 * tokens.output

        assert estimate(price, expected_usage()) == 270

    def test_is_none_if_a_price_is_not_known(self) -> None:
        def price(usage: ModelUsage) -> int | None:
            return None if usage.tokens.cache_write_1h else 1

        assert estimate(price, expected_usage()) is None

    def test_is_not_below_the_standard_price(self) -> None:
        """The provider may serve a request for fast mode at the standard speed, and count it there."""

        def price(usage: ModelUsage) -> int:
            return {("fast", "us"): 3, ("fast", None): 9, (None, "us"): 5, (None, None): 4}[
                usage.speed, usage.inference_geo
            ]

        assert estimate(price, expected_usage(speed="fast", inference_geo="us")) == 9
        assert estimate(price, expected_usage(inference_geo="us")) == 5
        assert estimate(price, expected_usage()) == 4

    @pytest.mark.parametrize(
        "model", ["claude-opus-5-5", "claude-haiku-5-5", "claude-sonnet-4-5", "claude-opus-4-8"]
    )
    @pytest.mark.parametrize("tier", [None, "standard", "priority", "batch"])
    @pytest.mark.parametrize("speed", [None, "fast"])
    @pytest.mark.parametrize("geography", [None, "us", "global"])
    def test_bounds_every_way_to_use_the_tokens(
        self, model: str, tier: str | None, speed: str | None, geography: str | None
    ) -> None:
        prices = OrganizationPrices(load_price_list())

        def price(usage: ModelUsage) -> int | None:
            return prices.price([usage], at=NOON).cost

        most = estimate(
            price,
            ExpectedUsage(
                model=model,
                input_tokens=120_000,
                max_output_tokens=5000,
                max_web_searches=3,
                service_tier=tier,
                speed=speed,
                inference_geo=geography,
            ),
        )

        assert most is not None
        for five_minutes, one_hour, read, output, actual_speed, actual_geography in product(
            (0, 40_000), (0, 40_000), (0, 40_000), (0, 5000), {speed, "standard"}, {geography, "global"}
        ):
            tokens = TokenUsage(
                uncached_input=120_000 - five_minutes - one_hour - read,
                cache_write_5m=five_minutes,
                cache_write_1h=one_hour,
                cache_read=read,
                output=output,
                web_search_requests=3,
            )
            cost = price(
                ModelUsage(
                    model=model,
                    tokens=tokens,
                    service_tier=tier,
                    speed=actual_speed,
                    inference_geo=actual_geography,
                )
            )
            assert cost is not None
            assert cost <= most
