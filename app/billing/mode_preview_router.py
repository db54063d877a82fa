"""HTTP route of the preview of a usage mode switch."""

from fastapi import Response

from app.api.dependencies import AppServices, BillingReader
from app.api.problems import BODY_ERRORS, problems
from app.api.responses import respond
from app.api.routing import Router
from app.billing.mode_preview_schemas import UsageModePreview
from app.billing.mode_preview_service import ModePreviewService
from app.core.errors import CredentialDeleted, InsufficientScope, InvalidInput, NotFound
from app.usage_mode.router import SWITCH_ERROR_CODES, requested_switch
from app.usage_mode.schemas import UsageModeSwitch

router = Router(prefix="/v1/organizations/{organization_id}", tags=["billing"])


@router.post(
    "/usage-mode/preview",
    response_model=UsageModePreview,
    operation_id="previewUsageMode",
    summary="Preview a usage mode switch",
    response_description="What the switch would change.",
    responses=problems(
        InvalidInput,
        InsufficientScope,
        NotFound,
        CredentialDeleted,
        *BODY_ERRORS,
        codes={422: SWITCH_ERROR_CODES},
    ),
)
async def preview_usage_mode(body: UsageModeSwitch, caller: BillingReader, services: AppServices) -> Response:
    """Preview what a switch of the usage mode would change: managed usage, spend limits and blockers. Changes nothing.

    Rejects what the switch itself would reject.
    """
    return respond(
        UsageModePreview.of(await services[ModePreviewService].preview(caller, requested_switch(body)))
    )
