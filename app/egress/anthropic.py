"""What we ask of the provider, and its answers in our words.

The provider's prose ends here: nothing of it is returned, logged or raised, and neither is the key.
"""

import asyncio
import json
import logging
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeAlias

import httpx

from app.core.api_key import ApiKey
from app.core.clock import now
from app.credentials.verdicts import Reason, Verdict, status_of
from app.egress.exceptions import AnswerTooLarge, DestinationRefused, NameUnavailable
from app.provider_url.endpoint import AuthStyle, ProviderEndpoint
from app.validation.decision_table import (
    DEFAULT_PATTERNS,
    TRANSPORT_ROWS,
    MessagePatterns,
    Probe,
    ProviderAnswer,
    TransportFailure,
    judge,
)

ANTHROPIC_BASE_URL = "https://api.anthropic.com"
ANTHROPIC_VERSION = "2023-06-01"
USER_AGENT = "pharaoh-byok"

TIMEOUT_SECONDS = 15.0
CONNECT_TIMEOUT_SECONDS = 5.0
PAUSE_BEFORE_RETRY_SECONDS = 0.2
MAX_ANSWER_BYTES = 64 * 1024

# Real ids never share so much with a key; one that does is an echo.
ECHO_LENGTH = 8

_CREDENTIAL_HEADERS = {
    AuthStyle.X_API_KEY: ("x-api-key", ""),
    AuthStyle.BEARER: ("authorization", "Bearer "),
}
_REQUEST_ID = re.compile(r"req_[A-Za-z0-9_-]{1,64}")
_logger = logging.getLogger(__name__)

# What came back, and the provider's id of the request as it was given: not yet fit to be shown.
_Outcome: TypeAlias = tuple[ProviderAnswer | TransportFailure, str | None]

# A peer that hangs up, and the steps of a handshake, are SSLErrors too but say nothing about certificates.
_HUNG_UP = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
_NO_TLS_FAULT = (ssl.SSLWantReadError, ssl.SSLWantWriteError, *_HUNG_UP)
_BROKEN = (
    httpx.ReadError,
    httpx.WriteError,
    httpx.RemoteProtocolError,
    ConnectionResetError,
    BrokenPipeError,
)

# First match wins, and our own network's words go first: it says more than what it met underneath.
_FAILURES: tuple[tuple[TransportFailure, tuple[type[BaseException], ...]], ...] = (
    (TransportFailure.ADDRESS_REFUSED, (DestinationRefused,)),
    (TransportFailure.DNS, (NameUnavailable,)),
    (TransportFailure.UNREACHABLE, (AnswerTooLarge,)),
    (TransportFailure.TIMEOUT, (httpx.TimeoutException, TimeoutError)),
    (TransportFailure.TLS, (ssl.SSLError,)),
    (TransportFailure.RESET, (*_BROKEN, *_HUNG_UP)),
)


