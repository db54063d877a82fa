"""A small test network: two network namespaces that are joined by a virtual cable and deleted after the test.

Its addresses look public but exist only there. One thread per namespace stays inside it. Sockets and processes that
this thread creates belong to the namespace, whichever thread uses them.
"""

import asyncio
import ctypes
import os
import secrets
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import dns.rcode
import pytest
import trustme
import uvicorn

from tests.support.network.dns_server import NameServer
from tests.support.network.scripted_servers import AUTHORITY, Script, ScriptedServer, never_respond
from tests.support.provider.fake_anthropic import FakeAnthropic

NAME_SERVER = "160.79.104.53"
PROXY = "160.79.104.99"
PROVIDERS = ("160.79.104.10", "160.79.104.11", "160.79.104.12")
# Also on the far side, like a gateway in the operator's own network.
PRIVATE_GATEWAY = "10.77.0.5"
# Addresses of the service's own machine, the targets of DNS rebinding.
PRIVATE = ("127.0.0.1", "169.254.169.254", "fd00::1")

_NEAR_END = "160.79.104.1"
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")
# Addresses, a response code without addresses, or None for no response.
DnsResponse: TypeAlias = Sequence[str] | dns.rcode.Rcode | None


class Namespace:
    """Runs functions on the thread inside the namespace."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, initializer=_enter, initargs=(name,))

    async def run(self, work: Callable[..., T], *args: Any, **options: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *args, **options))

    async def listener(self, address: str, port: int = 443) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return await self.run(socket.create_server, (address, port), family=family)

    def close(self) -> None:
        self._thread.shutdown()


class Zone:
    """The records of the DNS server. Several responses are sent one after the other; the last one is repeated."""

    def __init__(self) -> None:
        self._responses: dict[tuple[str, str], list[DnsResponse]] = {}

    def set_records(self, host: str, *responses: DnsResponse) -> None:
        for kind in ("A", "AAAA"):
            self._responses[f"{host}.", kind] = list(responses)

    def script(self, name: str, kind: str) -> tuple[dns.rcode.Rcode, list[str]] | None:
        remaining = self._responses.get((name, kind)) or [dns.rcode.NXDOMAIN]
        response = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        match response:
            case None:
                return None
            case dns.rcode.Rcode():
                return response, []
        addresses = [text for text in response if (":" in text) == (kind == "AAAA")]
        return dns.rcode.NOERROR, [f"{name} 0 IN {kind} {address}" for address in addresses]


@dataclass(kw_only=True)
class Internet:
    """`near` is the service's machine; `far` has all other servers."""

    near: Namespace
    far: Namespace
    zone: Zone = field(default_factory=Zone)


@asynccontextmanager
async def internet() -> AsyncIterator[Internet]:
    """Create both namespaces and the DNS server. Skips the test if namespaces cannot be created."""
    with _namespaces() as (near_name, far_name):
        _connect(near_name, far_name)
        near, far = Namespace(near_name), Namespace(far_name)
        try:
            made = Internet(near=near, far=far)
            bound = await far.run(_datagram_socket, (NAME_SERVER, 53))
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: NameServer(made.zone.script), sock=bound
            )
            try:
                yield made
            finally:
                transport.close()
        finally:
            near.close()
            far.close()


@asynccontextmanager
async def server_at(
    namespace: Namespace,
    address: str,
    script: Script = never_respond,
    *,
    cert: trustme.LeafCert | None = None,
    port: int = 443,
) -> AsyncIterator[ScriptedServer]:
    """Run a scripted server. Without a certificate it uses no TLS and only counts connections."""
    server = ScriptedServer(script)
    context = None
    if cert is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        cert.configure_cert(context)
    listener = await asyncio.start_server(
        server.serve, sock=await namespace.listener(address, port), ssl=context
    )
    try:
        yield server
    finally:
        listener.close()
        await server.close_connections()
        await listener.wait_closed()


class _Uvicorn(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave Ctrl-C to the test run."""
        yield


@asynccontextmanager
async def fake_provider(namespace: Namespace, address: str, *names: str) -> AsyncIterator[FakeAnthropic]:
    """Run the fake provider with TLS. It closes connections after one response, so that each request resolves the name."""
    fake = FakeAnthropic()
    with AUTHORITY.issue_cert(*names).private_key_and_cert_chain_pem.tempfile() as pem:
        server = _Uvicorn(
            uvicorn.Config(
                fake,
                log_config=None,
                lifespan="off",
                ssl_certfile=pem,
                headers=[("Connection", "close")],
                timeout_graceful_shutdown=1,
            )
        )
        serving = asyncio.create_task(server.serve(sockets=[await namespace.listener(address)]))
        try:
            yield fake
        finally:
            server.should_exit = True
            await serving


@contextmanager
def _namespaces() -> Iterator[tuple[str, str]]:
    if shutil.which("ip") is None:
        pytest.skip("no network namespaces: `ip` is missing (Debian package iproute2)")
    run = f"byok-{os.getpid()}-{secrets.token_hex(3)}"
    names = (f"{run}-near", f"{run}-far")
    made: list[str] = []
    try:
        for name in names:
            error = _ip("netns", "add", name, check=False)
            if error:
                pytest.skip(f"no network namespaces: {error}")
            made.append(name)
        yield names
    finally:
        for name in made:
            _ip("netns", "del", name)


def _connect(near: str, far: str) -> None:
    # Create the cable inside the namespaces, so that nothing is added to the machine's own network.
    _ip("-n", near, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", far)
    for namespace in (near, far):
        _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", namespace, "link", "set", "cable", "up")
    for address in (NAME_SERVER, PROXY, *PROVIDERS):
        _ip("-n", far, "address", "add", f"{address}/24", "dev", "cable")
    _ip("-n", far, "address", "add", f"{PRIVATE_GATEWAY}/32", "dev", "cable")
    _ip("-n", near, "address", "add", f"{_NEAR_END}/24", "dev", "cable")
    _ip("-n", near, "route", "add", "default", "dev", "cable")
    for address in PRIVATE[1:]:
        _ip("-n", near, "address", "add", address, "dev", "lo", *(["nodad"] if ":" in address else []))


def _ip(*arguments: str, check: bool = True) -> str:
    """Run `ip` and return its error message; empty on success."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)  # noqa: S607  # found by PATH
    error = done.stderr.strip() if done.returncode else ""
    assert not (check and error), f"ip {' '.join(arguments)}: {error}"
    return error


def _enter(name: str) -> None:
    """Move the calling thread, but not the rest of the process, into the namespace."""
    with Path("/run/netns", name).open() as handle:
        if _libc.setns(handle.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")


def _datagram_socket(address: tuple[str, int]) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind(address)
    bound.setblocking(False)
    return bound
