"""Destinations: what a transport refuses before it looks up or dials anything."""

import httpx
import pytest

from app.core.tls import tls_context
from app.core.url_errors import UrlReason
from app.egress.exceptions import DestinationRefused
from app.egress.network import BoundedNetwork, VettedNetwork
from app.egress.resolver import AddressGuard
from app.egress.transport import trusted_transport
from tests.integration.egress.far_side import (
    ADDRESS,
    HOST,
    URL,
    Detour,
    FixedResolver,
    always,
    answer,
    client,
    client_of,
    far_server,
    trusting_context,
)

OK = always(answer())


class TestDestinations:
    @pytest.mark.parametrize(
        ("url", "reason"),
        [
            (f"http://{HOST}/", UrlReason.SCHEME_NOT_HTTPS),
            (f"http://{HOST}:443/", UrlReason.SCHEME_NOT_HTTPS),
            (f"https://{HOST}:8443/", UrlReason.PORT_NOT_ALLOWED),
            (f"https://user@{HOST}/", UrlReason.USERINFO_PRESENT),
            (f"https://{ADDRESS}/", UrlReason.HOST_IS_IP),
            ("https://0x7f.1/", UrlReason.HOST_IS_IP),
            ("https://[2606:4700::1]/", UrlReason.HOST_IS_IP),
            ("https://localhost/", UrlReason.HOST_IS_LOCALHOST),
            ("https://metadata.google.internal/", UrlReason.HOST_IS_RESERVED_NAME),
            (f"https://{HOST}./", UrlReason.HOST_INVALID),
        ],
    )
    async def test_what_the_policy_refuses_is_refused_here_too(self, url: str, reason: UrlReason) -> None:
        resolver, detour = FixedResolver(gw_example_com=[[ADDRESS]]), Detour({})
        async with client(resolver, detour) as http:
            with pytest.raises(DestinationRefused) as caught:
                await http.get(url)

        assert caught.value.reason is reason
        assert (resolver.asked, detour.dialled) == ([], [])

    async def test_a_query_of_our_own_is_allowed(self) -> None:
        async with far_server(OK) as server, client_of(server) as http:
            await http.get(URL, params={"limit": "1"})

        assert server.requests[0].startswith("GET /v1/messages?limit=1 HTTP/1.1")

    async def test_a_socket_file_is_no_destination(self) -> None:
        network = BoundedNetwork(Detour({}), connect_seconds=1.0, answer_bytes=1)

        with pytest.raises(NotImplementedError):
            await network.connect_unix_socket("/var/run/docker.sock")

    async def test_proxies_of_the_environment_are_ignored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        async with far_server(OK) as server, client_of(server, trust_env=True) as http:
            response = await http.get(URL)

        assert response.status_code == 200


class TestNetwork:
    """The last line: it holds even where nobody asked the policy before."""

    @pytest.mark.parametrize(
        ("host", "port"), [(HOST, 80), (HOST, 8443), (ADDRESS, 443), ("localhost", 443), ("gw", 443)]
    )
    async def test_other_ports_and_hosts_are_not_dialled(self, host: str, port: int) -> None:
        detour = Detour({})
        guard = AddressGuard(FixedResolver(gw_example_com=[[ADDRESS]]))
        network = VettedNetwork(guard, attempt_seconds=1.0, dialer=detour)

        with pytest.raises(DestinationRefused):
            await network.connect_tcp(host, port)

        assert detour.dialled == []

    async def test_a_handshake_for_another_name_is_refused(self) -> None:
        async with far_server(OK) as server:
            network = BoundedNetwork(Detour({HOST: server.port}), connect_seconds=1.0, answer_bytes=1)
            stream = await network.connect_tcp(HOST, 443)
            with pytest.raises(DestinationRefused):
                await stream.start_tls(trusting_context(), "evil.example.com")


class TestTrustedEndpoint:
    async def test_the_operator_may_name_a_private_address_without_tls(self) -> None:
        async with far_server(OK, tls=False) as server:
            base_url = f"http://127.0.0.1:{server.port}"
            async with httpx.AsyncClient(transport=trusted_transport(base_url, tls=tls_context())) as http:
                response = await http.get(f"{base_url}/v1/models")

        assert response.status_code == 200

    @pytest.mark.parametrize(
        "url", ["http://127.0.0.1:9001/", "https://127.0.0.1:9000/", "http://localhost:9000/", URL]
    )
    async def test_that_transport_reaches_no_other_origin(self, url: str) -> None:
        transport = trusted_transport("http://127.0.0.1:9000", tls=trusting_context())
        async with httpx.AsyncClient(transport=transport) as http:
            with pytest.raises(DestinationRefused):
                await http.get(url)
