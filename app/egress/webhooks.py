"""Sends webhook deliveries, signed by the Standard Webhooks scheme, over a pinned transport. Response bodies are not read."""

import asyncio
import base64
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import httpx

from app.core.clock import now
from app.core.keys.signing_secret import SigningSecret
from app.egress.exceptions import DestinationRefused, NameLookupFailed
from app.egress.http_client import host_header
from app.egress.transport import EgressLimits

TIMEOUT_SECONDS = 10.0
# Only the status of a response matters, so its size limit is small.
LIMITS = EgressLimits(
    total_seconds=TIMEOUT_SECONDS, max_response_bytes=32 * 1024, connections=32, connections_per_host=4
)
USER_AGENT = "pharaoh-byok-webhooks"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptResult:
    """The result of one delivery attempt. `outcome` is `status_<n>`, or a reason why the receiver sent no response."""

    is_delivered: bool
    outcome: str


class WebhookClient:
    """Makes one delivery attempt. `DeliveryWorker` does the retries.

    Args:
        http: a client over `pinned_transport`, which validates the URL and the addresses of every request.
        timeout_seconds: the limit for a whole attempt.
        clock: returns the current time, for the signature.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        clock: Callable[[], datetime] = now,
    ) -> None:
        self._http = http
        self._timeout_seconds = timeout_seconds
        self._clock = clock

    async def deliver(self, url: str, secret: SigningSecret, *, message_id: str, body: str) -> AttemptResult:
        """POST the body, signed with the current time. Never raises: every failure is an outcome."""
        content = body.encode()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                status = await self._post(url, self._headers(secret, message_id, content), content)
        except Exception as error:  # noqa: BLE001  # a library's error may quote the headers, and so the signature
            return AttemptResult(is_delivered=False, outcome=_outcome(error))
        return AttemptResult(is_delivered=httpx.codes.is_success(status), outcome=f"status_{status}")

    async def _post(self, url: str, headers: dict[str, str], content: bytes) -> int:
        connect = min(5.0, self._timeout_seconds / 2)
        timeout = httpx.Timeout(self._timeout_seconds, connect=connect)
        # Do not use the client's `build_request`: it adds cookies and default headers.
        request = httpx.Request(
            "POST",
            url,
            headers={"host": host_header(url), **headers},
            content=content,
            extensions={"timeout": timeout.as_dict()},
        )
        response = await self._http.send(request, stream=True, auth=None, follow_redirects=False)
        await response.aclose()
        return response.status_code

    def _headers(self, secret: SigningSecret, message_id: str, content: bytes) -> dict[str, str]:
        timestamp = str(int(self._clock().timestamp()))
        return {
            "content-type": "application/json",
            "user-agent": USER_AGENT,
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": f"v1,{_signature(secret, f'{message_id}.{timestamp}.'.encode() + content)}",
        }


def _signature(secret: SigningSecret, signed: bytes) -> str:
    key = base64.b64decode(secret.reveal().removeprefix(SigningSecret.PREFIX))
    return base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


def _outcome(error: Exception) -> str:
    match error:
        case DestinationRefused():
            return "address_refused"
        case NameLookupFailed():
            return "dns_unavailable"
        case httpx.TimeoutException() | TimeoutError():
            return "timeout"
    return "unreachable"
