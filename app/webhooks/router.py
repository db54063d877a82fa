"""Routes to create, list, get and delete webhook endpoints."""

from fastapi import Request, Response

from app.api.dependencies import AppServices, BillingReader, BillingWriter, EndpointId
from app.api.pagination import Paging
from app.api.problems import BODY_ERRORS, problems
from app.api.responses import respond, response_headers
from app.api.routing import Router
from app.api.schemas import Page
from app.core.errors import (
    InsufficientScope,
    InvalidInput,
    NotFound,
    RateLimited,
    SecretStoreUnavailable,
    TooManyEndpoints,
)
from app.core.url_errors import DnsUnavailable, UrlReason
from app.webhooks.endpoints import WebhookEndpoint as EndpointRecord
from app.webhooks.schemas import (
    WebhookEndpoint,
    WebhookEndpointCreate,
    WebhookEndpointCreated,
    WebhookEndpointDeleted,
)
from app.webhooks.service import WebhookService

router = Router(prefix="/v1/organizations/{organization_id}/webhook-endpoints", tags=["webhooks"])


@router.post(
    "",
    status_code=201,
    response_model=WebhookEndpointCreated,
    operation_id="createWebhookEndpoint",
    summary="Create a webhook endpoint",
    response_description="The endpoint with its signing secret.",
    responses=response_headers("Location", status=201)
    | problems(
        InvalidInput,
        InsufficientScope,
        NotFound,
        RateLimited,
        TooManyEndpoints,
        SecretStoreUnavailable,
        DnsUnavailable,
        *BODY_ERRORS,
        codes={422: ("unknown_field", *UrlReason)},
    ),
)
async def create_webhook_endpoint(
    request: Request, body: WebhookEndpointCreate, caller: BillingWriter, services: AppServices
) -> Response:
    """Create an endpoint that receives all events of the organization.

    Their types are `spend_limit.threshold_crossed`, `credential.valid`, `credential.invalid`, `rotation.activated`,
    `rotation.rejected` and `usage_mode.changed`.

    Deliveries are signed by the Standard Webhooks scheme. Only this response contains the signing secret; it cannot be
    read later. An organization can have at most 10 endpoints (409 `too_many_endpoints`). `Idempotency-Key` is ignored,
    because a response with a secret is not stored.
    """
    endpoint, secret = await services[WebhookService].create(caller, body.to_url())
    shown = WebhookEndpointCreated.of_new(caller.organization_id, endpoint, secret)
    return respond(shown, status=201, headers={"Location": f"{request.url.path}/{shown.id}"})


@router.get(
    "",
    response_model=Page[WebhookEndpoint],
    operation_id="listWebhookEndpoints",
    summary="List webhook endpoints",
    response_description="One page of endpoints.",
    responses=problems(InvalidInput, InsufficientScope, NotFound, codes={422: ("page_invalid",)}),
)
async def list_webhook_endpoints(caller: BillingReader, services: AppServices, paging: Paging) -> Response:
    """List the active endpoints, newest first, without their signing secrets."""
    records = await services[WebhookService].page(
        caller.organization_id, at_most=paging.at_most, before=paging.before_id()
    )
    return paging.respond(records, lambda record: WebhookEndpoint.of(caller.organization_id, record), _id)


@router.get(
    "/{endpoint_id}",
    response_model=WebhookEndpoint,
    operation_id="getWebhookEndpoint",
    summary="Get a webhook endpoint",
    response_description="The endpoint.",
    responses=problems(InsufficientScope, NotFound),
)
async def get_webhook_endpoint(
    endpoint_id: EndpointId, caller: BillingReader, services: AppServices
) -> Response:
    """Return the endpoint without its signing secret."""
    record = await services[WebhookService].get(caller.organization_id, endpoint_id)
    return respond(WebhookEndpoint.of(caller.organization_id, record))


@router.delete(
    "/{endpoint_id}",
    response_model=WebhookEndpointDeleted,
    operation_id="deleteWebhookEndpoint",
    summary="Delete a webhook endpoint",
    response_description="The id of the endpoint, and when it was deleted.",
    responses=problems(InsufficientScope, NotFound),
)
async def delete_webhook_endpoint(
    endpoint_id: EndpointId, caller: BillingWriter, services: AppServices
) -> Response:
    """Delete the endpoint, destroy its signing secret, and cancel its pending deliveries.

    If the secret store is unavailable, the endpoint is deleted now and its secret later.
    """
    deleted = await services[WebhookService].delete(caller, endpoint_id)
    return respond(WebhookEndpointDeleted(id=deleted.id, deleted_at=deleted.deleted_at))


def _id(record: EndpointRecord) -> EndpointId:
    return record.id
