"""The ledger on the wire: what became of a batch, and its rows."""

from collections.abc import Iterator
from typing import Annotated
from uuid import UUID

from pydantic import Field

from app.api.money import Money
from app.api.schemas import Instant, ResponseModel
from app.core.money import to_usd
from app.usage.events import EventStatus, NotAccepted
from app.usage.records import LedgerRow, Outcome, UsageFlag, UsageSource
from app.usage_mode.modes import UsageMode

MOST_RESULTS = 10_000

_EVENT_ID = "0199a2b4-d1c2-7a3b-8c4d-5e6f70819203"
_CREDENTIAL_ID = "0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819"
_Count = Annotated[int, Field(ge=0, examples=[1200])]
_Name = Annotated[str | None, Field(examples=["support"])]


class EventResult(ResponseModel):
    """One event that was not accepted."""

    index: Annotated[
        int,
        Field(
            description="Where it stood: counted from 0, in `events` or by line (blank ones count).",
            examples=[3],
        ),
    ]
    event_id: Annotated[
        str | None,
        Field(description="Null where it is none, or looks like a key.", examples=[_EVENT_ID]),
    ]
    status: Annotated[EventStatus, Field(examples=["rejected"])]
    code: Annotated[str, Field(description="Stable: branch on this.", examples=["started_at_too_old"])]

    @classmethod
    def of(cls, found: NotAccepted) -> "EventResult":
        return cls.model_construct(
            index=found.index, event_id=found.event_id, status=found.status, code=found.code
        )


class EventResults(ResponseModel):
    """What became of the events. What was accepted is committed, and listed nowhere."""

    accepted: Annotated[int, Field(examples=[4998])]
    duplicates: Annotated[int, Field(description="Accepted before, with the same content.", examples=[1])]
    results: Annotated[
        list[EventResult], Field(description="Those that were not accepted; at most 10,000 of them.")
    ]
    results_truncated: Annotated[
        bool, Field(description="Whether more than those were not accepted.", examples=[False])
    ]


class RowCacheCreation(ResponseModel):
    """Cache writes by their time to live."""

    ephemeral_5m_input_tokens: _Count
    ephemeral_1h_input_tokens: _Count


class UsageRow(ResponseModel):
    """One row of the ledger, for good as it is. `correction` above 0: it only adds a cost that its event lacked."""

    event_id: Annotated[str, Field(examples=[_EVENT_ID])]
    correction: Annotated[int, Field(examples=[0])]
    started_at: Instant
    completed_at: Instant | None
    ingested_at: Instant
    usage_mode: Annotated[
        UsageMode, Field(description="In force when the request started.", examples=["byo"])
    ]
    credential_id: Annotated[UUID | None, Field(examples=[_CREDENTIAL_ID])]
    key_version: Annotated[
        int | None, Field(description="Null where it cannot be told any more.", examples=[1])
    ]
    model: Annotated[str, Field(examples=["claude-haiku-5-5"])]
    endpoint_id: _Name
    feature: _Name
    session_id: _Name
    prompt_id: _Name
    outcome: Annotated[Outcome, Field(examples=["succeeded"])]
    usage_source: Annotated[UsageSource, Field(examples=["reported"])]
    service_tier: Annotated[str | None, Field(examples=["standard"])]
    speed: Annotated[str | None, Field(examples=["standard"])]
    inference_geo: Annotated[str | None, Field(examples=["global"])]
    uncached_input_tokens: _Count
    cache_creation: RowCacheCreation
    cache_read_input_tokens: _Count
    output_tokens: _Count
    web_search_requests: _Count
    estimated_cost: Annotated[Money | None, Field(description="Null: no price is known.")]
    billed_cost: Annotated[Money, Field(description="0 of what an organization's own key paid for.")]
    price_version: Annotated[str | None, Field(examples=["2026-11-20"])]
    flags: Annotated[
        list[str], Field(description="What to know of mode or cost.", examples=[["cache_ttl_assumed"]])
    ]
    provider_request_id: Annotated[str | None, Field(examples=["req_011CSHoEeqs5C35K2UUqR7Fy"])]
    reservation_id: Annotated[UUID | None, Field(examples=["0199a2b4-c9f1-7c55-8e0d-2b6f4a1d9e37"])]

    @classmethod
    def of(cls, row: LedgerRow) -> "UsageRow":
        return cls.model_construct(
            event_id=row.event_id,
            correction=row.correction,
            started_at=row.started_at,
            completed_at=row.completed_at,
            ingested_at=row.ingested_at,
            usage_mode=row.mode,
            credential_id=row.credential_id,
            key_version=row.key_version,
            model=row.model,
            endpoint_id=row.endpoint_id,
            feature=row.feature,
            session_id=row.session_id,
            prompt_id=row.prompt_id,
            outcome=row.outcome,
            usage_source=row.usage_source,
            service_tier=row.service_tier,
            speed=row.speed,
            inference_geo=row.inference_geo,
            uncached_input_tokens=row.tokens.uncached_input,
            cache_creation=RowCacheCreation.model_construct(
                ephemeral_5m_input_tokens=row.tokens.cache_write_5m,
                ephemeral_1h_input_tokens=row.tokens.cache_write_1h,
            ),
            cache_read_input_tokens=row.tokens.cache_read,
            output_tokens=row.tokens.output,
            web_search_requests=row.tokens.web_search_requests,
            estimated_cost=None if row.cost is None else Money.of(row.cost),
            billed_cost=Money.of(row.billed),
            price_version=row.price_version,
            flags=flag_names(row.flags),
            provider_request_id=row.provider_request_id,
            reservation_id=row.reservation_id,
        )


def flag_names(flags: UsageFlag) -> list[str]:
    return [str(flag.name).lower() for flag in flags]


CSV_HEADER = (
    *("event_id", "correction", "started_at", "completed_at", "ingested_at", "usage_mode", "credential_id"),
    *("key_version", "model", "endpoint_id", "feature", "session_id", "prompt_id", "outcome"),
    *("usage_source", "service_tier", "speed", "inference_geo", "uncached_input_tokens"),
    *("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens", "cache_read_input_tokens"),
    *("output_tokens", "web_search_requests", "estimated_cost", "billed_cost", "currency"),
    *("price_version", "flags", "provider_request_id", "reservation_id"),
)


def csv_cells(row: LedgerRow) -> Iterator[str | int | None]:
    """One row's cells, in the header's order. Money is numbers: exact decimal strings."""
    yield from (row.event_id, row.correction, _instant(row.started_at), _instant(row.completed_at))
    yield from (_instant(row.ingested_at), row.mode, _text(row.credential_id), row.key_version, row.model)
    yield from (row.endpoint_id, row.feature, row.session_id, row.prompt_id, row.outcome, row.usage_source)
    yield from (row.service_tier, row.speed, row.inference_geo, row.tokens.uncached_input)
    yield from (row.tokens.cache_write_5m, row.tokens.cache_write_1h, row.tokens.cache_read)
    yield from (row.tokens.output, row.tokens.web_search_requests)
    yield from (None if row.cost is None else to_usd(row.cost), to_usd(row.billed), "USD")
    yield from (row.price_version, " ".join(flag_names(row.flags)), row.provider_request_id)
    yield _text(row.reservation_id)


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)


def _instant(value: Instant | None) -> str | None:
    return None if value is None else f"{value.replace(tzinfo=None).isoformat()}Z"
