"""Scripted servers on loopback that are reached under public-looking addresses."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, TypeAlias

import httpcore
import httpx
import trustme

from app.core.tls import tls_context
from app.core.url_errors import DnsUnavailable
from app.egress.resolver import AddressGuard
from app.egress.transport import EgressLimits, pinned_transport

HOST = "gw.example.com"
URL = f"https://{HOST}/v1/messages"
ADDRESS = "160.79.104.10"
OTHER_ADDRESS = "160.79.104.11"

AUTHORITY = trustme.CA()

Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter
Script: TypeAlias = Callable[[Reader, Writer], Awaitable[None]]


def http_response(body: bytes = b"{}", *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class ScriptedServer:
    """Records requests and runs the script for each of them."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.port = 0
        self.connections = 0
        self.server_names: list[str | None] = []
        self.requests: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._sockets: list[Any] = []

    async def open_sockets(self) -> int:
        return sum(socket.fileno() >= 0 for socket in self._sockets)

    async def serve(self, reader: Reader, writer: Writer) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self._sockets.append(writer.get_extra_info("socket"))
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head.decode())
                await self._script(reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass  # the client closed the connection
        finally:
            writer.transport.abort()

    async def close_connections(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def record_server_name(self, _tls: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        self.server_names.append(name)


def respond_always(data: bytes) -> Script:
    async def script(_reader: Reader, writer: Writer) -> None:
        writer.write(data)

    return script


def respond_forever(*pieces: bytes) -> Script:
    """Send the first pieces once, and the last one repeatedly until the client disconnects."""

    async def script(_reader: Reader, writer: Writer) -> None:
        writer.write(b"".join(pieces[:-1]))
        while True:
            writer.write(pieces[-1])
            await writer.drain()

    return script


async def never_respond(_reader: Reader, _writer: Writer) -> None:
    await asyncio.Event().wait()


def certificate(*names: str, authority: trustme.CA = AUTHORITY) -> trustme.LeafCert:
    return authority.issue_cert(*names)


@asynccontextmanager
async def scripted_server(
    script: Script, cert: trustme.LeafCert | None = None, *, tls: bool = True
) -> AsyncIterator[ScriptedServer]:
    server = ScriptedServer(script)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if tls else None
    if context is not None:
        (cert or certificate(HOST)).configure_cert(context)
        context.sni_callback = server.record_server_name
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await server.close_connections()
        await listener.wait_closed()


class FixedResolver:
    """Resolves by a table. Several responses are returned one after the other; None means a failed lookup."""

    def __init__(self, **hosts: Iterable[Sequence[str] | None]) -> None:
        self._responses = {host.replace("_", "."): list(responses) for host, responses in hosts.items()}
        self.queries: list[str] = []
        self.blocked: dict[str, asyncio.Event] = {}

    async def addresses(self, host: str) -> Sequence[str]:
        """Return immediately, or after the event of the host in `blocked` is set."""
        self.queries.append(host)
        if host in self.blocked:
            await self.blocked[host].wait()
        responses = self._responses.get(host) or [()]
        found = responses.pop(0) if len(responses) > 1 else responses[0]
        if found is None:
            raise DnsUnavailable
        return found


class LoopbackBackend(httpcore.AsyncNetworkBackend):
    """Connects to loopback ports instead of addresses. Unknown addresses refuse; None drops packets."""

    def __init__(self, ports: dict[str, int | None]) -> None:
        self._ports = ports
        self._inner = httpcore.AnyIOBackend()
        self.connected_hosts: list[str] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        assert port == 443
        self.connected_hosts.append(host)
        if host not in self._ports:
            raise httpcore.ConnectError("refused")
        loopback_port = self._ports[host]
        if loopback_port is None:
            try:
                async with asyncio.timeout(timeout):
                    await asyncio.Event().wait()
            except TimeoutError:
                raise httpcore.ConnectTimeout from None
        assert loopback_port is not None
        return await self._inner.connect_tcp(
            "127.0.0.1", loopback_port, timeout, local_address, socket_options
        )


@cache
def trusting_context(authority: trustme.CA = AUTHORITY) -> ssl.SSLContext:
    """A context of the service that also trusts this authority; shared, because reading the public roots is slow."""
    context = tls_context()
    authority.configure_trust(context)
    return context


def client(
    resolver: FixedResolver,
    backend: LoopbackBackend,
    *,
    limits: EgressLimits | None = None,
    follow_redirects: bool = False,
    trust_env: bool = False,
) -> httpx.AsyncClient:
    """Create a client over the transport under test."""
    transport = pinned_transport(
        AddressGuard(resolver),
        tls=trusting_context(),
        limits=limits or EgressLimits(),
        network_backend=backend,
    )
    return httpx.AsyncClient(
        transport=transport, follow_redirects=follow_redirects, trust_env=trust_env, timeout=5.0
    )


def client_of(server: ScriptedServer, **options: object) -> httpx.AsyncClient:
    """Create a client that connects to this server for `HOST`."""
    resolver, backend = FixedResolver(gw_example_com=[[ADDRESS]]), LoopbackBackend({ADDRESS: server.port})
    return client(resolver, backend, **options)  # type: ignore[arg-type]  # passed on
