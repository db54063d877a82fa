"""The relay's connections to a custom provider: real DNS, TLS and addresses in network namespaces."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import dns.rcode
import httpx
import pytest

from tests.support.network.namespace_network import FAKE, HOSTILE, NamespaceNetwork, namespace_network
from tests.support.network.namespaces import PRIVATE, PRIVATE_GATEWAY, DnsResponse, server_at
from tests.support.network.scripted_servers import (
    certificate,
    http_response,
    never_respond,
    respond_always,
)
from tests.support.processes.service_in_namespace import Admin
from tests.support.provider.fake_anthropic import make_key

pytestmark = pytest.mark.slow

BODY = {"model": "claude-haiku-5-5", "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}]}
REFUSED: dict[str, DnsResponse] = {
    **{f"private {address}": [address] for address in PRIVATE},
    "public and private": [FAKE, "127.0.0.1"],
    "private and public": ["10.0.0.5", FAKE],
    "public and private of the other family": [FAKE, "fd00::1"],
    "in the operator's own network": [PRIVATE_GATEWAY],
}
UNREACHABLE: dict[str, DnsResponse] = {
    "no such name": dns.rcode.NXDOMAIN,
    "no addresses": [],
    "lookup failure": dns.rcode.SERVFAIL,
}


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """An organization whose key belongs to a custom provider at its own host. The key is valid."""

    network: NamespaceNetwork
    admin: Admin
    host: str
    key: str
    token: str

    async def send(self) -> httpx.Response:
        """Send a message through the relay."""
        return await self.network.net.near.run(
            self.network.service.http.post,
            "/relay/anthropic/v1/messages",
            json=BODY,
            headers={"x-api-key": self.token},
        )

    def set_records(self, *response: DnsResponse) -> None:
        self.network.net.zone.set_records(self.host, *response)


@pytest.fixture(scope="module")
async def network(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NamespaceNetwork]:
    async with namespace_network(tmp_path_factory.mktemp("network")) as network:
        yield network


@pytest.fixture
async def gateway(network: NamespaceNetwork) -> Gateway:
    admin, host, key = network.service.admin(), network.new_host(), make_key()
    network.net.zone.set_records(host, [FAKE])
    saved = (await admin.save(f"https://{host}", api_key=key)).json()
    assert saved["validation"]["status"] == "valid"
    mode: dict[str, Any] = {"mode": "byo", "credential_id": saved["id"]}
    switched = await admin.request("PUT", f"/v1/organizations/{admin.organization}/usage-mode", mode)
    assert switched.status_code == 200
    token = network.service.issuer.issue(
        subject="relay",
        organization_id=admin.organization,
        scopes=("relay:messages",),
        ttl=timedelta(hours=1),
    )
    return Gateway(network=network, admin=admin, host=host, key=key, token=token)


def code_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["details"]["error_code"]


class TestRelay:
    async def test_public_provider_gets_the_request_in_its_own_style(self, gateway: Gateway) -> None:
        response = await gateway.send()

        assert response.status_code == 200, response.text
        request = gateway.network.fake.requests_of(gateway.key)[-1]
        assert (request.path, request.credential_header) == ("/v1/messages", "authorization")
        assert request.complaints == ()
        assert gateway.network.proxy.connections == 0

    @pytest.mark.parametrize("dns_response", REFUSED.values(), ids=REFUSED)
    async def test_host_that_becomes_private_is_not_connected(
        self, gateway: Gateway, dns_response: DnsResponse
    ) -> None:
        assert (await gateway.send()).status_code == 200
        before, sent = gateway.network.trap_connections(), len(gateway.network.fake.requests_of(gateway.key))

        gateway.set_records(dns_response)

        assert code_of(await gateway.send()) == (403, "address_refused")
        assert gateway.network.trap_connections() == before
        assert len(gateway.network.fake.requests_of(gateway.key)) == sent

    @pytest.mark.parametrize("dns_response", UNREACHABLE.values(), ids=UNREACHABLE)
    async def test_host_without_addresses_is_unreachable(
        self, gateway: Gateway, dns_response: DnsResponse
    ) -> None:
        gateway.set_records(dns_response)

        assert code_of(await gateway.send()) == (502, "provider_unreachable")

    async def test_redirect_is_not_followed(self, gateway: Gateway) -> None:
        redirect = respond_always(
            http_response(b"", "Location: https://169.254.169.254/", status="307 Temporary")
        )
        before = gateway.network.trap_connections()
        async with server_at(
            gateway.network.net.far, HOSTILE, redirect, cert=certificate(gateway.host)
        ) as server:
            gateway.set_records([HOSTILE])
            response = await gateway.send()

        assert code_of(response) == (502, "provider_response_refused")
        assert "location" not in response.headers
        assert (len(server.requests), gateway.network.trap_connections()) == (1, before)

    async def test_wrong_certificate_gets_no_request(self, gateway: Gateway) -> None:
        async with server_at(
            gateway.network.net.far, HOSTILE, never_respond, cert=certificate("elsewhere.example.org")
        ) as server:
            gateway.set_records([HOSTILE])
            response = await gateway.send()

        assert code_of(response) == (502, "provider_unreachable")
        # The server counts a connection when the handshake has succeeded.
        assert (server.connections, server.requests) == (0, [])
