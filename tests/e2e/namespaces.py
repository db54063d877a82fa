"""A small internet of our own: two network namespaces joined by a cable, gone when the test is over.

Its addresses look public and exist nowhere else. Each namespace is entered by a thread that stays
in it: sockets and processes that are made on that thread belong to the namespace, whoever uses them.
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

from tests.fake_anthropic import FakeAnthropic
from tests.integration.egress.dns_server import NameServer
from tests.integration.egress.far_side import AUTHORITY, FarServer, Script, silence

NAME_SERVER = "160.79.104.53"
PROXY = "160.79.104.99"
PROVIDERS = ("160.79.104.10", "160.79.104.11", "160.79.104.12")
# On the far side of the cable as well, as a gateway in the operator's own network would be.
PRIVATE_GATEWAY = "10.77.0.5"
# The service's own machine: what rebinding is after.
PRIVATE = ("127.0.0.1", "169.254.169.254", "fd00::1")

_NEAR_END = "160.79.104.1"
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")
# Addresses, a code that says why there are none, or silence.
Answer: TypeAlias = Sequence[str] | dns.rcode.Rcode | None


class Namespace:
    """Runs work on the thread that lives in the namespace."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, initializer=_enter, initargs=(name,))

    async def run(self, work: Callable[..., T], *args: Any, **options: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *args, **options))

    async def listener(self, address: str, port: int = 443) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return await self.run(socket.create_server, (address, port), family=family)

    def leave(self) -> None:
        self._thread.shutdown()


class Zone:
    """What the name server says. Several answers are given by turns, the last one for good."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str], list[Answer]] = {}

    def say(self, host: str, *answers: Answer) -> None:
        for kind in ("A", "AAAA"):
            self._answers[f"{host}.", kind] = list(answers)

    def script(self, name: str, kind: str) -> tuple[dns.rcode.Rcode, list[str]] | None:
        left = self._answers.get((name, kind)) or [dns.rcode.NXDOMAIN]
        answer = left.pop(0) if len(left) > 1 else left[0]
        match answer:
            case None:
                return None
            case dns.rcode.Rcode():
                return answer, []
        addresses = [text for text in answer if (":" in text) == (kind == "AAAA")]
        return dns.rcode.NOERROR, [f"{name} 0 IN {kind} {address}" for address in addresses]


@dataclass(kw_only=True)
class Internet:
    """`near` is the service's machine, `far` everything else."""

    near: Namespace
    far: Namespace
    zone: Zone = field(default_factory=Zone)


@asynccontextmanager
async def internet() -> AsyncIterator[Internet]:
    """Both namespaces, with the name server. The test is skipped where they may not be made."""
    with _namespaces() as (near_name, far_name):
        _lay_cable(near_name, far_name)
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
            near.leave()
            far.leave()


@asynccontextmanager
async def server_at(
    namespace: Namespace,
    address: str,
    play: Script = silence,
    *,
    cert: trustme.LeafCert | None = None,
    port: int = 443,
) -> AsyncIterator[FarServer]:
    """A scripted server; without a certificate it speaks no TLS, and so counts everybody who connects."""
    server = FarServer(play)
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
        await server.hang_up()
        await listener.wait_closed()


class _Uvicorn(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ctrl-C is the test run's."""
        yield


@asynccontextmanager
async def fake_provider(namespace: Namespace, address: str, *names: str) -> AsyncIterator[FakeAnthropic]:
    """The fake behind TLS. It ends every connection after one answer, so that each request looks up the name."""
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
            refusal = _ip("netns", "add", name, check=False)
            if refusal:
                pytest.skip(f"no network namespaces: {refusal}")
            made.append(name)
        yield names
    finally:
        for name in made:
            _ip("netns", "del", name)


def _lay_cable(near: str, far: str) -> None:
    # Made inside the namespaces: nothing is added to the machine's own network, not for a moment.
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
    """What it complains about; empty if all went well."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)  # noqa: S607  # found by PATH, as by an admin
    complaint = done.stderr.strip() if done.returncode else ""
    assert not (check and complaint), f"ip {' '.join(arguments)}: {complaint}"
    return complaint


def _enter(name: str) -> None:
    """Move the calling thread, and nothing else of this process, into the namespace."""
    with Path("/run/netns", name).open() as handle:
        if _libc.setns(handle.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")


def _datagram_socket(address: tuple[str, int]) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind(address)
    bound.setblocking(False)
    return bound
