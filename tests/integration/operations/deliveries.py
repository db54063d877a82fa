"""A delivery to an endpoint, and whether its receiver can tell that it is genuine."""

import base64
import hmac

import httpx

from app.core.clock import new_id, now
from app.core.signing_secret import SigningSecret
from app.egress.webhooks import WebhookClient
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.secret_store.port import SecretRef, SecretStore
from app.webhooks.delivery_worker import DeliveryWorker
from app.webhooks.endpoints import EventType
from app.webhooks.repository import WebhookRepository
from tests.integration.operations.installation import Installation


async def is_told(installation: Installation, store: SecretStore, ref: SecretRef) -> bool:
    """Whether one message came, signed with the secret that its owner was shown."""
    secret, told = installation.secrets[ref], []

    def receive(request: httpx.Request) -> httpx.Response:
        told.append(request.headers["webhook-signature"] == _signature(secret, request))
        return httpx.Response(204)

    delivery_id = new_id()
    async with installation.units.writing(ref.organization_id) as uow:
        await uow[WebhookRepository].add_delivery(
            delivery_id, ref.credential_id, kind=EventType.THRESHOLD_CROSSED, body="{}", now=now()
        )
        item = DueItem(organization_id=ref.organization_id, kind=JobKind.DELIVER_WEBHOOK, id=delivery_id)
        await uow[QueueRepository].add(item, due_at=now())
        await uow.commit()
    async with httpx.AsyncClient(transport=httpx.MockTransport(receive)) as http:
        await DeliveryWorker(installation.units, store, WebhookClient(http)).run()
    return told == [True]


def _signature(secret: SigningSecret, request: httpx.Request) -> str:
    key = base64.b64decode(secret.reveal().removeprefix(SigningSecret.PREFIX))
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode()
    return f"v1,{base64.b64encode(hmac.digest(key, signed + request.content, 'sha256')).decode()}"
