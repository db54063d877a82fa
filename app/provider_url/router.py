"""Check a provider URL before it is saved."""

from fastapi import Response

from app.api.dependencies import AppServices, UrlCheckCaller
from app.api.problems import BODY_ERRORS, problems
from app.api.responses import respond
from app.api.routing import Router
from app.core.errors import InsufficientScope, InvalidInput, RateLimited
from app.provider_url.schemas import ProviderUrlCheck, ProviderUrlCheckRequest
from app.provider_url.service import ProviderUrlService

router = Router(prefix="/v1/provider-url-checks", tags=["credentials"])


@router.post(
    "",
    response_model=ProviderUrlCheck,
    operation_id="checkProviderUrl",
    summary="Check a provider URL",
    response_description="Whether the URL can be saved, with the reason if it cannot.",
    responses=problems(
        InvalidInput, InsufficientScope, RateLimited, *BODY_ERRORS, codes={422: ("unknown_field",)}
    ),
)
async def check_provider_url(
    body: ProviderUrlCheckRequest, caller: UrlCheckCaller, services: AppServices
) -> Response:
    """Check whether a provider URL passes the URL policy and resolves to allowed addresses.

    Nothing is saved, and nothing is sent to the host. A rejected URL is reported with status 200,
    `accepted: false` and the reason. For an accepted URL, the response shows which auth style is used if none is
    chosen, and whether the host is Anthropic's. Requests are rate limited.
    """
    check = await services[ProviderUrlService].check(caller.organization_id, body.url)
    return respond(ProviderUrlCheck.of(check))
