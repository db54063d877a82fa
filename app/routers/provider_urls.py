"""Check a provider URL while the admin types it."""

from fastapi import APIRouter, Response

from app.domain.errors import InsufficientScope, InvalidInput, RateLimited
from app.routers.answers import answer
from app.routers.dependencies import ServicesOfApp, UrlChecker
from app.routers.problems import OF_BODIES, problems
from app.schemas.provider_urls import ProviderUrlCheck, ProviderUrlCheckRequest

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
    check = await services.provider_urls.check(caller.organization_id, body.url)
    return answer(ProviderUrlCheck.of(check))
