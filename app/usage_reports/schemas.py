"""Wire models of the usage report. Field names are Anthropic's, if Anthropic has one."""

from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from app.api.money import Money
from app.api.schemas import ResponseModel, Timestamp, unvalidated
from app.core.event_loop import TimeSlice
from app.usage.filters import Dimension
from app.usage_events.records import Outcome, UsageSource
from app.usage_mode.modes import UsageMode
from app.usage_reports.reports import Report, ReportRow

_NULL = "Null if the usage has no value, or if the report is not grouped by it."
Tokens = Annotated[int, Field(examples=[1200])]


class CacheCreation(ResponseModel):
    """Tokens written to the cache, by time to live."""

    ephemeral_5m_input_tokens: Tokens
    ephemeral_1h_input_tokens: Tokens


class UsageReportResult(ResponseModel):
    """The totals of one group in one bucket."""

    usage_mode: Annotated[UsageMode | None, Field(description=_NULL, examples=[UsageMode.BYO.value])]
    model: Annotated[str | None, Field(description=_NULL, examples=["claude-sonnet-4-5"])]
    endpoint_id: Annotated[str | None, Field(description=_NULL)]
    feature: Annotated[str | None, Field(description=_NULL)]
    session_id: Annotated[str | None, Field(description=_NULL)]
    prompt_id: Annotated[str | None, Field(description=_NULL)]
    credential_id: Annotated[UUID | None, Field(description=_NULL)]
    key_version: Annotated[int | None, Field(description=_NULL)]
    outcome: Annotated[Outcome | None, Field(description=_NULL)]
    usage_source: Annotated[UsageSource | None, Field(description=_NULL)]
    service_tier: Annotated[str | None, Field(description=_NULL)]
    speed: Annotated[str | None, Field(description=_NULL)]
    inference_geo: Annotated[str | None, Field(description=_NULL)]
    flag: Annotated[str | None, Field(description=_NULL)]
    other: Annotated[
        bool,
        Field(
            description="With `top`: whether this is the total of all other groups of the bucket.",
            examples=[False],
        ),
    ]
    requests: Annotated[int, Field(examples=[17])]
    uncached_input_tokens: Tokens
    cache_creation: CacheCreation
    cache_read_input_tokens: Tokens
    output_tokens: Tokens
    web_search_requests: Annotated[int, Field(examples=[0])]
    estimated_cost: Annotated[
        Money,
        Field(
            description="At list prices or the organization's own prices, without requests that have no known price."
        ),
    ]
    billed_cost: Annotated[
        Money,
        Field(
            description="The billed amount: the estimated cost of managed usage, 0 for usage with the organization's own key."
        ),
    ]
    unpriced_requests: Annotated[
        int,
        Field(
            description="Requests without a known price. `estimated_cost` does not include them.",
            examples=[0],
        ),
    ]

    @classmethod
    def of(cls, row: ReportRow) -> "UsageReportResult":
        tokens = row.tokens
        dimensions: dict[str, Any] = {it.value: row.dimensions.get(it) for it in Dimension}
        return _result(
            **dimensions,
            other=row.is_other,
            requests=row.requests,
            uncached_input_tokens=tokens.uncached_input,
            cache_creation=_cache_creation(
                ephemeral_5m_input_tokens=tokens.cache_write_5m,
                ephemeral_1h_input_tokens=tokens.cache_write_1h,
            ),
            cache_read_input_tokens=tokens.cache_read,
            output_tokens=tokens.output,
            web_search_requests=tokens.web_search_requests,
            estimated_cost=Money.of(row.cost),
            billed_cost=Money.of(row.billed),
            unpriced_requests=row.unpriced_requests,
        )


_cache_creation, _result = unvalidated(CacheCreation), unvalidated(UsageReportResult)


class UsageReportBucket(ResponseModel):
    """A time range (end exclusive) and its groups. A bucket may continue on the next page."""

    starting_at: Timestamp
    ending_at: Timestamp
    results: list[UsageReportResult]


class UsageReport(ResponseModel):
    """One page of a report. Pass `next_page` as `page` to get the next one."""

    data: Annotated[
        list[UsageReportBucket],
        Field(
            description="The buckets in order. Those without usage are included only with `include_empty`."
        ),
    ]
    has_more: bool
    next_page: Annotated[str | None, Field(description="Opaque. Null on the last page.")]
    data_as_of: Annotated[
        Timestamp, Field(description="The report includes all events that were accepted before this time.")
    ]


async def report_json(report: Report, at_most: int, next_page: str | None) -> bytes:
    """Serialize a `UsageReport` row by row: up to 10,000 rows take long enough to let other requests run meanwhile."""
    time_slice = TimeSlice(gives_way=True)
    buckets: list[bytes] = []
    for (starting_at, ending_at), rows in report.by_bucket(at_most):
        results: list[bytes] = []
        for row in rows:
            results.append(UsageReportResult.of(row).to_json())
            await time_slice.pause_if_used()
        bucket = UsageReportBucket.model_construct(starting_at=starting_at, ending_at=ending_at, results=[])
        before, after = bucket.split_json("results")
        buckets.append(before + b",".join(results) + after)
        await time_slice.pause_if_used()
    page = UsageReport.model_construct(
        data=[], has_more=next_page is not None, next_page=next_page, data_as_of=report.as_of
    )
    before, after = page.split_json("data")
    return before + b",".join(buckets) + after