class AnthropicClient:
    """Asks the provider whether a key works.

    Args:
        http: reaches the operator's default endpoint; follows no redirects and trusts no environment.
        default_messages_url: that endpoint, as it is set now: keys saved without a base URL go there.
        custom_http: reaches destinations that customers entered, through the vetted transport.
        patterns: the provider's prose that carries meaning.
        timeout_seconds: for a whole probe, its repetition included.
        clock: what time it is.
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
        # At INFO and below these log the status line and headers of answers, and a provider may echo the key there.
        for library in ("httpx", "httpcore"):
            logging.getLogger(library).setLevel(logging.WARNING)

    async def probe(
        self,
        key: ApiKey,
        destination: ProviderEndpoint,
        *,
        previously_valid: bool,
        timeout_seconds: float | None = None,
    ) -> Verdict:
        """Check the key with the cheapest request that tells. Whatever happens on the way is a verdict.

        `timeout_seconds` can only shorten what the client allows.
        """
        http = self._custom_http
        if destination.base_url is None:
            http = self._http
            destination = replace(
                destination, messages_url=self._default_messages_url or destination.messages_url
            )
        is_anthropic = _is_anthropic(destination)
        probe = _probe_of(destination, is_anthropic=is_anthropic)
        answer, request_id = await self._ask(
            http,
            _question(probe, destination),
            _headers(key, destination),
            min(timeout_seconds or self._timeout_seconds, self._timeout_seconds),
        )
        reason = judge(
            answer,
            probe=probe,
            is_anthropic=is_anthropic,
            previously_valid=previously_valid,
            patterns=self._patterns,
        )
        return Verdict(
            status=status_of(reason),
            reason=reason,
            checked_at=self._clock(),
            # A gateway could hand out the key by and by, encoded: none of its ids is kept.
            provider_request_id=_presentable(request_id, key) if is_anthropic else None,
        )

    async def reachable(self, base_url: str, *, timeout_seconds: float = 5.0) -> Reason | None:
        """None if the host answers a request without a key, whatever the answer; otherwise why not."""
        question = _Question(method="GET", url=base_url)
        answer, _ = await self._ask(self._http, question, {}, timeout_seconds)
        return TRANSPORT_ROWS[answer] if isinstance(answer, TransportFailure) else None

    async def _ask(
        self, http: httpx.AsyncClient, question: "_Question", headers: dict[str, str], timeout_seconds: float
    ) -> _Outcome:
        """The answer within the deadline, after one repetition if the first attempt met a passing trouble."""
        try:
            async with asyncio.timeout(timeout_seconds):
                outcome = await self._attempt(http, question, headers, timeout_seconds)
                if _is_passing(outcome[0]):
                    await asyncio.sleep(PAUSE_BEFORE_RETRY_SECONDS)
                    outcome = await self._attempt(http, question, headers, timeout_seconds)
                return outcome
        except TimeoutError:
            return TransportFailure.TIMEOUT, None

    async def _attempt(
        self, http: httpx.AsyncClient, question: "_Question", headers: dict[str, str], timeout_seconds: float
    ) -> _Outcome:
        # Connecting and the handshake each have this long, and must give up before the deadline strikes:
        # httpcore leaves the socket of a cancelled handshake to the garbage collector.
        connect = min(CONNECT_TIMEOUT_SECONDS, timeout_seconds / 2)
        timeout = httpx.Timeout(timeout_seconds, connect=connect)
        try:
            # Not the client's build_request: that would add cookies and default headers.
            request = httpx.Request(
                question.method,
                question.url,
                headers=headers,
                json=question.body,
                extensions={"timeout": timeout.as_dict()},
            )
            response = await http.send(request, stream=True, auth=None, follow_redirects=False)
            try:
                body = _parsed(await _read(response))
            finally:
                await response.aclose()
        except Exception as error:  # noqa: BLE001  # any library error may quote the headers, and so the key
            failure = _classify(error)
            _logger.info("provider not reached: %s (%s)", failure.value, type(error).__name__)
            return failure, None
        answer = ProviderAnswer(status_code=response.status_code, body=body)
        return answer, response.headers.get("request-id") or _request_id_in(body)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    method: str
    url: str
    body: Mapping[str, object] | None = None


def _probe_of(destination: ProviderEndpoint, *, is_anthropic: bool) -> Probe:
    """Anthropic tells for nothing. Elsewhere lists of models are often public, so only messages tell."""
    if is_anthropic:
        return Probe.MODELS
    return Probe.EMPTY_MESSAGE if destination.probe_model is None else Probe.MESSAGE


def _question(probe: Probe, destination: ProviderEndpoint) -> _Question:
    url = destination.messages_url
    match probe:
        case Probe.MODELS:
            return _Question(method="GET", url=f"{url.removesuffix('/messages')}/models?limit=1")
        case Probe.MESSAGE:
            messages = [{"role": "user", "content": "Hi"}]
            body = {"model": destination.probe_model, "max_tokens": 1, "messages": messages}
            return _Question(method="POST", url=url, body=body)
        case Probe.EMPTY_MESSAGE:
            return _Question(method="POST", url=url, body={})


def _headers(key: ApiKey, destination: ProviderEndpoint) -> dict[str, str]:
    headers = {
        "accept": "application/json",
        "accept-encoding": "identity",
        "anthropic-version": ANTHROPIC_VERSION,
        "user-agent": USER_AGENT,
    }
    if destination.workspace_id is not None:
        headers["anthropic-workspace-id"] = destination.workspace_id
    name, scheme = _CREDENTIAL_HEADERS[destination.auth_style]
    headers[name] = scheme + key.reveal()
    return headers


def _is_anthropic(destination: ProviderEndpoint) -> bool:
    """Without a base URL the destination is the operator's default, which counts as Anthropic."""
    return destination.base_url in {None, ANTHROPIC_BASE_URL}


def _is_passing(answer: ProviderAnswer | TransportFailure) -> bool:
    if isinstance(answer, TransportFailure):
        return answer is TransportFailure.RESET
    return 500 <= answer.status_code < 600  # noqa: PLR2004  # server errors


async def _read(response: httpx.Response) -> bytes | None:
    """The body as it came, or None if it is longer than any answer to a probe."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            return None
    return bytes(body)


def _parsed(body: bytes | None) -> object:
    try:
        return json.loads(body or b"")
    except (ValueError, RecursionError):
        return None


def _request_id_in(body: object) -> str | None:
    found = body.get("request_id") if isinstance(body, dict) else None
    return found if isinstance(found, str) else None


def _presentable(request_id: str | None, key: ApiKey) -> str | None:
    """The id if it has the form of Anthropic's, which is too short for a whole key however encoded, and echoes no piece."""
    if request_id is None or not _REQUEST_ID.fullmatch(request_id):
        return None
    secret = key.reveal()
    pieces = (secret[start : start + ECHO_LENGTH] for start in range(max(1, len(secret) - ECHO_LENGTH + 1)))
    return None if any(piece in request_id for piece in pieces) else request_id


def _classify(error: BaseException) -> TransportFailure:
    """Why there is no answer. httpx has no class for TLS failures: the cause is down the chain."""
    chain = tuple(_chain(error))
    for failure, kinds in _FAILURES:
        harmless = _NO_TLS_FAULT if failure is TransportFailure.TLS else ()
        if any(isinstance(link, kinds) and not isinstance(link, harmless) for link in chain):
            return failure
    return TransportFailure.UNREACHABLE


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__
