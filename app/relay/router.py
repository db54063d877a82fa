"""The paths of the relay, and the order of the steps before a request is sent on. Plain ASGI: no body is parsed twice.

The middleware of the API does not apply here: errors have Anthropic's shape, bodies may have 32 MiB, and no browser may
call the relay.
"""

import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias
from urllib.parse import unquote

import structlog

from app.auth.authenticator import Authenticator, TokenRefused
from app.auth.principal import Caller, Principal
from app.core.clock import new_id
from app.core.errors import ByokError
from app.core.services import Services
from app.observability.metrics import RELAY_REQUESTS, RELAY_SECONDS
from app.relay.call import Call
from app.relay.client import Client
from app.relay.errors import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    RelayError,
    error_body,
    error_headers,
)
from app.relay.forwarding import Incoming
from app.relay.intake.access import authenticate, endpoint_of, require_model, require_relay
from app.relay.intake.body_reader import ClientLeft, read_body
from app.relay.intake.capacity import BodyBudget
from app.relay.intake.domain_errors import relay_error
from app.relay.intake.request_headers import dimensions_of, is_storable
from app.relay.records import CallRequest, Message, Operation, Receive, Send
from app.relay.request_body import read_count_request, read_message_request
from app.relay.service import Relay
from app.relay.small_request import SmallRequest

PREFIX: Final = "/relay/anthropic"
_UNDER: Final = "/relay/"
_PATHS: Final = {
    "/v1/messages": (Operation.MESSAGES, "POST"),
    "/v1/messages/count_tokens": (Operation.COUNT_TOKENS, "POST"),
    "/v1/models": (Operation.MODELS, "GET"),
}
# `.` and `..` would be another path at the provider.
_MODEL_PATH: Final = re.compile(r"/v1/models/(?!\.\.?\Z)([A-Za-z0-9._:@-]{1,128})")
_VERSION: Final = "/v1"
_FORWARDED_PARAMETERS: Final = frozenset({"beta", "limit", "after_id", "before_id", "lifecycle[]"})

_App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

log = structlog.get_logger("byok.relay")


class RelayPaths:
    """Middleware that serves every path under `/relay/` and passes on all others.

    Args:
        app: serves the others.
        services: has the relay and the authenticator; called once for each request.
    """

    def __init__(self, app: _App, services: Callable[[], Services]) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_UNDER):
            await self._app(scope, receive, send)
            return
        services = self._services()
        await _Request(services[Relay], services[Authenticator], scope, receive, send).serve()


@dataclass(frozen=True, slots=True)
class _Route:
    """The template of the path, for the access log. `model` is the id in a model's path."""

    path: str
    operation: Operation
    model: str | None = None


