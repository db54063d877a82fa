"""Sends probes to the provider and maps its responses to validation results.

The provider's text does not leave this module: none of it is returned, logged or raised. The same is true for the key.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

import httpx
from msgspec.structs import replace

from app.core.clock import now
from app.core.keys.api_key import ApiKey
from app.credentials.validation_results import Reason, ValidationResult
from app.egress.credential_header import credential_header
from app.egress.failures import classify
from app.egress.http_client import host_header
from app.egress.retry_after import retry_after
from app.provider_url.endpoint import ProviderEndpoint
from app.validation.decision_table import TRANSPORT_ROWS, Decision, decide
from app.validation.message_patterns import DEFAULT_PATTERNS, MessagePatterns
from app.validation.probes import Probe, TransportFailure
from app.validation.provider_response import ProviderResponse

ANTHROPIC_BASE_URL = "https://api.anthropic.com"
ANTHROPIC_VERSION = "2023-06-01"
USER_AGENT = "pharaoh-byok"

TIMEOUT_SECONDS = 15.0
CONNECT_TIMEOUT_SECONDS = 5.0
RETRY_DELAY_SECONDS = 0.2
MAX_RESPONSE_BYTES = 64 * 1024

# A real id never shares this many characters with a key. An id that does is an echo of the key.
ECHO_LENGTH = 8

_REQUEST_ID = re.compile(r"req_[A-Za-z0-9_-]{1,64}")
_logger = logging.getLogger(__name__)


class AnthropicClient:
    """Finds out whether the provider accepts a key.

    Args:
        http: the client for the operator's default endpoint. It must not follow redirects or read the environment.
        default_messages_url: the messages URL of that endpoint. Keys without a base URL use it.
        custom_http: the client for custom endpoints, over `pinned_transport`.
        patterns: words and codes of error messages that decide a row of the decision table.
        timeout_seconds: for a whole probe, including its retry.
        clock: returns the current time.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        *,
        default_messages_url: str | None = None,
        custom_http: httpx.AsyncClient | None = None,
        patterns: MessagePatterns = DEFAULT_PATTERNS,
        timeout_seconds: float = TIMEOUT_SECONDS,
        clock: Callable[[], datetime] = now,
    ) -> None:
        self._http = http
        self._default_messages_url = default_messages_url
        self._custom_http = custom_http or http
        self._patterns = patterns
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        # At INFO and below these libraries log status lines and response headers. A provider may echo the key there.
        for library in ("httpx", "httpcore"):
            logging.getLogger(library).setLevel(logging.WARNING)

    async def probe(
        self,
        key: ApiKey,
        endpoint: ProviderEndpoint,
        *,
        previously_valid: bool,
        timeout_seconds: float | None = None,
    ) -> ValidationResult:
        """Validate the key with the cheapest conclusive request. Never raises: every failure is a result.

        `timeout_seconds` can only shorten the client's own timeout.
        """
        is_anthropic = _is_anthropic(endpoint)
        return await self.send_probe(
            _probe_of(endpoint, is_anthropic=is_anthropic),
            key,
            endpoint,
            previously_valid=previously_valid,
            timeout_seconds=timeout_seconds,
        )

    async def send_probe(
        self,
        probe: Probe,
        key: ApiKey,
        endpoint: ProviderEndpoint,
        *,
        previously_valid: bool,
        timeout_seconds: float | None = None,
    ) -> ValidationResult:
        """Validate the key with this request. Never raises, like `probe`."""
        http = self._custom_http
        is_anthropic = _is_anthropic(endpoint)
        if endpoint.base_url is None:
            http = self._http
            endpoint = replace(endpoint, messages_url=self._default_messages_url or endpoint.messages_url)
        response = await self._send_with_retry(
            http,
            _probe_request(probe, endpoint),
            _headers(key, endpoint),
            min(timeout_seconds or self._timeout_seconds, self._timeout_seconds),
        )
        decision = decide(
            response,
            probe=probe,
            is_anthropic=is_anthropic,
            previously_valid=previously_valid,
            host=urlsplit(endpoint.messages_url).hostname,
            patterns=self._patterns,
        )
        return _result(decision, response, key, is_anthropic=is_anthropic, checked_at=self._clock())

    async def unreachable_reason(self, base_url: str, *, timeout_seconds: float = 5.0) -> Reason | None:
        """Send a request without a key. Returns the reason of a failure, or `None` if the host responds at all."""
        request = _ProbeRequest(method="GET", url=base_url)
        response = await self._send_with_retry(self._http, request, {}, timeout_seconds)
        return TRANSPORT_ROWS[response][1] if isinstance(response, TransportFailure) else None

    async def _send_with_retry(
        self,
        http: httpx.AsyncClient,
        request: "_ProbeRequest",
        headers: dict[str, str],
        timeout_seconds: float,
    ) -> ProviderResponse | TransportFailure:
        """Send the request within the timeout. Retries once after a transient failure."""
        try:
            async with asyncio.timeout(timeout_seconds):
                response = await self._send(http, request, headers, timeout_seconds)
                if self._may_retry_now(response):
                    await asyncio.sleep(RETRY_DELAY_SECONDS)
                    response = await self._send(http, request, headers, timeout_seconds)
                return response
        except TimeoutError:
            _logger.info("provider not reached: %s (%s)", TransportFailure.TIMEOUT.value, "whole probe")
            return TransportFailure.TIMEOUT

    def _may_retry_now(self, response: ProviderResponse | TransportFailure) -> bool:
        """After a reset or a server error, unless the provider asked for a pause."""
        if isinstance(response, TransportFailure):
            return response is TransportFailure.RESET
        if not 500 <= response.status_code < 600:  # noqa: PLR2004  # server errors
            return False
        pause = retry_after(response.headers, now=self._clock())
        return pause is None or pause.total_seconds() <= RETRY_DELAY_SECONDS

    async def _send(
        self,
        http: httpx.AsyncClient,
        request: "_ProbeRequest",
        headers: dict[str, str],
        timeout_seconds: float,
    ) -> ProviderResponse | TransportFailure:
        # The connect and the handshake each have this timeout. They must end before the total timeout does, because
        # httpcore leaves the socket of a cancelled handshake to the garbage collector.
        connect = min(CONNECT_TIMEOUT_SECONDS, timeout_seconds / 2)
        timeout = httpx.Timeout(timeout_seconds, connect=connect)
        try:
            # Do not use the client's `build_request`: it adds cookies and default headers.
            http_request = httpx.Request(
                request.method,
                request.url,
                headers={"host": host_header(request.url), **headers},
                json=request.body,
                extensions={"timeout": timeout.as_dict()},
            )
            response = await http.send(http_request, stream=True, auth=None, follow_redirects=False)
            try:
                body = await _read_body(response)
            finally:
                await response.aclose()
        except Exception as error:  # noqa: BLE001  # any library error may quote the headers, and so the key
            failure = classify(error)
            _logger.info("provider not reached: %s (%s)", failure.value, type(error).__name__)
            return failure
        return ProviderResponse.read(response.status_code, dict(response.headers), body)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ProbeRequest:
    method: str
    url: str
    body: Mapping[str, object] | None = None


