"""Whether the process answers, whether its dependencies do, and its metrics."""

from fastapi import APIRouter, Response

from app.api.dependencies import ServicesOfApp
from app.api.responses import answer
from app.health.schemas import Liveness, Readiness
from app.health.service import HealthService
from app.observability.metrics import metrics_text

router = APIRouter(tags=["health"])

_METRICS = 'byok_validations_total{reason="ok",status="valid"} 1.0\n'


@router.head("/livez", include_in_schema=False)  # load balancers ask like this
@router.get(
    "/livez",
    response_model=Liveness,
    operation_id="getLiveness",
    response_description="It is.",
    summary="Is the process alive?",
)
async def livez() -> Response:
    """Looks at nothing but itself: restart the process when this fails."""
    return answer(Liveness())


@router.head("/readyz", include_in_schema=False)  # load balancers ask like this
@router.get(
    "/readyz",
    response_model=Readiness,
    operation_id="getReadiness",
    response_description="All dependencies answer.",
    summary="Are the dependencies up?",
    responses={503: {"model": Readiness, "description": "At least one dependency is down."}},
)
async def readyz(services: ServicesOfApp) -> Response:
    """Per dependency. Send no traffic here while this fails."""
    found = await services[HealthService].check()
    problems = {name: code for name, code in found.items() if code is not None}
    readiness = Readiness(
        status="not_ready" if problems else "ready",
        dependencies={name: "down" if name in problems else "up" for name in found},
        problems=problems,
    )
    return answer(readiness, status=503 if problems else 200)


@router.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Metrics in Prometheus' text format",
    response_class=Response,
    responses={
        200: {
            "content": {"text/plain": {"schema": {"type": "string", "examples": [_METRICS]}}},
            "description": "Metrics.",
        }
    },
)
async def metrics() -> Response:
    """Labels are routes, codes and reasons: nothing that a client typed."""
    return Response(metrics_text(), media_type="text/plain; version=0.0.4; charset=utf-8")
