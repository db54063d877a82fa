"""What a switch of the usage mode would change."""

from fastapi import APIRouter, Response

from app.api.dependencies import BillingReader, ServicesOfApp
from app.api.problems import OF_BODIES, problems
from app.api.responses import answer
from app.billing.mode_preview_schemas import UsageModePreview
from app.billing.mode_preview_service import ModePreviewService
from app.core.errors import CredentialDeleted, InsufficientScope, InvalidInput, NotFound
from app.usage_mode.router import REFUSED_SWITCHES, wish_of
from app.usage_mode.schemas import UsageModeSwitch

router = APIRouter(prefix="/v1/organizations/{organization_id}", tags=["billing"])


@router.post(
    "/usage-mode/preview",
    response_model=UsageModePreview,
    operation_id="previewUsageMode",
    summary="Try a switch of the usage mode",
    response_description="What it would change.",
    responses=problems(
        InvalidInput,
        InsufficientScope,
        NotFound,
        CredentialDeleted,
        *OF_BODIES,
        codes={422: REFUSED_SWITCHES},
    ),
)
async def preview_usage_mode(
    body: UsageModeSwitch, caller: BillingReader, services: ServicesOfApp
) -> Response:
    """A dry run: this month's statement, a projection of managed usage, spend limits, and blockers. Writes nothing."""
    return answer(UsageModePreview.of(await services[ModePreviewService].preview(caller, wish_of(body))))
