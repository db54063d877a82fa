"""HTTP route of the readiness check."""

from fastapi import Response

from app.api.dependencies import AppServices, BillingReader
from app.api.problems import problems
from app.api.responses import respond
from app.api.routing import Router
from app.core.errors import InsufficientScope, NotFound
from app.readiness.schemas import OrganizationReadiness
from app.readiness.service import ReadinessService

router = Router(prefix="/v1/organizations/{organization_id}", tags=["billing"])


@router.get(
    "/readiness",
    response_model=OrganizationReadiness,
    operation_id="getOrganizationReadiness",
    summary="Check readiness",
    response_description="Whether provider-backed work may start, and all blockers.",
    responses=problems(InsufficientScope, NotFound),
)
async def get_readiness(caller: BillingReader, services: AppServices) -> Response:
    """Check whether provider-backed work may start. Call it before starting such work.

    The response lists every blocker. Neither mode falls back to the other.
    """
    return respond(OrganizationReadiness.of(await services[ReadinessService].read(caller.organization_id)))
