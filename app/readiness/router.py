"""May work start?"""

from fastapi import APIRouter, Response

from app.api.dependencies import BillingReader, ServicesOfApp
from app.api.problems import problems
from app.api.responses import answer
from app.core.errors import InsufficientScope, NotFound
from app.readiness.schemas import OrganizationReadiness
from app.readiness.service import ReadinessService

router = APIRouter(prefix="/v1/organizations/{organization_id}", tags=["billing"])


@router.get(
    "/readiness",
    response_model=OrganizationReadiness,
    operation_id="getOrganizationReadiness",
    summary="May provider-backed work start?",
    response_description="Whether work may start, and what is in the way.",
    responses=problems(InsufficientScope, NotFound),
)
async def get_readiness(caller: BillingReader, services: ServicesOfApp) -> Response:
    """Ask before starting work. Every blocker is named; there is no fallback between modes."""
    return answer(OrganizationReadiness.of(await services[ReadinessService].read(caller.organization_id)))
