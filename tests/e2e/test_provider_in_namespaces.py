"""A custom provider end to end: real DNS, TLS and addresses in network namespaces."""

import asyncio
import socket
from collections.abc import AsyncIterator

import dns.rcode
import pytest

from tests.support.network.namespace_network import ALLOWED_HOST, FAKE, NamespaceNetwork, namespace_network
from tests.support.network.namespaces import PRIVATE, PRIVATE_GATEWAY, DnsResponse, fake_provider
from tests.support.processes.service_in_namespace import Admin
from tests.support.provider.fake_anthropic import make_key

pytestmark = pytest.mark.slow

REFUSED: dict[str, tuple[DnsResponse, str]] = {
    "private": (["169.254.169.254"], "dns_private_address"),
    "public and private": ([FAKE, "127.0.0.1"], "dns_private_address"),
    "public and private of the other family": ([FAKE, "fd00::1"], "dns_private_address"),
    "in the operator's own network": ([PRIVATE_GATEWAY], "dns_private_address"),
    "no such name": (dns.rcode.NXDOMAIN, "dns_no_records"),
    "no addresses": ([], "dns_no_records"),
}
LOOKUP_FAILURES: dict[str, DnsResponse] = {"failure": dns.rcode.SERVFAIL, "silence": None}


@pytest.fixture(scope="module")
async def network(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NamespaceNetwork]:
    async with namespace_network(tmp_path_factory.mktemp("network")) as network:
        yield network


@pytest.fixture
def admin(network: NamespaceNetwork) -> Admin:
    return network.service.admin()


@pytest.fixture
def host(network: NamespaceNetwork) -> str:
    return network.new_host()


class TestPublicAddress:
    async def test_custom_url_is_accepted_and_its_key_validated(
        self, network: NamespaceNetwork, admin: Admin, host: str
    ) -> None:
        network.net.zone.set_records(host, [FAKE])
        key = make_key()

        saved = await admin.save(f"https://{host}/v1/messages", api_key=key)

        assert saved.status_code == 201, saved.text
        assert saved.json()["messages_url"] == f"https://{host}/v1/messages"
        assert (saved.json()["validation"]["status"], saved.json()["validation"]["reason"]) == ("valid", "ok")
        (request,) = network.fake.requests_of(key)
        assert (request.path, request.credential_header) == ("/v1/messages", "authorization")
        assert request.complaints == ()

    async def test_ignores_proxies_and_key_logs_of_the_environment(
        self, network: NamespaceNetwork, admin: Admin, host: str
    ) -> None:
        network.net.zone.set_records(host, [FAKE])

        saved = await admin.save(f"https://{host}")

        assert {"HTTPS_PROXY", "all_proxy", "SSLKEYLOGFILE"} <= set(network.service.environment())
        assert saved.json()["validation"]["reason"] == "ok"
        assert network.proxy.connections == 0
        assert not network.key_log.exists()


class TestRebinding:
    @pytest.mark.parametrize("address", PRIVATE)
    async def test_between_saving_and_validation_is_refused_without_a_connection(
        self, network: NamespaceNetwork, admin: Admin, address: str, host: str
    ) -> None:
        key = make_key()
        network.net.zone.set_records(host, [FAKE])
        saved = await admin.save(f"https://{host}", api_key=key)
        before = network.trap_connections()

        network.net.zone.set_records(host, [address])
        result = await admin.validate(saved.json()["id"])

        assert saved.json()["validation"]["status"] == "valid"
        assert (result["status"], result["reason"]) == ("invalid", "address_refused")
        assert network.trap_connections() == before
        assert len(network.fake.requests_of(key)) == 1

    @pytest.mark.parametrize("address", PRIVATE)
    async def test_during_saving_is_refused_without_a_connection(
        self, network: NamespaceNetwork, admin: Admin, address: str, host: str
    ) -> None:
        before = network.trap_connections()
        network.net.zone.set_records(host, [FAKE], [address])

        saved = await admin.save(f"https://{host}")

        assert saved.status_code == 201, saved.text
        assert saved.json()["validation"]["reason"] == "address_refused"
        assert network.trap_connections() == before

    @pytest.mark.parametrize("address", PRIVATE)
    async def test_traps_count_connections(self, network: NamespaceNetwork, address: str) -> None:
        before = network.trap_connections()[address]

        (await network.net.near.run(socket.create_connection, (address, 443))).close()

        async with asyncio.timeout(10):
            while network.trap_connections()[address] == before:  # noqa: ASYNC110  # a listener has no event to wait for
                await asyncio.sleep(0.01)


class TestNames:
    @pytest.mark.parametrize(("dns_response", "code"), REFUSED.values(), ids=REFUSED)
    async def test_without_public_addresses_are_refused_and_nothing_is_saved(
        self, network: NamespaceNetwork, admin: Admin, dns_response: DnsResponse, code: str, host: str
    ) -> None:
        network.net.zone.set_records(host, dns_response)

        refused = await admin.save(f"https://{host}")

        assert refused.status_code == 422
        (error,) = refused.json()["errors"]
        assert (error["field"], error["code"]) == ("base_url", code)
        assert await admin.saved() == []

    @pytest.mark.parametrize("dns_response", LOOKUP_FAILURES.values(), ids=LOOKUP_FAILURES)
    async def test_failed_lookup_can_be_retried_and_nothing_is_saved(
        self, network: NamespaceNetwork, admin: Admin, dns_response: DnsResponse, host: str
    ) -> None:
        network.net.zone.set_records(host, dns_response)

        refused = await admin.save(f"https://{host}")

        assert (refused.status_code, refused.json()["code"]) == (503, "dns_unavailable")
        assert await admin.saved() == []

    @pytest.mark.parametrize(
        ("dns_response", "reason"),
        [
            ([FAKE], "ok"),
            *REFUSED.values(),
            *((dns_response, "dns_unavailable") for dns_response in LOOKUP_FAILURES.values()),
        ],
        ids=["public", *REFUSED, *LOOKUP_FAILURES],
    )
    async def test_url_check_does_not_reveal_addresses(
        self, network: NamespaceNetwork, admin: Admin, dns_response: DnsResponse, reason: str, host: str
    ) -> None:
        network.net.zone.set_records(host, dns_response)

        url_check = await admin.check_url(f"https://{host}")

        assert url_check.status_code == 200
        assert (url_check.json()["accepted"], url_check.json()["reason"]) == (reason == "ok", reason)
        assert not any(address in url_check.text for address in (FAKE, PRIVATE_GATEWAY, *PRIVATE))

    async def test_allowed_host_may_have_a_private_address(
        self, network: NamespaceNetwork, admin: Admin
    ) -> None:
        network.net.zone.set_records(ALLOWED_HOST, [PRIVATE_GATEWAY])
        async with fake_provider(network.net.far, PRIVATE_GATEWAY, ALLOWED_HOST):
            saved = await admin.save(f"https://{ALLOWED_HOST}")

        assert saved.status_code == 201, saved.text
        assert saved.json()["validation"]["status"] == "valid"
