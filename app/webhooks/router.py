"""Webhook endpoints: add, list, read and delete."""

from fastapi import APIRouter, Request, Response

from app.api.dependencies import BillingReader, BillingWriter, EndpointId, ServicesOfApp
from app.api.pagination import Paging
from app.api.problems import OF_BODIES, problems
from app.api.responses import answer
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

router = APIRouter(prefix="/v1/organizations/{organization_id}/webhook-endpoints", tags=["webhooks"])


@router.post(
    "",
    status_code=201,
    response_model=WebhookEndpointCreated,
    operation_id="createWebhookEndpoint",
    summary="Add a webhook endpoint",
    response_description="The endpoint, with its signing secret.",
    responses=problems(
        InvalidInput,
        InsufficientScope,
        NotFound,
        RateLimited,
        TooManyEndpoints,
        SecretStoreUnavailable,
        DnsUnavailable,
        *OF_BODIES,
        codes={422: ("unknown_field", *UrlReason)},
    ),
)
async def create_webhook_endpoint(
    request: Request, body: WebhookEndpointCreate, caller: BillingWriter, services: ServicesOfApp
) -> Response:
    """Told of every threshold that a spend limit crosses, signed by the Standard Webhooks scheme.

    The signing secret is shown now and never again. Idempotency-Key is ignored: a secret is not kept to be replayed.
    """
    endpoint, secret = await services[WebhookService].add(caller, body.to_url())
    shown = WebhookEndpointCreated.of_new(caller.organization_id, endpoint, secret)
    return answer(shown, status=201, headers={"Location": f"{request.url.path}/{shown.id}"})


@router.get(
    "",
    response_model=Page[WebhookEndpoint],
    operation_id="listWebhookEndpoints",
    summary="List webhook endpoints",
    response_description="One page of endpoints.",
    responses=problems(InvalidInput, InsufficientScope, NotFound, codes={422: ("page_invalid",)}),
)
async def list_webhook_endpoints(caller: BillingReader, services: ServicesOfApp, paging: Paging) -> Response:
    """The newest first."""
    records = await services[WebhookService].page(
        caller.organization_id, at_most=paging.at_most, before=paging.before_id()
    )
    return paging.answer(records, lambda record: WebhookEndpoint.of(caller.organization_id, record), _id)


@router.get(
    "/{endpoint_id}",
    response_model=WebhookEndpoint,
    operation_id="getWebhookEndpoint",
    summary="Read a webhook endpoint",
    response_description="The endpoint.",
    responses=problems(InsufficientScope, NotFound),
)
async def get_webhook_endpoint(
    endpoint_id: EndpointId, caller: BillingReader, services: ServicesOfApp
) -> Response:
    """Without its secret."""
    record = await services[WebhookService].read(caller.organization_id, endpoint_id)
    return answer(WebhookEndpoint.of(caller.organization_id, record))


@router.delete(
    "/{endpoint_id}",
    response_model=WebhookEndpointDeleted,
    operation_id="deleteWebhookEndpoint",
    summary="Delete a webhook endpoint",
    response_description="What was deleted, and when.",
    responses=problems(InsufficientScope, NotFound),
)
async def delete_webhook_endpoint(
    endpoint_id: EndpointId, caller: BillingWriter, services: ServicesOfApp
) -> Response:
    """Its secret is destroyed, and deliveries that are still to be made are dropped."""
    deleted = await services[WebhookService].delete(caller, endpoint_id)
    return answer(WebhookEndpointDeleted(id=deleted.id, deleted_at=deleted.deleted_at))


def _id(record: EndpointRecord) -> EndpointId:
    return record.id
