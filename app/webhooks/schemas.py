"""Webhook endpoints on the wire. The signing secret stands in one answer alone: that of its creation."""

from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, Field

from app.api.schemas import Instant, OrganizationId, RequestModel, ResponseModel, Subject
from app.api.text import holds_no_key
from app.core.signing_secret import SigningSecret
from app.provider_url.url_policy import MAX_URL_LENGTH, OutboundUrl, parse_outbound_url
from app.webhooks.endpoints import WebhookEndpoint as EndpointRecord

_EXAMPLE_URL = "https://hooks.example.com/pharaoh"


class WebhookEndpointCreate(RequestModel):
    """Where to deliver to."""

    url: Annotated[
        str,
        Field(
            min_length=1,
            max_length=2 * MAX_URL_LENGTH,
            description="HTTPS, port 443, a public host; no query.",
            examples=[_EXAMPLE_URL],
        ),
        AfterValidator(holds_no_key),
    ]

    def to_url(self) -> OutboundUrl:
        """Raises UrlRefused."""
        return parse_outbound_url(self.url, field="url")


class WebhookEndpoint(ResponseModel):
    """Where deliveries go."""

    id: UUID
    organization_id: OrganizationId
    url: Annotated[str, Field(examples=[_EXAMPLE_URL])]
    created_at: Instant
    created_by: Subject

    @classmethod
    def of(cls, organization_id: str, record: EndpointRecord) -> "WebhookEndpoint":
        return cls(
            id=record.id,
            organization_id=organization_id,
            url=record.url,
            created_at=record.created_at,
            created_by=record.created_by,
        )


class WebhookEndpointCreated(ResponseModel):
    """The endpoint, and its signing secret: keep it now, it is never shown again."""

    id: UUID
    organization_id: OrganizationId
    url: Annotated[str, Field(examples=[_EXAMPLE_URL])]
    created_at: Instant
    created_by: Subject
    signing_secret: Annotated[
        str,
        Field(
            description="For the Standard Webhooks scheme: `whsec_` and base64.",
            examples=["whsec_EXAMPLE"],
        ),
    ]

    @classmethod
    def of_new(
        cls, organization_id: str, record: EndpointRecord, secret: SigningSecret
    ) -> "WebhookEndpointCreated":
        return cls(
            id=record.id,
            organization_id=organization_id,
            url=record.url,
            created_at=record.created_at,
            created_by=record.created_by,
            signing_secret=secret.reveal(),
        )


class WebhookEndpointDeleted(ResponseModel):
    """The receipt."""

    id: UUID
    deleted_at: Instant
