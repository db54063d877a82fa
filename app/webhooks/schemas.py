"""Request and response models of webhook endpoints. Only the response to a creation contains the signing secret."""

from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, Field

from app.api.schemas import OrganizationId, RequestModel, ResponseModel, Subject, Timestamp
from app.api.text import require_no_key
from app.core.keys.signing_secret import SigningSecret
from app.provider_url.url_policy import MAX_URL_LENGTH, OutboundUrl, parse_outbound_url
from app.webhooks.endpoints import WebhookEndpoint as EndpointRecord

_EXAMPLE_URL = "https://hooks.example.com/pharaoh"


class WebhookEndpointCreate(RequestModel):
    """A new webhook endpoint."""

    url: Annotated[
        str,
        Field(
            min_length=1,
            max_length=2 * MAX_URL_LENGTH,
            description="An HTTPS URL on port 443 with a public host and without a query.",
            examples=[_EXAMPLE_URL],
        ),
        AfterValidator(require_no_key),
    ]

    def to_url(self) -> OutboundUrl:
        """Raises UrlRefused."""
        return parse_outbound_url(self.url, field="url")


class WebhookEndpoint(ResponseModel):
    """A webhook endpoint."""

    id: UUID
    organization_id: OrganizationId
    url: Annotated[str, Field(examples=[_EXAMPLE_URL])]
    created_at: Timestamp
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
    """The new endpoint with its signing secret. Store the secret now; it is never shown again."""

    id: UUID
    organization_id: OrganizationId
    url: Annotated[str, Field(examples=[_EXAMPLE_URL])]
    created_at: Timestamp
    created_by: Subject
    signing_secret: Annotated[
        str,
        Field(
            description="The secret of the Standard Webhooks scheme: `whsec_` followed by base64.",
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
    """Confirms the deletion."""

    id: UUID
    deleted_at: Timestamp
