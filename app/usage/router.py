"""HTTP route that ingests usage events."""

from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from app.api.dependencies import AppServices, UsageWriter
from app.api.problems import problem_response, problems
from app.api.routing import Router
from app.core.errors import (
    DatabaseUnavailable,
    IngestionOverloaded,
    InsufficientScope,
    InvalidInput,
    LineTooLong,
    MalformedJson,
    NotFound,
)
from app.usage.body_reader import RequestIngestion
from app.usage.schemas import EventResults
from app.usage.service import IngestionService
from app.usage_events.event_openapi import EVENTS_BODY

router = Router(prefix="/v1/organizations/{organization_id}", tags=["usage"])

_NDJSON = "application/x-ndjson"


@router.post(
    "/usage-events",
    response_model=EventResults,
    operation_id="ingestUsageEvents",
    summary="Ingest usage events",
    response_description="The result. All accepted events are committed.",
    responses=problems(
        InvalidInput,
        InsufficientScope,
        NotFound,
        MalformedJson,
        LineTooLong,
        IngestionOverloaded,
        408,
        415,
        codes={422: ("unknown_field", "too_many_events")},
    ),
    openapi_extra={"requestBody": EVENTS_BODY},
)
async def ingest_usage_events(request: Request, caller: UsageWriter, services: AppServices) -> Response:
    """Record each event exactly once. An event that was accepted before is a `duplicate`; the same `event_id` with other content is a `conflict`. A bad event does not affect the others.

    A JSON batch has at most 5,000 events and 16 MiB, and is committed in one transaction. An event has at most 256 KiB
    and 256 entries in `usage.iterations` (otherwise `invalid_usage`). The events of a batch have at most 10,000 entries
    together; later events with iterations are
    rejected with `too_many_iterations`, and can be sent in another batch. An NDJSON body has no size
    limit and at most 64 KiB per line, and is committed in chunks. If it fails halfway, `committed` in the problem
    states how many lines were ingested; later lines were not. Repeating a request is always safe; the service ignores
    `Idempotency-Key`.
    """
    ingestion = RequestIngestion(services[IngestionService], caller.organization_id)
    if not _is_ndjson(request):
        await ingestion.ingest_json(request.stream())
        return await _respond(ingestion)
    try:
        await ingestion.ingest_lines(request.stream())
    except (LineTooLong, IngestionOverloaded, DatabaseUnavailable) as error:
        return problem_response(caller.request_id, error, committed=ingestion.committed)
    except ClientDisconnect:
        # The client does not read this response. Complete chunks are committed; if it repeats them, they are duplicates.
        return problem_response(caller.request_id, MalformedJson(), committed=ingestion.committed)
    return await _respond(ingestion)


async def _respond(ingestion: RequestIngestion) -> Response:
    return Response(await ingestion.results_json(), media_type="application/json")


def _is_ndjson(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == _NDJSON
