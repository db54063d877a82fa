"""Sends requests to Vault: hvac builds them, urllib3 sends them in a few threads beside the event loop."""

import asyncio
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlencode

import hvac
import urllib3
from hvac.adapters import Adapter
from urllib3.exceptions import HTTPError, NewConnectionError, ProtocolError, SSLError
from urllib3.exceptions import TimeoutError as RequestTimedOut

from app.core.tls import tls_context
from app.secret_store.vault.connections import connections
from app.secret_store.vault.responses import VaultReason, VaultResponse

if TYPE_CHECKING:
    _Adapter: TypeAlias = Adapter[VaultResponse]  # generic only in its stubs
else:
    _Adapter = Adapter

# A request as a call of hvac: `lambda vault: vault.auth.token.lookup_self()`.
VaultRequest: TypeAlias = Callable[[hvac.Client], Any]

_WORKERS = 16
_CONNECT_SECONDS = 2.0
_READ_SECONDS = 3.0
_MAX_RESPONSE_BYTES = 1 << 20


class VaultServer:
    """One Vault address: its connections and the threads that wait for them.

    A waiting thread stays occupied until its request times out, so at most `workers` requests run at
    the same time. Cancelling a call only stops the waiting: Vault may still execute the request.

    Args:
        address: such as https://vault.example.com:8200.
        ca_file: the only trusted roots. Without it, the public ones.
        workers: the number of concurrent requests.
        read_seconds: how long Vault may take to respond, once the request was sent.
    """

    def __init__(
        self,
        address: str,
        *,
        ca_file: Path | None = None,
        workers: int = _WORKERS,
        read_seconds: float = _READ_SECONDS,
    ) -> None:
        self._address = address.rstrip("/")
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="vault")
        is_secure = self._address.startswith("https:")
        self._connections = connections(
            maxsize=workers,
            retries=False,
            ssl_context=tls_context(ca_file, with_public_roots=ca_file is None) if is_secure else None,
            timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=read_seconds),
        )

    def client(self, *, token: str, namespace: str | None) -> hvac.Client:
        """An hvac client with this token. It reads no environment variables."""
        adapter = _Sender(self._connections, self._address, token, namespace)
        # An empty token keeps hvac from reading VAULT_TOKEN and ~/.vault-token.
        return hvac.Client(url=self._address, token="", verify=True, adapter=lambda **_: adapter)  # type: ignore[arg-type]  # any factory of an adapter will do

    async def send(self, client: hvac.Client, request: VaultRequest) -> VaultResponse:
        """Send the request. An outage is returned as a response: only programming errors raise."""
        loop = asyncio.get_running_loop()
        response: VaultResponse = await loop.run_in_executor(self._threads, request, client)
        return response

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._connections.clear()


class _Sender(_Adapter):
    """hvac's adapter over urllib3. It returns every failure as a value, so no exception can carry a body."""

    # hvac's own __init__ creates a session of requests, which costs twice as much per call.
    def __init__(
        self, connections: urllib3.PoolManager, address: str, token: str, namespace: str | None
    ) -> None:
        self._connections = connections
        self.base_uri = address
        self.token = token
        self.namespace = namespace
        self._headers = {"X-Vault-Request": "true", "Content-Type": "application/json"}
        if token:
            self._headers["X-Vault-Token"] = token
        if namespace:
            self._headers["X-Vault-Namespace"] = namespace

    def get_login_token(self, response: VaultResponse) -> str:
        return str(response.auth.get("client_token", ""))

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        raise_exception: bool = True,  # noqa: ARG002, FBT001, FBT002  # hvac's signature
        **options: Any,
    ) -> VaultResponse:
        query = f"?{urlencode(options['params'])}" if options.get("params") else ""
        all_headers = self._headers | dict(headers or {})
        if options.get("wrap_ttl"):
            all_headers["X-Vault-Wrap-TTL"] = options["wrap_ttl"]
        target = f"{self.base_uri}/{url.lstrip('/')}{query}"
        body = json.dumps(options["json"]).encode() if "json" in options else None
        response = self._send(method, target, body, all_headers)
        # Vault may have closed the idle connection. Every request of this store may be repeated.
        return (
            response
            or self._send(method, target, body, all_headers)
            or VaultResponse(0, failure=VaultReason.UNREACHABLE)
        )

    def _send(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]
    ) -> VaultResponse | None:
        """Send the request once. Returns None if the connection broke."""
        try:
            response = self._connections.request(
                method.upper(), target, body=body, headers=headers, redirect=False, preload_content=False
            )
            content = response.read(_MAX_RESPONSE_BYTES + 1)
            if len(content) > _MAX_RESPONSE_BYTES:
                response.close()
                return VaultResponse(0, failure=VaultReason.UNEXPECTED)
            response.release_conn()
        except ProtocolError:
            return None
        except (NewConnectionError, SSLError):
            return VaultResponse(0, failure=VaultReason.UNREACHABLE)
        except RequestTimedOut:
            return VaultResponse(0, failure=VaultReason.TIMEOUT)
        except (HTTPError, OSError, ValueError):
            return VaultResponse(0, failure=VaultReason.UNREACHABLE)
        return VaultResponse(response.status, _decoded(content))


def _decoded(content: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(content) if content else {}
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
