"""A fake Vault: KV v2, transit, tokens, wrapping, AppRole. It records the requests, and can be made to fail.

It does not apply policies. If a real server is available, the same tests run over both.
"""

import asyncio
import json
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from tests.support.vault.fake_engines import (
    JSON,
    ErrorResponse,
    FakeKvEngine,
    FakeTransitEngine,
    ReceivedRequest,
    data_response,
)

ROOT = "root"
_END_SECONDS = 30


@dataclass(kw_only=True)
class Token:
    """A token. A wrapping token also has its content and the path that created it."""

    accessor: str = field(default_factory=lambda: secrets.token_hex(8))
    lease: int = 0
    renewable: bool = False
    wrapped: JSON | None = None
    created_at: str = ""


@dataclass(kw_only=True)
class ScriptedResponse:
    """A response for requests whose path contains `path`, in place of the real one."""

    path: str
    status: int
    body: Any
    left: int


class FakeVault:
    """The ASGI application and its state."""

    def __init__(self) -> None:
        self.received: list[ReceivedRequest] = []
        self.tokens: dict[str, Token] = {ROOT: Token()}
        self.logins: dict[str, str] = {}  # role id or role → secret id or JWT
        self.mounts: JSON = {}
        self._engines: dict[str, FakeKvEngine | FakeTransitEngine] = {}
        self.auth: JSON = {}
        self.roles: JSON = {}
        self.policies: dict[str, str] = {}
        self.unblocked = asyncio.Event()
        self._blocked_path = ""
        self.reset()

    def reset(self) -> None:
        """Forget the recorded requests and the scripted responses."""
        self.received.clear()
        self._scripts: list[ScriptedResponse] = []
        self.lease, self.renewable, self.renewed_lease = 3600, True, 3600
        self._blocked_path = ""
        self.unblocked.set()

    def block(self, path: str) -> None:
        """Receive requests whose path contains `path`, and respond once `unblocked` is set."""
        self._blocked_path = path
        self.unblocked.clear()

    def mount(self, path: str, body: JSON) -> None:
        self.mounts[f"{path}/"] = body
        self._engines[path] = FakeKvEngine() if body["type"] == "kv" else FakeTransitEngine()

    def script_response(self, path: str, status: int, body: Any = None, *, times: int = 1 << 30) -> None:
        """Respond with this to the next `times` requests whose path contains `path`."""
        body = {"errors": ["scripted"]} if body is None else body
        self._scripts.append(ScriptedResponse(path=path, status=status, body=body, left=times))

    def requested_paths(self, fragment: str = "") -> list[str]:
        return [received.path for received in self.received if fragment in received.path]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        raw = await request.body()
        received = ReceivedRequest(
            method="LIST" if "list" in request.query_params else request.method,
            path=request.url.path.removeprefix("/v1/"),
            token=request.headers.get("x-vault-token"),
            namespace=request.headers.get("x-vault-namespace"),
            body=json.loads(raw) if raw else {},
            version=int(request.query_params.get("version", 0)),
            wrap_ttl=request.headers.get("x-vault-wrap-ttl"),
        )
        self.received.append(received)
        if self._blocked_path in received.path:
            await self.unblocked.wait()
        await self.respond(received)(scope, receive, send)

    def respond(self, received: ReceivedRequest) -> Response:
        response = self._scripted(received.path)
        if response is None:
            try:
                response = self._respond(received)
            except ErrorResponse as refused:
                response = refused.response
        return response

    def _scripted(self, path: str) -> Response | None:
        for script in self._scripts:
            if script.path in path and script.left:
                script.left -= 1
                if isinstance(script.body, bytes):
                    return Response(script.body, script.status)
                return JSONResponse(script.body, script.status)
        return None

    def _respond(self, received: ReceivedRequest) -> Response:
        head, _, rest = received.path.partition("/")
        if head == "auth" and rest.endswith("/login"):
            return self._log_in(received)
        if received.path in {"sys/wrapping/lookup", "sys/wrapping/unwrap"}:
            return self._wrapping(received)
        if received.token not in self.tokens or self.tokens[received.token].wrapped is not None:
            raise ErrorResponse(403, "permission denied")
        if head == "auth" and rest.startswith("token/"):
            return self._token(received, self.tokens[received.token])
        if head in {"sys", "auth"}:
            return self._system(received)
        engine = self._engines.get(head)
        operation, _, rest = rest.partition("/")
        if isinstance(engine, FakeKvEngine):
            return engine.respond(received, operation, rest)
        if isinstance(engine, FakeTransitEngine):
            response = engine.respond(received, operation, rest.partition("/")[0])
            return self._wrap(received, response)
        raise ErrorResponse(404, f'no handler for route "{received.path}". route entry not found.')

    def _log_in(self, received: ReceivedRequest) -> Response:
        name = received.body.get("role_id") or received.body.get("role")
        proof = received.body.get("secret_id") or received.body.get("jwt")
        if self.logins.get(str(name)) != proof:
            raise ErrorResponse(400, "invalid role or secret ID")
        text = f"s.{secrets.token_hex(12)}"
        self.tokens[text] = Token(lease=self.lease, renewable=self.renewable)
        auth = {"client_token": text, "lease_duration": self.lease, "renewable": self.renewable}
        return JSONResponse({"auth": auth})

    def _token(self, received: ReceivedRequest, token: Token) -> Response:
        operation = received.path.removeprefix("auth/token/")
        if operation == "lookup-self":
            return data_response(ttl=token.lease, renewable=token.renewable)
        if operation == "renew-self":
            token.lease = self.renewed_lease
            return JSONResponse({"auth": {"lease_duration": token.lease, "renewable": True}})
        for text, other in list(self.tokens.items()):
            if operation == "revoke-accessor" and other.accessor == received.body["accessor"]:
                del self.tokens[text]
        return Response(status_code=204)

    def _system(self, received: ReceivedRequest) -> Response:
        _, _, rest = received.path.partition("/")
        if received.path in {"sys/mounts", "sys/auth"}:
            return JSONResponse({"data": self.mounts if rest == "mounts" else self.auth})
        _, _, name = rest.partition("/")
        if rest.startswith("mounts/"):
            self.mount(name, received.body)
        elif rest.startswith("auth/"):
            self.auth[f"{name}/"] = received.body
        elif rest.startswith("policies/acl/") and received.method == "GET":
            text = self.policies.get(rest.removeprefix("policies/acl/"))
            if text is None:
                raise ErrorResponse(404, "no such policy")
            return data_response(policy=text)
        elif rest.startswith("policies/acl/"):
            self.policies[rest.removeprefix("policies/acl/")] = received.body["policy"]
        elif received.method == "GET":
            return data_response(role_id=_role_id(received))
        elif name.endswith("/secret-id"):
            self.logins[_role_id(received)] = secrets.token_hex(12)
            return data_response(secret_id=self.logins[_role_id(received)])
        else:
            self.roles[received.path.split("/")[-1]] = received.body
        return Response(status_code=204)

    def _wrap(self, received: ReceivedRequest, response: JSON) -> Response:
        if not received.wrap_ttl:
            return data_response(**response)
        text = f"s.{secrets.token_hex(12)}"
        self.tokens[text] = token = Token(wrapped=response, created_at=received.path)
        info = {
            "token": text,
            "accessor": token.accessor,
            "creation_path": received.path,
            "ttl": int(received.wrap_ttl[:-1]),
        }
        return JSONResponse({"data": None, "wrap_info": info})

    def _wrapping(self, received: ReceivedRequest) -> Response:
        """The wrapping token is in the body, or in the token header."""
        text = str(received.body.get("token", received.token))
        token = self.tokens.get(text)
        if token is None or token.wrapped is None:
            raise ErrorResponse(400, "wrapping token is not valid or does not exist")
        if received.path.endswith("/lookup"):
            return data_response(creation_path=token.created_at)
        del self.tokens[text]
        return data_response(**token.wrapped)


