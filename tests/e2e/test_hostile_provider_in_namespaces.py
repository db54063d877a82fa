"""A hostile custom provider end to end: redirects, wrong certificates, and endless responses."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import pytest
import trustme

from tests.support.network.namespace_network import (
    ELSEWHERE,
    HOSTILE,
    WILDCARD,
    NamespaceNetwork,
    namespace_network,
)
from tests.support.network.namespaces import server_at
from tests.support.network.scripted_servers import (
    AUTHORITY,
    Reader,
    Script,
    Writer,
    http_response,
    respond_always,
)
from tests.support.processes.service_in_namespace import Admin

pytestmark = pytest.mark.slow

MEGABYTE = 1024 * 1024
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK = b"10000\r\n" + bytes(0x10000) + b"\r\n"


def send_forever(head: bytes, piece: bytes, *, pause: float = 0) -> Script:
    async def script(_reader: Reader, writer: Writer) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            # Sleep even if `pause` is 0. Otherwise the event loop may never see that the client disconnected.
            await asyncio.sleep(pause)

    return script


def expired(host: str) -> trustme.LeafCert:
    return AUTHORITY.issue_cert(host, not_after=datetime.now(UTC) - timedelta(days=1))


CERTIFICATES: dict[str, Callable[[str], trustme.LeafCert]] = {
    "another name": lambda _: AUTHORITY.issue_cert("elsewhere.example.net"),
    "untrusted authority": lambda host: trustme.CA().issue_cert(host),
    "expired": expired,
}
# None of them proves anything about the key: who would have spoken is unknown if a response never ends.
RESPONSES: dict[str, tuple[Script, str]] = {
    "dripping headers": (send_forever(HEAD + b"X: ", b"x", pause=0.01), "timeout"),
    "dripping body": (send_forever(HEAD + b"\r\n", b"x", pause=0.01), "timeout"),
    "ten megabytes": (respond_always(http_response(bytes(10 * MEGABYTE))), "unexpected_answer"),
    "endless body": (send_forever(HEAD + b"\r\n", bytes(0x10000)), "unexpected_answer"),
    "endless chunks": (send_forever(CHUNKED, CHUNK), "unexpected_answer"),
    "endless headers": (send_forever(HEAD, b"X: y\r\n" * 1000), "unreachable"),
}


@pytest.fixture(scope="module")
async def network(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NamespaceNetwork]:
    async with namespace_network(tmp_path_factory.mktemp("network")) as network:
        yield network


@pytest.fixture
def admin(network: NamespaceNetwork) -> Admin:
    return network.service.admin()


@pytest.fixture
def host(network: NamespaceNetwork) -> str:
    """A host name that resolves to the hostile provider."""
    host = network.new_host()
    network.net.zone.set_records(host, [HOSTILE])
    return host


class TestRedirects:
    @pytest.mark.parametrize("target", ["127.0.0.1", "169.254.169.254", "[fd00::1]"])
    async def test_to_a_private_address_are_not_followed(
        self, network: NamespaceNetwork, admin: Admin, target: str, host: str
    ) -> None:
        redirect = http_response(
            b"", f"Location: https://{target}/v1/messages", status="307 Temporary Redirect"
        )
        before = network.trap_connections()

        async with server_at(
            network.net.far, HOSTILE, respond_always(redirect), cert=AUTHORITY.issue_cert(WILDCARD)
        ) as server:
            saved = await admin.save(f"https://{host}")

        assert saved.json()["validation"]["reason"] == "redirect_refused"
        assert len(server.requests) == 1
        assert network.trap_connections() == before

    async def test_to_another_host_do_not_send_the_key(
        self, network: NamespaceNetwork, admin: Admin, host: str
    ) -> None:
        other = network.new_host()
        network.net.zone.set_records(other, [ELSEWHERE])
        cert = AUTHORITY.issue_cert(WILDCARD)
        redirect = http_response(b"", f"Location: https://{other}/v1/messages", status="302 Found")

        async with (
            server_at(network.net.far, HOSTILE, respond_always(redirect), cert=cert),
            server_at(network.net.far, ELSEWHERE, respond_always(http_response()), cert=cert) as second,
        ):
            saved = await admin.save(f"https://{host}", auth_style="x_api_key")

        assert saved.json()["validation"]["reason"] == "redirect_refused"
        assert second.connections == 0


class TestCertificates:
    @pytest.mark.parametrize("issue", CERTIFICATES.values(), ids=CERTIFICATES)
    async def test_invalid_ones_end_the_connection_before_the_key_is_sent(
        self, network: NamespaceNetwork, admin: Admin, issue: Callable[[str], trustme.LeafCert], host: str
    ) -> None:
        async with server_at(
            network.net.far, HOSTILE, respond_always(http_response()), cert=issue(host)
        ) as server:
            saved = await admin.save(f"https://{host}")

        assert saved.json()["validation"]["reason"] == "tls_error"
        assert server.requests == []


class TestResponses:
    async def test_endless_ones_are_cut_off_without_using_memory(
        self, network: NamespaceNetwork, admin: Admin
    ) -> None:
        reasons: dict[str, str] = {}
        before = network.service.peak_memory()

        for name, (script, _) in RESPONSES.items():
            host = network.new_host()  # a new host, because the circuit breaker suspends hosts that time out
            network.net.zone.set_records(host, [HOSTILE])
            async with server_at(network.net.far, HOSTILE, script, cert=AUTHORITY.issue_cert(WILDCARD)):
                saved = await admin.save(f"https://{host}")
            validation = saved.json()["validation"]
            assert validation["status"] == "indeterminate", name
            reasons[name] = validation["reason"]

        assert reasons == {name: reason for name, (_, reason) in RESPONSES.items()}
        assert network.service.peak_memory() - before < 50 * MEGABYTE
