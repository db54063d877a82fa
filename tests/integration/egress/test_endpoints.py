"""Destinations that a transport refuses before it resolves or connects."""

import httpx
import pytest

from app.core.keys.api_key import ApiKey
from app.core.keys.signing_secret import SigningSecret
from app.core.tls import tls_context
from app.core.url_errors import UrlReason
from app.credentials.validation_results import Reason
from app.egress.anthropic import AnthropicClient
from app.egress.exceptions import DestinationRefused
from app.egress.network import BoundedNetwork, PinnedNetwork, ResponseBounds
from app.egress.resolver import AddressGuard
from app.egress.transport import operator_endpoint_transport
from app.egress.webhooks import WebhookClient
from app.provider_url.url import ProviderURL
from tests.support.network.scripted_servers import (
    ADDRESS,
    HOST,
    URL,
    FixedResolver,
    LoopbackBackend,
    client,
    client_of,
    http_response,
    respond_always,
    scripted_server,
    trusting_context,
)
from tests.support.provider.fake_anthropic import make_key
from tests.support.provider.probes import provider_endpoint

OK = respond_always(http_response())

BOUNDS = ResponseBounds(max_bytes=1, max_head_bytes=1, max_informational=1)


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
    async def test_url_policy_applies_to_requests(self, url: str, reason: UrlReason) -> None:
        resolver, backend = FixedResolver(gw_example_com=[[ADDRESS]]), LoopbackBackend({})
        async with client(resolver, backend) as http:
            with pytest.raises(DestinationRefused) as caught:
                await http.get(url)

        assert caught.value.reason is reason
        assert (resolver.queries, backend.connected_hosts) == ([], [])

    @pytest.mark.parametrize("host", ["xn--bcher-kva.r3---sn.example.com", "xn--bcher-kva.example.com"])
    async def test_every_name_that_the_url_policy_accepts_is_connected_to(self, host: str) -> None:
        resolver = FixedResolver(**{host: [[ADDRESS]]})
        async with scripted_server(OK) as server:
            backend = LoopbackBackend({ADDRESS: server.port})
            async with client(resolver, backend) as http:
                result = await AnthropicClient(http).probe(
                    ApiKey.parse(make_key()),
                    provider_endpoint(ProviderURL(f"https://{host}").base_url, is_default=False),
                    previously_valid=False,
                )

                await WebhookClient(http).deliver(
                    f"https://{host}/hook", SigningSecret.generate(), message_id="msg_1", body="{}"
                )

        # The certificate is that of another host.
        assert (result.reason, server.server_names) == (Reason.TLS_ERROR, [host, host])

    async def test_query_is_allowed(self) -> None:
        async with scripted_server(OK) as server, client_of(server) as http:
            await http.get(URL, params={"limit": "1"})

        assert server.requests[0].startswith("GET /v1/messages?limit=1 HTTP/1.1")

    async def test_socket_file_is_not_a_destination(self) -> None:
        network = BoundedNetwork(LoopbackBackend({}), connect_seconds=1.0, bounds=BOUNDS)

        with pytest.raises(NotImplementedError):
            await network.connect_unix_socket("/var/run/docker.sock")

    async def test_ignores_proxies_of_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        async with scripted_server(OK) as server, client_of(server, trust_env=True) as http:
            response = await http.get(URL)

        assert response.status_code == 200


class TestNetwork:
    """The last line of defence: it applies even if no caller checked the URL policy before."""

    @pytest.mark.parametrize(
        ("host", "port"), [(HOST, 80), (HOST, 8443), (ADDRESS, 443), ("localhost", 443), ("gw", 443)]
    )
    async def test_does_not_connect_to_other_ports_and_hosts(self, host: str, port: int) -> None:
        backend = LoopbackBackend({})
        guard = AddressGuard(FixedResolver(gw_example_com=[[ADDRESS]]))
        network = PinnedNetwork(guard, attempt_seconds=1.0, network_backend=backend)

        with pytest.raises(DestinationRefused):
            await network.connect_tcp(host, port)

        assert backend.connected_hosts == []

    async def test_handshake_for_another_name_is_refused(self) -> None:
        async with scripted_server(OK) as server:
            network = BoundedNetwork(LoopbackBackend({HOST: server.port}), connect_seconds=1.0, bounds=BOUNDS)
            stream = await network.connect_tcp(HOST, 443)
            with pytest.raises(DestinationRefused):
                await stream.start_tls(trusting_context(), "evil.example.com")


class TestOperatorEndpoint:
    async def test_may_be_a_private_address_without_tls(self) -> None:
        async with scripted_server(OK, tls=False) as server:
            base_url = f"http://127.0.0.1:{server.port}"
            async with httpx.AsyncClient(
                transport=operator_endpoint_transport(base_url, tls=tls_context())
            ) as http:
                response = await http.get(f"{base_url}/v1/models")

        assert response.status_code == 200

    @pytest.mark.parametrize(
        "url", ["http://127.0.0.1:9001/", "https://127.0.0.1:9000/", "http://localhost:9000/", URL]
    )
    async def test_refuses_other_origins(self, url: str) -> None:
        transport = operator_endpoint_transport("http://127.0.0.1:9000", tls=trusting_context())
        async with httpx.AsyncClient(transport=transport) as http:
            with pytest.raises(DestinationRefused):
                await http.get(url)
