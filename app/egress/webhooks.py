"""Deliveries to webhook endpoints: signed by the Standard Webhooks scheme, to vetted addresses, answers unread."""

import asyncio
import base64
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import httpx

from app.core.clock import now
from app.core.signing_secret import SigningSecret
from app.egress.exceptions import DestinationRefused, NameUnavailable
from app.egress.transport import EgressLimits

TIMEOUT_SECONDS = 10.0
# A receiver says whether it has the message, and that is all we want to hear.
LIMITS = EgressLimits(
    total_seconds=TIMEOUT_SECONDS, answer_bytes=32 * 1024, connections=32, connections_per_host=4
)
USER_AGENT = "pharaoh-byok-webhooks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """How an attempt went, in our words: `status_<n>`, or why there was no answer."""

    is_delivered: bool
    outcome: str


class WebhookClient:
    """Makes one attempt at a time; repeating is the outbox's business.

    Args:
        http: over the vetted transport, which judges URL and addresses anew at every request.
        timeout_seconds: for a whole attempt.
        clock: what time it is, for the signature.
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

    async def deliver(self, url: str, secret: SigningSecret, *, message_id: str, body: str) -> Attempt:
        """POST the body, signed for this moment. Whatever happens on the way is an outcome."""
        content = body.encode()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                status = await self._post(url, self._headers(secret, message_id, content), content)
        except Exception as error:  # noqa: BLE001  # a library's error may quote the headers, and so the signature
            return Attempt(is_delivered=False, outcome=_outcome(error))
        return Attempt(is_delivered=httpx.codes.is_success(status), outcome=f"status_{status}")

    async def _post(self, url: str, headers: dict[str, str], content: bytes) -> int:
        connect = min(5.0, self._timeout_seconds / 2)
        timeout = httpx.Timeout(self._timeout_seconds, connect=connect)
        # Not the client's build_request: that would add cookies and default headers.
        request = httpx.Request(
            "POST", url, headers=headers, content=content, extensions={"timeout": timeout.as_dict()}
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
        case NameUnavailable():
            return "dns_unavailable"
        case httpx.TimeoutException() | TimeoutError():
            return "timeout"
    return "unreachable"
