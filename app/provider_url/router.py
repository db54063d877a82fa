"""Check a provider URL while the admin types it."""

from fastapi import APIRouter, Response

from app.api.dependencies import ServicesOfApp, UrlChecker
from app.api.problems import OF_BODIES, problems
from app.api.responses import answer
from app.core.errors import InsufficientScope, InvalidInput, RateLimited
from app.provider_url.schemas import ProviderUrlCheck, ProviderUrlCheckRequest
from app.provider_url.service import ProviderUrlService

router = APIRouter(prefix="/v1/provider-url-checks", tags=["credentials"])


@router.post(
    "",
    response_model=ProviderUrlCheck,
    operation_id="checkProviderUrl",
    summary="Check a provider URL",
    response_description="Whether it could be saved, and why not.",
    responses=problems(
        InvalidInput, InsufficientScope, RateLimited, *OF_BODIES, codes={422: ("unknown_field",)}
    ),
)
async def check_provider_url(
    body: ProviderUrlCheckRequest, caller: UrlChecker, services: ServicesOfApp
) -> Response:
    """Whether this URL could be saved now, by policy and DNS. Nothing is saved, and nothing is sent to the host."""
    check = await services[ProviderUrlService].check(caller.organization_id, body.url)
    return answer(ProviderUrlCheck.of(check))
