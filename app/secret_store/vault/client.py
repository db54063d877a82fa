"""The way to Vault: hvac builds the requests, urllib3 sends them in a few threads beside the event loop."""

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
from urllib3.exceptions import TimeoutError as TookTooLong

from app.core.tls import tls_context
from app.secret_store.vault.connections import connections
from app.secret_store.vault.responses import Answer, VaultReason

if TYPE_CHECKING:
    _Adapter: TypeAlias = Adapter[Answer]  # generic in its stubs alone
else:
    _Adapter = Adapter

# What to ask, as hvac says it: `lambda vault: vault.auth.token.lookup_self()`.
Question: TypeAlias = Callable[[hvac.Client], Any]

_WORKERS = 16
_CONNECT_SECONDS = 2.0
_READ_SECONDS = 3.0
_LARGEST_ANSWER = 1 << 20


class VaultServer:
    """One Vault address: its connections and the threads that wait for them.

    A thread that waits in vain keeps its place until the answer is overdue, so there are never more
    than `workers`. Cancelling a call gives up waiting; what was sent may still be done.

    Args:
        address: such as https://vault.example.com:8200.
        ca_file: the only roots to trust; without it the public ones.
        workers: calls at the same time.
        read_seconds: how long an answer may take, once Vault was asked.
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
        """Hvac with this token, and with nothing taken from the environment."""
        adapter = _Sender(self._connections, self._address, token, namespace)
        # An empty token keeps hvac from looking for one in VAULT_TOKEN and ~/.vault-token.
        return hvac.Client(url=self._address, token="", verify=True, adapter=lambda **_: adapter)  # type: ignore[arg-type]  # any maker of an adapter will do

    async def ask(self, client: hvac.Client, question: Question) -> Answer:
        """Never raises but for programming errors: an outage is an answer too."""
        loop = asyncio.get_running_loop()
        answer: Answer = await loop.run_in_executor(self._threads, question, client)
        return answer

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._connections.clear()


class _Sender(_Adapter):
    """hvac's adapter over urllib3. Answers are values here, so no exception of a client can carry a body."""

    # hvac's own __init__ makes a session of requests, which costs twice as much per call.
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

    def get_login_token(self, response: Answer) -> str:
        return str(response.auth.get("client_token", ""))

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        raise_exception: bool = True,  # noqa: ARG002, FBT001, FBT002  # hvac's signature
        **options: Any,
    ) -> Answer:
        query = f"?{urlencode(options['params'])}" if options.get("params") else ""
        sent = self._headers | dict(headers or {})
        if options.get("wrap_ttl"):
            sent["X-Vault-Wrap-TTL"] = options["wrap_ttl"]
        target = f"{self.base_uri}/{url.lstrip('/')}{query}"
        body = json.dumps(options["json"]).encode() if "json" in options else None
        answer = self._send(method, target, body, sent)
        # Vault may have closed the connection while it lay idle. Every call here may be repeated.
        return answer or self._send(method, target, body, sent) or Answer(0, failure=VaultReason.UNREACHABLE)

    def _send(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Answer | None:
        """None when the connection was torn."""
        try:
            response = self._connections.request(
                method.upper(), target, body=body, headers=headers, redirect=False, preload_content=False
            )
            content = response.read(_LARGEST_ANSWER + 1)
            if len(content) > _LARGEST_ANSWER:
                response.close()
                return Answer(0, failure=VaultReason.UNEXPECTED)
            response.release_conn()
        except ProtocolError:
            return None
        except (NewConnectionError, SSLError):
            return Answer(0, failure=VaultReason.UNREACHABLE)
        except TookTooLong:
            return Answer(0, failure=VaultReason.TIMEOUT)
        except (HTTPError, OSError, ValueError):
            return Answer(0, failure=VaultReason.UNREACHABLE)
        return Answer(response.status, _decoded(content))


def _decoded(content: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(content) if content else {}
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
