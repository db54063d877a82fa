"""Wire models of ingestion results and ledger rows, and the CSV columns."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from app.api.csv_export import Cell, Number
from app.api.money import Money
from app.api.schemas import Page, ResponseModel, Timestamp, without_default
from app.core.money import to_usd
from app.usage_events.events import EventStatus, NotAccepted
from app.usage_events.records import LedgerRow, Outcome, UsageFlag, UsageSource
from app.usage_mode.modes import UsageMode

MAX_RESULTS = 10_000

_EVENT_ID = "0199a2b4-d1c2-7a3b-8c4d-5e6f70819203"
_CREDENTIAL_ID = "0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819"
_Count = Annotated[int, Field(description="Negative if the row cancels another one.", examples=[1200])]
_OptionalText = Annotated[str | None, Field(examples=["support"])]


def _is_none(value: object) -> bool:
    return value is None


class EventResult(ResponseModel):
    """One event that was not accepted."""

    index: Annotated[
        int,
        Field(
            description="Index of the event, from 0: in `events`, or the line number (blank lines count).",
            examples=[3],
        ),
    ]
    event_id: Annotated[
        str | None,
        Field(description="Null if it is missing, invalid or looks like a key.", examples=[_EVENT_ID]),
    ]
    status: Annotated[EventStatus, Field(examples=["rejected"])]
    code: Annotated[
        str,
        Field(
            description="Why the event was not accepted. Codes are stable.", examples=["started_at_too_old"]
        ),
    ]
    fields: Annotated[
        tuple[str, ...] | None,
        Field(
            description="With `required`, the fields that are missing. With `invalid_usage`, the field of the usage object"
            " that is wrong. With `usage_unrecognized`, the fields found whose names are known. Absent otherwise.",
            examples=[["usage.input_tokens"]],
            json_schema_extra=without_default,
            exclude_if=_is_none,
        ),
    ] = None

    @classmethod
    def of(cls, found: NotAccepted) -> "EventResult":
        return cls.model_construct(
            index=found.index,
            event_id=found.event_id,
            status=found.status,
            code=found.code,
            fields=tuple(found.fields) or None,
        )


class EventResults(ResponseModel):
    """The result of an ingest request. Accepted events are committed and only counted."""

    accepted: Annotated[int, Field(examples=[4998])]
    duplicates: Annotated[
        int, Field(description="Events that were accepted before with the same content.", examples=[1])
    ]
    results: Annotated[list[EventResult], Field(description="Events that were not accepted, at most 10,000.")]
    results_truncated: Annotated[
        bool,
        Field(description="Whether more events were not accepted than `results` contains.", examples=[False]),
    ]


class RowCacheCreation(ResponseModel):
    """Tokens written to the cache, by time to live."""

    ephemeral_5m_input_tokens: _Count
    ephemeral_1h_input_tokens: _Count


class UsageRow(ResponseModel):
    """One row of the ledger: the work of one model on one request. Rows never change.

    A row with `correction` above 0 adds the cost that the part lacked. If another event corrects the event, rows with a
    negative `correction` cancel its rows: sums over all rows contain each request once.
    """

    event_id: Annotated[str, Field(examples=[_EVENT_ID])]
    part: Annotated[
        int,
        Field(
            description="0 for the model that served the request; 1, 2, ... for other models that worked on it.",
            examples=[0],
        ),
    ]
    correction: Annotated[
        int,
        Field(
            description="0 for the part itself; 1, 2, ... for the cost that it lacked; -1, -2, ... if the row cancels row"
            " 0, 1, ..., because another event corrects this one.",
            examples=[0],
        ),
    ]
    started_at: Timestamp
    completed_at: Timestamp | None
    ingested_at: Timestamp
    usage_mode: Annotated[
        UsageMode, Field(description="The mode that was active when the request started.", examples=["byo"])
    ]
    credential_id: Annotated[UUID | None, Field(examples=[_CREDENTIAL_ID])]
    key_version: Annotated[int | None, Field(description="Null if it is no longer known.", examples=[1])]
    model: Annotated[str, Field(examples=["claude-haiku-5-5"])]
    endpoint_id: _OptionalText
    feature: _OptionalText
    session_id: _OptionalText
    prompt_id: _OptionalText
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
    estimated_cost: Annotated[Money | None, Field(description="Null if no price is known.")]
    billed_cost: Annotated[Money, Field(description="0 for usage with the organization's own key.")]
    price_version: Annotated[str | None, Field(examples=["2026-11-20"])]
    flags: Annotated[
        list[str],
        Field(description="Assumptions about the mode or the cost.", examples=[["cache_ttl_assumed"]]),
    ]
    provider_request_id: Annotated[str | None, Field(examples=["req_011CSHoEeqs5C35K2UUqR7Fy"])]
    reservation_id: Annotated[UUID | None, Field(examples=["0199a2b4-c9f1-7c55-8e0d-2b6f4a1d9e37"])]
    corrects: Annotated[
        str | None, Field(description="The event that this one replaces.", examples=[_EVENT_ID])
    ]
    corrected_by: Annotated[
        str | None,
        Field(
            description="The event that replaces this one. Only on rows that cancel others.",
            examples=[_EVENT_ID],
        ),
    ]

    @classmethod
    def of(cls, row: LedgerRow) -> "UsageRow":
        return cls.model_construct(
            event_id=row.event_id,
            part=row.part,
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
            corrects=row.corrects,
            corrected_by=row.corrected_by,
        )


def flag_names(flags: UsageFlag) -> list[str]:
    return [str(flag.name).lower() for flag in flags]


class UsageRowPage(Page[UsageRow]):
    """One page of rows. To get the next page, pass `next_page` as the parameter `page`."""

    data_as_of: Annotated[
        Timestamp,
        Field(description="The list includes all events that were accepted before this time."),
    ]


CSV_HEADER = (
    *(
        "event_id",
        "part",
        "correction",
        "started_at",
        "completed_at",
        "ingested_at",
        "usage_mode",
        "credential_id",
    ),
    *("key_version", "model", "endpoint_id", "feature", "session_id", "prompt_id", "outcome"),
    *("usage_source", "service_tier", "speed", "inference_geo", "uncached_input_tokens"),
    *("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens", "cache_read_input_tokens"),
    *("output_tokens", "web_search_requests", "estimated_cost", "billed_cost", "currency"),
    *("price_version", "flags", "provider_request_id", "reservation_id", "corrects", "corrected_by"),
)


def csv_cells(row: LedgerRow) -> tuple[Cell, ...]:
    """Return the cells of a row in the order of the header. Amounts are exact decimal strings."""
    tokens = row.tokens
    return (
        *(row.event_id, row.part, row.correction, _instant(row.started_at), _instant(row.completed_at)),
        *(_instant(row.ingested_at), row.mode.value, _text(row.credential_id), row.key_version, row.model),
        *(row.endpoint_id, row.feature, row.session_id, row.prompt_id, row.outcome.value),
        *(row.usage_source.value, row.service_tier, row.speed, row.inference_geo, tokens.uncached_input),
        *(tokens.cache_write_5m, tokens.cache_write_1h, tokens.cache_read),
        *(tokens.output, tokens.web_search_requests),
        *(None if row.cost is None else Number(to_usd(row.cost)), Number(to_usd(row.billed)), "USD"),
        *(row.price_version, " ".join(flag_names(row.flags)) if row.flags else "", row.provider_request_id),
        *(_text(row.reservation_id), row.corrects, row.corrected_by),
    )


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)


_UTC_OFFSET_LENGTH = len("+00:00")


def _instant(value: Timestamp | None) -> str | None:
    return None if value is None else f"{value.isoformat()[:-_UTC_OFFSET_LENGTH]}Z"
