"""Liveness of the process, readiness of its dependencies, and metrics."""

from fastapi import Response

from app.api.dependencies import AppServices
from app.api.problems import problems
from app.api.responses import respond
from app.api.routing import Router
from app.health.schemas import Liveness, Readiness
from app.health.service import HealthService
from app.observability.metrics import metrics_text
from app.observability.metrics_app import METRICS_MEDIA_TYPE

router = Router(tags=["health"])

# The server refuses these requests before any handler runs.
_PROBLEMS = problems(431, needs_token=False)
_METRICS = 'byok_validations_total{reason="ok",status="valid"} 1.0\n'


@router.head("/livez", include_in_schema=False)  # some load balancers send HEAD
@router.get(
    "/livez",
    response_model=Liveness,
    operation_id="getLiveness",
    response_description="The process is alive.",
    summary="Check liveness",
    responses=_PROBLEMS,
)
async def livez() -> Response:
    """Succeeds whenever the process can respond; checks no dependency. Restart the process if this fails."""
    return respond(Liveness())


@router.head("/readyz", include_in_schema=False)  # some load balancers send HEAD
@router.get(
    "/readyz",
    response_model=Readiness,
    operation_id="getReadiness",
    response_description="All dependencies respond.",
    summary="Check readiness",
    responses=_PROBLEMS
    | {503: {"model": Readiness, "description": "A dependency is down, or the instance shuts down."}},
)
async def readyz(services: AppServices) -> Response:
    """Ping the database and the secret store, and report the state of each.

    While the instance shuts down and its relayed calls end, `process` is down with the code `shutting_down`. Do not
    route traffic to this instance while this fails.
    """
    found = await services[HealthService].check()
    problems = {name: code for name, code in found.items() if code is not None}
    readiness = Readiness(
        status="not_ready" if problems else "ready",
        dependencies={name: "down" if name in problems else "up" for name in found},
        problems=problems,
    )
    return respond(readiness, status=503 if problems else 200)


@router.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Export metrics",
    response_class=Response,
    responses=_PROBLEMS
    | {
        200: {
            "content": {"text/plain": {"schema": {"type": "string", "examples": [_METRICS]}}},
            "description": "The metrics.",
        }
    },
)
async def metrics() -> Response:
    """Return metrics in the text format of Prometheus. Labels are routes, codes and reasons, never client input."""
    return Response(metrics_text(), media_type=METRICS_MEDIA_TYPE)
