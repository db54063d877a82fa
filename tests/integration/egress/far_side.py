"""The other end of a connection: scripted servers on loopback, reached under public-looking addresses."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import httpcore
import httpx
import trustme

from app.core.tls import tls_context
from app.core.url_errors import DnsUnavailable
from app.egress.resolver import AddressGuard
from app.egress.transport import EgressLimits, vetted_transport

HOST = "gw.example.com"
URL = f"https://{HOST}/v1/messages"
ADDRESS = "160.79.104.10"
OTHER_ADDRESS = "160.79.104.11"

AUTHORITY = trustme.CA()

Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter
Script: TypeAlias = Callable[[Reader, Writer], Awaitable[None]]


def answer(body: bytes = b"{}", *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class FarServer:
    """Notes what it is asked, and plays the script for each request."""

    def __init__(self, play: Script) -> None:
        self._play = play
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
                await self._play(reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass  # the client hung up
        finally:
            writer.transport.abort()

    async def hang_up(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def note_server_name(self, _tls: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        self.server_names.append(name)


def always(data: bytes) -> Script:
    async def play(_reader: Reader, writer: Writer) -> None:
        writer.write(data)

    return play


def forever(*pieces: bytes) -> Script:
    """The first piece once, the last over and over until the client hangs up."""

    async def play(_reader: Reader, writer: Writer) -> None:
        writer.write(b"".join(pieces[:-1]))
        while True:
            writer.write(pieces[-1])
            await writer.drain()

    return play


async def silence(_reader: Reader, _writer: Writer) -> None:
    await asyncio.Event().wait()


def certificate(*names: str, authority: trustme.CA = AUTHORITY) -> trustme.LeafCert:
    return authority.issue_cert(*names)


@asynccontextmanager
async def far_server(
    play: Script, cert: trustme.LeafCert | None = None, *, tls: bool = True
) -> AsyncIterator[FarServer]:
    server = FarServer(play)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if tls else None
    if context is not None:
        (cert or certificate(HOST)).configure_cert(context)
        context.sni_callback = server.note_server_name
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await server.hang_up()
        await listener.wait_closed()


class FixedResolver:
    """Answers by the table, or by turns where there are several answers; None: no resolver could say."""

    def __init__(self, **hosts: Iterable[Sequence[str] | None]) -> None:
        self._answers = {host.replace("_", "."): list(answers) for host, answers in hosts.items()}
        self.asked: list[str] = []
        self.held: dict[str, asyncio.Event] = {}

    async def addresses(self, host: str) -> Sequence[str]:
        """At once, or once `held` lets go of the host."""
        self.asked.append(host)
        if host in self.held:
            await self.held[host].wait()
        answers = self._answers.get(host) or [()]
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        if found is None:
            raise DnsUnavailable
        return found


class Detour(httpcore.AsyncNetworkBackend):
    """Dials loopback ports in place of addresses. What is not on the map refuses; None swallows packets."""

    def __init__(self, ports: dict[str, int | None]) -> None:
        self._ports = ports
        self._inner = httpcore.AnyIOBackend()
        self.dialled: list[str] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        assert port == 443
        self.dialled.append(host)
        if host not in self._ports:
            raise httpcore.ConnectError("refused")
        detour = self._ports[host]
        if detour is None:
            try:
                async with asyncio.timeout(timeout):
                    await asyncio.Event().wait()
            except TimeoutError:
                raise httpcore.ConnectTimeout from None
        assert detour is not None
        return await self._inner.connect_tcp("127.0.0.1", detour, timeout, local_address, socket_options)


def trusting_context(authority: trustme.CA = AUTHORITY) -> ssl.SSLContext:
    context = tls_context()
    authority.configure_trust(context)
    return context


def client(
    resolver: FixedResolver,
    detour: Detour,
    *,
    limits: EgressLimits | None = None,
    follow_redirects: bool = False,
    trust_env: bool = False,
) -> httpx.AsyncClient:
    """A client over the transport under test."""
    transport = vetted_transport(
        AddressGuard(resolver), tls=trusting_context(), limits=limits or EgressLimits(), dialer=detour
    )
    return httpx.AsyncClient(
        transport=transport, follow_redirects=follow_redirects, trust_env=trust_env, timeout=5.0
    )


def client_of(server: FarServer, **options: object) -> httpx.AsyncClient:
    """A client for which `HOST` is that server."""
    return client(FixedResolver(gw_example_com=[[ADDRESS]]), Detour({ADDRESS: server.port}), **options)  # type: ignore[arg-type]  # passed on
