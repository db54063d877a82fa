"""Spend limits: periods, scopes, thresholds, estimates."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import uuid4

import pytest

from app.spend_limits.counters import increments_for
from app.spend_limits.limits import (
    BEGINNING,
    Enforcement,
    LimitMode,
    LimitPeriod,
    LimitScope,
    LimitState,
    LimitTerms,
    Spend,
    Spender,
    SpendLimit,
    counts_from,
    crossed,
    estimate,
)
from app.usage.records import ModelUsage
from app.usage_mode.modes import UsageMode
from tests.spend_ledger import make_row

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


def limit(of: LimitTerms, since: datetime = BEGINNING) -> SpendLimit:
    return SpendLimit(
        id=uuid4(),
        terms=of,
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


class TestPeriod:
    @pytest.mark.parametrize(
        ("period", "starts_at", "ends_at"),
        [
            (LimitPeriod.DAY, datetime(2026, 12, 31, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
            (LimitPeriod.MONTH, datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
            (LimitPeriod.TOTAL, BEGINNING, None),
        ],
    )
    def test_begins_and_ends_in_utc(
        self, period: LimitPeriod, starts_at: datetime, ends_at: datetime | None
    ) -> None:
        """New year has come where the clock stands at +14, and not in UTC."""
        instant = datetime(2027, 1, 1, 13, 59, 59, tzinfo=timezone(timedelta(hours=14)))

        assert period.start_of(instant) == starts_at
        assert period.end_of(starts_at) == ends_at

    @pytest.mark.parametrize("month", range(1, 13))
    def test_of_a_month_ends_where_the_next_begins(self, month: int) -> None:
        start = datetime(2028, month, 1, tzinfo=UTC)
        end = LimitPeriod.MONTH.end_of(start)

        assert end is not None
        assert LimitPeriod.MONTH.start_of(end) == end
        assert LimitPeriod.MONTH.start_of(end - timedelta(microseconds=1)) == start

    def test_that_began_before_events_may_reach_is_not_counted(self) -> None:
        assert counts_from(LimitPeriod.DAY, NOON) == datetime(2026, 2, 8, tzinfo=UTC)
        assert counts_from(LimitPeriod.MONTH, NOON) == datetime(2026, 2, 1, tzinfo=UTC)
        assert counts_from(LimitPeriod.TOTAL, NOON) == BEGINNING


class TestThreshold:
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
    def test_is_crossed_from_below(self, before: int, after: int, expected: list[int]) -> None:
        assert crossed(terms(), before=before, after=after) == expected

    def test_that_is_no_whole_amount_is_crossed_by_the_first_that_is_not_below(self) -> None:
        assert crossed(terms(3, 50), before=0, after=1) == []
        assert crossed(terms(3, 50), before=1, after=2) == [50]

    def test_of_nothing_is_never_crossed(self) -> None:
        assert crossed(terms(0), before=0, after=10) == []


class TestState:
    def test_remains_what_is_neither_spent_nor_reserved(self) -> None:
        found = state(Spend(managed=300, byo=100, reserved=200))

        assert (found.remaining, found.overrun, found.percent_used) == (400, 0, 60.0)

    def test_is_overrun_by_what_is_spent_alone(self) -> None:
        found = state(Spend(managed=900, reserved=200))

        assert (found.remaining, found.overrun) == (0, 0)
        assert state(Spend(managed=1200, reserved=200)).overrun == 200

    def test_is_full_only_when_it_is(self) -> None:
        assert state(Spend(managed=10**12 - 1), amount=10**12).percent_used == 99.99

    def test_projects_what_is_spent_to_the_end(self) -> None:
        assert state(Spend(managed=300)).projected == 600
        assert state(Spend(managed=300), period=LimitPeriod.TOTAL).projected is None

    def test_at_the_first_moment_projects_all_the_same(self) -> None:
        found = LimitState(
            limit=limit(terms()),
            period_starts_at=NOON,
            spend=Spend(managed=1),
            crossings=(),
            read_at=NOON,
        )

        assert found.projected is not None


class TestScope:
    @pytest.mark.parametrize(
        ("scope", "expected"),
        [
            (LimitScope(), True),
            (LimitScope(mode=LimitMode.ANY), True),
            (LimitScope(mode=LimitMode.BYO), False),
            (LimitScope(model="m"), True),
            (LimitScope(model="other"), False),
            (LimitScope(feature="f"), True),
            (LimitScope(endpoint_id="e"), False),
        ],
    )
    def test_covers_what_it_names(self, scope: LimitScope, expected: bool) -> None:
        spender = Spender(mode=UsageMode.MANAGED, model="m", feature="f")

        assert scope.covers(spender) is expected


class TestGains:
    def test_are_one_for_each_counter_in_the_order_of_locking(self) -> None:
        limits = [limit(terms(period=period)) for period in (LimitPeriod.DAY, LimitPeriod.TOTAL)]
        days = [NOON, NOON - timedelta(days=1), NOON]

        gains = increments_for(limits, [make_row(1, started_at=day) for day in days], [])

        counters = [(gain.limit_id, gain.period_starts_at) for gain in gains]
        assert counters == sorted(counters)
        assert len(set(counters)) == 3
        assert sorted(gain.spend.managed for gain in gains) == [1, 2, 3]

    def test_leave_out_periods_that_began_before_the_limit_knows_all(self) -> None:
        late = limit(terms(period=LimitPeriod.DAY), since=LimitPeriod.DAY.start_of(NOON))

        assert increments_for([late], [make_row(1, started_at=NOON - timedelta(days=1))], []) == []


class TestEstimate:
    def test_is_the_dearest_of_all_classes(self) -> None:
        def price(usage: ModelUsage) -> int:
            tokens = usage.tokens
            return tokens.uncached_input + 2 * tokens.cache_write_5m + tokens.cache_read + 10 * tokens.output

        assert estimate(price, model="m", input_tokens=100, max_output_tokens=7) == 270

    def test_without_one_of_the_prices_is_none(self) -> None:
        def price(usage: ModelUsage) -> int | None:
            return None if usage.tokens.cache_write_1h else 1

        assert estimate(price, model="m", input_tokens=100, max_output_tokens=7) is None
