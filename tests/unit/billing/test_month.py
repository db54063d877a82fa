"""Billing months: UTC, ordered, without gaps."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from app.billing.month import BillingMonth


class TestBillingMonth:
    @pytest.mark.parametrize("text", ["2026-11", "2000-01", "2099-12"])
    def test_parses_its_own_text(self, text: str) -> None:
        assert str(BillingMonth.parse(text)) == text

    @pytest.mark.parametrize(
        "text", ["2026-13", "2026-00", "2026-1", "1999-12", "2100-01", "2026-11\n", " 2026-11", "٢٠٢٦-11"]
    )
    def test_rejects_other_texts(self, text: str) -> None:
        with pytest.raises(ValueError, match="not a month"):
            BillingMonth.parse(text)

    def test_includes_its_start_and_excludes_its_end(self) -> None:
        month = BillingMonth(2026, 12)

        assert BillingMonth.of(month.starts_at) == month
        assert BillingMonth.of(month.ends_at) == month.next == BillingMonth(2027, 1)
        assert BillingMonth.of(month.ends_at - timedelta(microseconds=1)) == month

    def test_uses_utc_for_times_in_other_zones(self) -> None:
        elsewhere = timezone(timedelta(hours=14))

        assert BillingMonth.of(datetime(2026, 12, 1, 13, 59, tzinfo=elsewhere)) == BillingMonth(2026, 11)
        assert BillingMonth.of(datetime(2026, 12, 1, 14, 0, tzinfo=elsewhere)) == BillingMonth(2026, 12)

    def test_has_a_next_and_a_previous_month_across_years(self) -> None:
        month = BillingMonth(2024, 1)
        for _ in range(30):
            assert month.next.previous == month
            assert month.next.number == month.number + 1
            assert BillingMonth.from_number(month.number) == month
            assert month.ends_at == month.next.starts_at
            assert month < month.next
            month = month.next
        assert month == BillingMonth(2026, 7)

    def test_starts_at_midnight_utc(self) -> None:
        assert BillingMonth(2026, 3).starts_at == datetime(2026, 3, 1, tzinfo=UTC)
