"""Delivers to a webhook endpoint and verifies the signature."""

import base64
import hmac

import httpx

from app.core.clock import new_id, now
from app.core.keys.signing_secret import SigningSecret
from app.core.notifications import EventType
from app.egress.webhooks import WebhookClient
from app.secret_store.port import SecretRef, SecretStore
from app.webhooks.delivery_worker import DeliveryWorker
from app.webhooks.repository import WebhookRepository
from tests.support.secret_maintenance.installation import Installation


async def receives_valid_delivery(installation: Installation, store: SecretStore, ref: SecretRef) -> bool:
    """Whether exactly one message arrives, signed with the secret that was shown when the endpoint was created."""
    secret, signature_checks = installation.secrets[ref], []

    def receive(request: httpx.Request) -> httpx.Response:
        signature_checks.append(request.headers["webhook-signature"] == _signature(secret, request))
        return httpx.Response(204)

    delivery_id = new_id()
    async with installation.units.writing(ref.organization_id) as uow:
        await uow[WebhookRepository].add_deliveries(
            {ref.credential_id: delivery_id}, kind=EventType.THRESHOLD_CROSSED, body="{}", now=now()
        )
        await uow.commit()
    async with httpx.AsyncClient(transport=httpx.MockTransport(receive)) as http:
        await DeliveryWorker(installation.units, store, WebhookClient(http)).run()
    return signature_checks == [True]


def _signature(secret: SigningSecret, request: httpx.Request) -> str:
    key = base64.b64decode(secret.reveal().removeprefix(SigningSecret.PREFIX))
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode()
    return f"v1,{base64.b64encode(hmac.digest(key, signed + request.content, 'sha256')).decode()}"