def _role_id(received: ReceivedRequest) -> str:
    """The role id for auth/approle/role/<name>/role-id and .../secret-id."""
    return f"id of {received.path.split('/')[-2]}"


@dataclass(frozen=True, kw_only=True)
class ServedVault:
    """A fake that listens on an address."""

    address: str
    fake: FakeVault


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave Ctrl-C to the test run."""
        yield


@asynccontextmanager
async def serve(*, certificate: Path | None = None) -> AsyncIterator[ServedVault]:
    """Serve a new fake on loopback, over TLS if `certificate` is a PEM file of private key and chain."""
    fake = FakeVault()
    listener = socket.create_server(("127.0.0.1", 0))
    # asyncio sets TCP_NODELAY only if the protocol is not 0. Without it, every response waits 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = uvicorn.Config(
        fake, log_config=None, lifespan="off", ssl_certfile=certificate, timeout_graceful_shutdown=1
    )
    server = _Server(config)
    # Connections wait in the listener's queue until the server runs, so waiting here is not needed.
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        scheme = "http" if certificate is None else "https"
        yield ServedVault(address=f"{scheme}://127.0.0.1:{listener.getsockname()[1]}", fake=fake)
    finally:
        fake.unblocked.set()
        server.should_exit = True
        async with asyncio.timeout(_END_SECONDS):
            await serving