class _Request:
    """One request to the relay."""

    def __init__(
        self, relay: Relay, authenticator: Authenticator, scope: Message, receive: Receive, send: Send
    ) -> None:
        self._relay = relay
        self._authenticator = authenticator
        self._scope = scope
        self._receive = receive
        self._client = Client(scope, receive, send, unread_seconds=relay.services.limits.unread_seconds)
        self._route: _Route | None = None
        self._served: Call | SmallRequest | None = None
        self._is_stream = False

    async def serve(self) -> None:
        """Serve the request. Every error becomes a response in Anthropic's shape, as long as none has begun."""
        started = time.perf_counter()
        try:
            await self._relay.services.begin_budget.wait()
            await self._serve()
        except ClientLeft:
            pass
        except RelayError as error:
            await self._refuse(error)
        except ByokError as error:
            if isinstance(error, TokenRefused):
                log.info("token_refused", reason=error.reason)
            await self._refuse(relay_error(error))
        except Exception:
            if not self._client.has_head:
                await self._refuse(RelayError(INTERNAL_ERROR))
            raise
        finally:
            self._count(time.perf_counter() - started)

    async def _serve(self) -> None:
        """The order of the steps is that of docs/explanation/relay.md."""
        principal = await authenticate(self._authenticator, self._scope["headers"])
        self._scope["state"]["principal"] = principal
        structlog.contextvars.bind_contextvars(organization_id=principal.organization_id)
        require_relay(principal)
        route = self._route = self._scope["route"] = _route_of(self._scope)
        services = self._relay.services
        with services.capacity.slot(principal.organization_id):
            budget = BodyBudget(services.capacity, services.limits, principal.organization_id)
            try:
                incoming = await self._read(budget)
                await self._relay_request(principal, route, incoming)
            finally:
                budget.release()

    async def _read(self, budget: BodyBudget) -> Incoming:
        scope = self._scope
        body = None
        if scope["method"] == "POST":
            body = await read_body(self._receive, scope["headers"], budget, self._relay.services.limits)
        return Incoming(
            method=scope["method"],
            path=_relative_path(scope),
            query=_forwarded_query(scope["query_string"]),
            headers=scope["headers"],
            body=body,
            budget=budget,
        )

    async def _relay_request(self, principal: Principal, route: _Route, incoming: Incoming) -> None:
        caller = Caller(
            subject=principal.subject,
            organization_id=principal.organization_id,
            request_id=self._scope["state"]["request_id"],
        )
        if route.operation is Operation.MESSAGES:
            request = await _call_request(principal, incoming)
            self._is_stream = request.is_stream
            call = self._served = Call(self._relay.services, self._client, caller, incoming)
            with self._relay.in_progress(call):
                await call.run(request)
            return
        model = route.model
        if route.operation is Operation.COUNT_TOKENS:
            model = (await read_count_request(incoming.body or b"")).model
        if model is not None:
            require_model(principal, model)
        small = self._served = SmallRequest(self._relay.services, self._client, caller, incoming)
        with self._relay.in_progress(small):
            await small.run()

    async def _refuse(self, error: RelayError) -> None:
        request_id = self._scope["state"]["request_id"]
        body = error_body(error, request_id)
        headers = [
            *error_headers(error, request_id),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        if self._served is not None:
            self._served.is_from_provider = False
        await self._client.start(error.kind.status, headers)
        await self._client.finish(body)

    def _count(self, seconds: float) -> None:
        served = self._served
        is_from_provider = served is not None and served.is_from_provider
        RELAY_SECONDS.labels("total").observe(seconds)
        RELAY_REQUESTS.labels(
            "unknown" if self._route is None else self._route.operation,
            "unknown" if served is None or served.mode is None else served.mode,
            str(self._is_stream).lower(),
            str(self._client.status),
            "provider" if is_from_provider else "relay",
        ).inc()


def _route_of(scope: Message) -> _Route:
    """Find the operation.

    Raises:
        RelayError: the relay does not serve this path, or not with this method.
    """
    path = _raw_path(scope)
    relative = path.removeprefix(PREFIX) if path.startswith(f"{PREFIX}/") else ""
    found = _PATHS.get(relative)
    if found is not None:
        route, method = _Route(f"{PREFIX}{relative}", found[0]), found[1]
    else:
        match = _MODEL_PATH.fullmatch(relative)
        if match is None:
            raise RelayError(NOT_FOUND)
        route, method = _Route(f"{PREFIX}/v1/models/{{model_id}}", Operation.MODELS, match[1]), "GET"
    if scope["method"] != method:
        raise RelayError(METHOD_NOT_ALLOWED, allow=method)
    return route


def _raw_path(scope: Message) -> str:
    """The path as it was sent: an encoded character never becomes a separator."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.partition(b"?")[0].decode("latin-1")


def _relative_path(scope: Message) -> str:
    """The path below the version, to append to the base of a provider's messages URL."""
    return _raw_path(scope).removeprefix(PREFIX).removeprefix(_VERSION)


def _forwarded_query(query: bytes) -> str:
    """The parameters that the provider may get, as they were sent."""
    parts = query.decode("latin-1").split("&")
    return "&".join(part for part in parts if unquote(part.partition("=")[0]) in _FORWARDED_PARAMETERS)


async def _call_request(principal: Principal, incoming: Incoming) -> CallRequest:
    """What the body and the headers ask for.

    Raises:
        RelayError
    """
    summary = await read_message_request(incoming.body or b"")
    if not is_storable(summary.model):
        raise RelayError(INVALID_REQUEST, message="model: Input should be the id of a model")
    require_model(principal, summary.model)
    dimensions = dimensions_of(incoming.headers)
    return CallRequest(
        id=new_id(),
        subject=principal.subject,
        model=summary.model,
        max_tokens=summary.max_tokens,
        input_tokens=summary.input_tokens,
        is_stream=summary.is_stream,
        dimensions=replace(dimensions, endpoint_id=endpoint_of(principal, dimensions.endpoint_id)),
    )
