"""A small Vault: KV v2, transit, tokens, wrapping, AppRole. It keeps what is asked of it, and can be made to fail.

It judges no policies. Where a real server is at hand, the same tests run over both.
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

from tests.fake_vault_engines import JSON, Asked, FakeTransit, FakeVersions, Refused, answered

ROOT = "root"
_END_SECONDS = 30


@dataclass(kw_only=True)
class Token:
    """A token; a wrapping one holds what it opens to, and knows which path made it."""

    accessor: str = field(default_factory=lambda: secrets.token_hex(8))
    lease: int = 0
    renewable: bool = False
    wrapped: JSON | None = None
    created_at: str = ""


@dataclass(kw_only=True)
class Script:
    """What to answer instead, to requests whose path holds `path`."""

    path: str
    status: int
    body: Any
    left: int


class FakeVault:
    """The ASGI application and its insides."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.tokens: dict[str, Token] = {ROOT: Token()}
        self.logins: dict[str, str] = {}  # role id or role → secret id or JWT
        self.mounts: JSON = {}
        self._engines: dict[str, FakeVersions | FakeTransit] = {}
        self.auth: JSON = {}
        self.roles: JSON = {}
        self.policies: dict[str, str] = {}
        self.release = asyncio.Event()
        self._held = ""
        self.obey()

    def obey(self) -> None:
        """Forget what was asked and what was scripted."""
        self.asked.clear()
        self._scripts: list[Script] = []
        self.lease, self.renewable, self.renewed_lease = 3600, True, 3600
        self._held = ""
        self.release.set()

    def hold(self, path: str) -> None:
        """Take what is asked of paths that hold `path`, and answer once `release` is set."""
        self._held = path
        self.release.clear()

    def mount(self, path: str, body: JSON) -> None:
        self.mounts[f"{path}/"] = body
        self._engines[path] = FakeVersions() if body["type"] == "kv" else FakeTransit()

    def answer(self, path: str, status: int, body: Any = None, *, times: int = 1 << 30) -> None:
        """Answer so to paths that hold `path`, so many times."""
        body = {"errors": ["scripted"]} if body is None else body
        self._scripts.append(Script(path=path, status=status, body=body, left=times))

    def paths(self, part: str = "") -> list[str]:
        return [asked.path for asked in self.asked if part in asked.path]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        raw = await request.body()
        asked = Asked(
            method="LIST" if "list" in request.query_params else request.method,
            path=request.url.path.removeprefix("/v1/"),
            token=request.headers.get("x-vault-token"),
            namespace=request.headers.get("x-vault-namespace"),
            body=json.loads(raw) if raw else {},
            version=int(request.query_params.get("version", 0)),
            wrap_ttl=request.headers.get("x-vault-wrap-ttl"),
        )
        self.asked.append(asked)
        if self._held in asked.path:
            await self.release.wait()
        await self.respond(asked)(scope, receive, send)

    def respond(self, asked: Asked) -> Response:
        response = self._scripted(asked.path)
        if response is None:
            try:
                response = self._answer(asked)
            except Refused as refused:
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

    def _answer(self, asked: Asked) -> Response:
        head, _, rest = asked.path.partition("/")
        if head == "auth" and rest.endswith("/login"):
            return self._log_in(asked)
        if asked.path in {"sys/wrapping/lookup", "sys/wrapping/unwrap"}:
            return self._wrapping(asked)
        if asked.token not in self.tokens or self.tokens[asked.token].wrapped is not None:
            raise Refused(403, "permission denied")
        if head == "auth" and rest.startswith("token/"):
            return self._token(asked, self.tokens[asked.token])
        if head in {"sys", "auth"}:
            return self._system(asked)
        engine = self._engines.get(head)
        operation, _, rest = rest.partition("/")
        if isinstance(engine, FakeVersions):
            return engine.answer(asked, operation, rest)
        if isinstance(engine, FakeTransit):
            answer = engine.answer(asked, operation, rest.partition("/")[0])
            return self._wrap(asked, answer)
        raise Refused(404, f'no handler for route "{asked.path}". route entry not found.')

    def _log_in(self, asked: Asked) -> Response:
        name = asked.body.get("role_id") or asked.body.get("role")
        proof = asked.body.get("secret_id") or asked.body.get("jwt")
        if self.logins.get(str(name)) != proof:
            raise Refused(400, "invalid role or secret ID")
        text = f"s.{secrets.token_hex(12)}"
        self.tokens[text] = Token(lease=self.lease, renewable=self.renewable)
        auth = {"client_token": text, "lease_duration": self.lease, "renewable": self.renewable}
        return JSONResponse({"auth": auth})

    def _token(self, asked: Asked, token: Token) -> Response:
        operation = asked.path.removeprefix("auth/token/")
        if operation == "lookup-self":
            return answered(ttl=token.lease, renewable=token.renewable)
        if operation == "renew-self":
            token.lease = self.renewed_lease
            return JSONResponse({"auth": {"lease_duration": token.lease, "renewable": True}})
        for text, other in list(self.tokens.items()):
            if operation == "revoke-accessor" and other.accessor == asked.body["accessor"]:
                del self.tokens[text]
        return Response(status_code=204)

    def _system(self, asked: Asked) -> Response:
        _, _, rest = asked.path.partition("/")
        if asked.path in {"sys/mounts", "sys/auth"}:
            return JSONResponse({"data": self.mounts if rest == "mounts" else self.auth})
        _, _, name = rest.partition("/")
        if rest.startswith("mounts/"):
            self.mount(name, asked.body)
        elif rest.startswith("auth/"):
            self.auth[f"{name}/"] = asked.body
        elif rest.startswith("policies/acl/"):
            self.policies[rest.removeprefix("policies/acl/")] = asked.body["policy"]
        elif asked.method == "GET":
            return answered(role_id=_role_id(asked))
        elif name.endswith("/secret-id"):
            self.logins[_role_id(asked)] = secrets.token_hex(12)
            return answered(secret_id=self.logins[_role_id(asked)])
        else:
            self.roles[asked.path.split("/")[-1]] = asked.body
        return Response(status_code=204)

    def _wrap(self, asked: Asked, answer: JSON) -> Response:
        if not asked.wrap_ttl:
            return answered(**answer)
        text = f"s.{secrets.token_hex(12)}"
        self.tokens[text] = token = Token(wrapped=answer, created_at=asked.path)
        info = {
            "token": text,
            "accessor": token.accessor,
            "creation_path": asked.path,
            "ttl": int(asked.wrap_ttl[:-1]),
        }
        return JSONResponse({"data": None, "wrap_info": info})

    def _wrapping(self, asked: Asked) -> Response:
        """A wrapping token may be given in the body, or be what one logs in with."""
        text = str(asked.body.get("token", asked.token))
        token = self.tokens.get(text)
        if token is None or token.wrapped is None:
            raise Refused(400, "wrapping token is not valid or does not exist")
        if asked.path.endswith("/lookup"):
            return answered(creation_path=token.created_at)
        del self.tokens[text]
        return answered(**token.wrapped)


def _role_id(asked: Asked) -> str:
    """auth/approle/role/<name>/role-id, and likewise for secret ids."""
    return f"id of {asked.path.split('/')[-2]}"


@dataclass(frozen=True, kw_only=True)
class ServedVault:
    """A fake that listens."""

    address: str
    fake: FakeVault


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ctrl-C is the test run's."""
        yield


@asynccontextmanager
async def serve(*, certificate: Path | None = None) -> AsyncIterator[ServedVault]:
    """Serve a new fake on loopback; over TLS if given a PEM file of private key and chain."""
    fake = FakeVault()
    listener = socket.create_server(("127.0.0.1", 0))
    # asyncio leaves a socket of protocol 0 as it is, and every answer would wait 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = uvicorn.Config(
        fake, log_config=None, lifespan="off", ssl_certfile=certificate, timeout_graceful_shutdown=1
    )
    server = _Server(config)
    # Connections wait in the listener's queue until the server is up: there is nothing to wait for here.
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        scheme = "http" if certificate is None else "https"
        yield ServedVault(address=f"{scheme}://127.0.0.1:{listener.getsockname()[1]}", fake=fake)
    finally:
        fake.release.set()
        server.should_exit = True
        async with asyncio.timeout(_END_SECONDS):
            await serving