def _probe_of(endpoint: ProviderEndpoint, *, is_anthropic: bool) -> Probe:
    """Choose the probe. Anthropic's model list is free; other hosts often publish theirs, so only a message is conclusive."""
    if is_anthropic:
        return Probe.MODELS
    return Probe.EMPTY_MESSAGE if endpoint.probe_model is None else Probe.MESSAGE


def _probe_request(probe: Probe, endpoint: ProviderEndpoint) -> _ProbeRequest:
    url = endpoint.messages_url
    match probe:
        case Probe.MODELS:
            return _ProbeRequest(method="GET", url=f"{url.removesuffix('/messages')}/models?limit=1")
        case Probe.MESSAGE:
            messages = [{"role": "user", "content": "Hi"}]
            body = {"model": endpoint.probe_model, "max_tokens": 1, "messages": messages}
            return _ProbeRequest(method="POST", url=url, body=body)
        case Probe.EMPTY_MESSAGE:
            return _ProbeRequest(method="POST", url=url, body={})


def _headers(key: ApiKey, endpoint: ProviderEndpoint) -> dict[str, str]:
    headers = {
        "accept": "application/json",
        "accept-encoding": "identity",
        "anthropic-version": ANTHROPIC_VERSION,
        "user-agent": USER_AGENT,
    }
    if endpoint.workspace_id is not None:
        headers["anthropic-workspace-id"] = endpoint.workspace_id
    name, value = credential_header(key, endpoint.auth_style)
    headers[name] = value
    return headers


def _is_anthropic(endpoint: ProviderEndpoint) -> bool:
    """An endpoint without a base URL is the operator's default, which counts as Anthropic."""
    return endpoint.base_url in {None, ANTHROPIC_BASE_URL}


def _result(
    decision: Decision,
    response: ProviderResponse | TransportFailure,
    key: ApiKey,
    *,
    is_anthropic: bool,
    checked_at: datetime,
) -> ValidationResult:
    request_id, wait = None, None
    if isinstance(response, ProviderResponse):
        # A gateway could leak the key piece by piece in encoded ids, so ids of gateways are not stored.
        request_id = _safe_request_id(response.request_id, key) if is_anthropic else None
        wait = retry_after(response.headers, now=checked_at)
    return ValidationResult(
        status=decision.status,
        reason=decision.reason,
        checked_at=checked_at,
        provider_request_id=request_id,
        row=decision.row,
        needs_second_probe=decision.needs_second_probe,
        retry_after=wait,
    )


async def _read_body(response: httpx.Response) -> bytes | None:
    """Read the body without decoding it. Returns `None` if it is longer than any response to a probe."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_RESPONSE_BYTES:
            return None
    return bytes(body)


def _safe_request_id(request_id: str | None, key: ApiKey) -> str | None:
    """Return the request id if it is safe to store, otherwise `None`.

    It must have the form of Anthropic's ids, which is too short for a whole key in any encoding, and must not contain
    a piece of the key.
    """
    if request_id is None or not _REQUEST_ID.fullmatch(request_id):
        return None
    secret = key.reveal()
    pieces = (secret[start : start + ECHO_LENGTH] for start in range(max(1, len(secret) - ECHO_LENGTH + 1)))
    return None if any(piece in request_id for piece in pieces) else request_id
