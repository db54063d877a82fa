"""Results of reports are made without validation: they must be what validation makes."""

from datetime import UTC, datetime

import pytest

from app.api.money import Money
from app.usage.filters import Dimension, DimensionValue
from app.usage_events.records import Outcome, TokenUsage, UsageSource
from app.usage_mode.modes import UsageMode
from app.usage_reports.reports import ReportRow
from app.usage_reports.schemas import UsageReportResult

AT = datetime(2026, 1, 2, tzinfo=UTC)
VALUES: dict[Dimension, DimensionValue] = {
    **{dimension: f"a {dimension}" for dimension in Dimension},
    Dimension.USAGE_MODE: UsageMode.BYO,
    Dimension.OUTCOME: Outcome.FAILED,
    Dimension.USAGE_SOURCE: UsageSource.ESTIMATED,
    Dimension.KEY_VERSION: 7,
}


@pytest.mark.parametrize("is_other", [False, True])
@pytest.mark.parametrize("dimensions", [{}, dict.fromkeys(VALUES), VALUES])
def test_results_are_what_validation_makes(
    dimensions: dict[Dimension, DimensionValue | None], is_other: bool
) -> None:
    row = ReportRow(
        starting_at=AT,
        ending_at=AT,
        dimensions={key: value for key, value in dimensions.items() if key is not Dimension.CREDENTIAL_ID},
        digest=b"",
        requests=2,
        tokens=TokenUsage(
            uncached_input=3,
            cache_write_5m=4,
            cache_write_1h=5,
            cache_read=6,
            output=7,
            web_search_requests=8,
        ),
        cost=10**12,
        billed=-1,
        unpriced_requests=9,
        is_other=is_other,
    )

    made = UsageReportResult.of(row)

    validated = UsageReportResult.model_validate(made.model_dump())
    assert made == validated
    assert made.to_json() == validated.to_json() == validated.model_dump_json().encode()


@pytest.mark.parametrize("pico", [0, 1, -(10**12), 10**30])
def test_amounts_are_what_validation_makes(pico: int) -> None:
    made = Money.of(pico)

    validated = Money.model_validate(made.model_dump())
    assert made == validated
    assert made.to_json() == validated.to_json() == validated.model_dump_json().encode()
