"""A service with custom endpoints: a fixed resolver and a network backend that connects to a fake provider on loopback."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from app.core.services import Services
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.egress.anthropic import AnthropicClient
from app.egress.http_client import http_client
from app.egress.resolver import AddressGuard
from app.egress.transport import pinned_transport
from tests.support.fakes import FakeSecretStore
from tests.support.network.scripted_servers import FixedResolver, LoopbackBackend, trusting_context
from tests.support.provider.fake_anthropic import FakeAnthropic, Served
from tests.support.service_builder import assemble, client_of

ADDRESS = "160.79.104.10"
OTHER_ADDRESS = "160.79.104.11"
HOST = "gw.example.com"
OTHER_HOST = "api.deepseek.com"
PRIVATE_HOST = "inside.example.com"
MIXED_HOST = "mixed.example.com"
HOST_WITHOUT_RECORDS = "nowhere.example.com"
SILENT_HOST = "silent.example.com"
URL = f"https://{HOST}"


@dataclass(frozen=True, kw_only=True)
class CustomEndpointService:
    """A client of the service, with its resolver, network backend and provider."""

    http: httpx.AsyncClient
    resolver: FixedResolver
    backend: LoopbackBackend
    provider: FakeAnthropic


@asynccontextmanager
async def custom_endpoint_service(
    services: Services, database: Database, served: Served, *, url_checks_per_minute: int = 1000
) -> AsyncIterator[CustomEndpointService]:
    """Run the service. `served` has certificates for `HOST` and `OTHER_HOST`; the other hosts must be refused."""
    resolver = FixedResolver(
        gw_example_com=[[ADDRESS]],
        api_deepseek_com=[[OTHER_ADDRESS]],
        api_anthropic_com=[[ADDRESS]],
        inside_example_com=[["10.1.2.3"]],
        mixed_example_com=[[ADDRESS, "127.0.0.1"]],
        silent_example_com=[None],
    )
    port = urlsplit(served.base_url).port
    backend = LoopbackBackend({ADDRESS: port, OTHER_ADDRESS: port})
    guard = AddressGuard(resolver)
    transport = pinned_transport(guard, tls=trusting_context(), network_backend=backend)
    async with httpx.AsyncClient(transport=transport, trust_env=False) as custom, http_client() as trusted:
        world = assemble(
            services,
            units=UnitsOfWork(database),
            store=FakeSecretStore(),
            prober=AnthropicClient(trusted, custom_http=custom),
            guard=guard,
            url_checks_per_minute=url_checks_per_minute,
        )
        async with client_of(world) as client:
            yield CustomEndpointService(http=client, resolver=resolver, backend=backend, provider=served.fake)


# URL → reason of its refusal, one for each reason that needs no DNS lookup.
REFUSED_BY_POLICY = {
    "gw.example.com": "malformed",
    "http://gw.example.com": "scheme_not_https",
    "https://user:hunter2secret@gw.example.com": "userinfo_present",
    "https://gw.example.com:8443": "port_not_allowed",
    "https://gw.example.com/?a=hunter2secret": "query_present",
    "https://gw.example.com/#hunter2secret": "fragment_present",
    "https://10.0.0.1": "host_is_ip",
    "https://0x7f.1": "host_is_ip",
    "https://localhost": "host_is_localhost",
    "https://-gw.example.com": "host_invalid",
    "https://metadata.google.internal": "host_is_reserved_name",
    "https://gw.example.com/a/../b": "path_not_allowed",
}
REFUSED_BY_DNS = {
    f"https://{HOST_WITHOUT_RECORDS}": "dns_no_records",
    f"https://{PRIVATE_HOST}": "dns_private_address",
    f"https://{MIXED_HOST}": "dns_private_address",
}
