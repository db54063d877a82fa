"""Usage reports on the wire. Names are Anthropic's where there are any."""

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from app.api.money import Money
from app.api.schemas import Instant, ResponseModel
from app.usage.records import Outcome
from app.usage_mode.modes import UsageMode
from app.usage_reports.reports import Dimension, Report, ReportRow

_NULL = "Null where there is none, or where it is not grouped by."
Tokens = Annotated[int, Field(examples=[1200])]


class CacheCreation(ResponseModel):
    """Tokens written to the cache, by how long they live there."""

    ephemeral_5m_input_tokens: Tokens
    ephemeral_1h_input_tokens: Tokens


class UsageReportResult(ResponseModel):
    """Sums of one group in one bucket."""

    usage_mode: Annotated[UsageMode | None, Field(description=_NULL, examples=[UsageMode.BYO.value])]
    model: Annotated[str | None, Field(description=_NULL, examples=["claude-sonnet-4-5"])]
    endpoint_id: Annotated[str | None, Field(description=_NULL)]
    feature: Annotated[str | None, Field(description=_NULL)]
    session_id: Annotated[str | None, Field(description=_NULL)]
    prompt_id: Annotated[str | None, Field(description=_NULL)]
    credential_id: Annotated[UUID | None, Field(description=_NULL)]
    key_version: Annotated[int | None, Field(description=_NULL)]
    outcome: Annotated[Outcome | None, Field(description=_NULL)]
    requests: Annotated[int, Field(examples=[17])]
    uncached_input_tokens: Tokens
    cache_creation: CacheCreation
    cache_read_input_tokens: Tokens
    output_tokens: Tokens
    web_search_requests: Annotated[int, Field(examples=[0])]
    estimated_cost: Annotated[
        Money, Field(description="At list or agreed prices, without requests that have no known price.")
    ]
    billed_cost: Annotated[
        Money,
        Field(description="What we bill: the estimate of managed use, 0 for the organization's own key."),
    ]
    unpriced_requests: Annotated[
        int, Field(description="Requests without a known price; not in `estimated_cost`.", examples=[0])
    ]

    @classmethod
    def of(cls, row: ReportRow) -> "UsageReportResult":
        tokens = row.tokens
        dimensions: dict[str, Any] = {it.value: row.dimensions.get(it) for it in Dimension}
        return cls.model_construct(
            **dimensions,
            requests=row.requests,
            uncached_input_tokens=tokens.uncached_input,
            cache_creation=CacheCreation.model_construct(
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


class UsageReportBucket(ResponseModel):
    """A stretch of time, the end exclusive, and its groups. It may go on on the next page."""

    starting_at: Instant
    ending_at: Instant
    results: list[UsageReportResult]


class UsageReport(ResponseModel):
    """One page of a report. Pass `next_page` back as `page` to get the next."""

    data: Annotated[list[UsageReportBucket], Field(description="In order; empty buckets are left out.")]
    has_more: bool
    next_page: Annotated[str | None, Field(description="Opaque. Null on the last page.")]
    data_as_of: Annotated[Instant, Field(description="Whatever was accepted before is in the report.")]

    @classmethod
    def of(cls, report: Report, rows: Sequence[ReportRow], next_page: str | None) -> "UsageReport":
        return cls.model_construct(
            data=[
                UsageReportBucket.model_construct(
                    starting_at=starting_at,
                    ending_at=ending_at,
                    results=[UsageReportResult.of(row) for row in group],
                )
                for (starting_at, ending_at), group in groupby(rows, _bucket)
            ],
            has_more=next_page is not None,
            next_page=next_page,
            data_as_of=report.as_of,
        )


def _bucket(row: ReportRow) -> tuple[datetime, datetime]:
    return row.starting_at, row.ending_at
