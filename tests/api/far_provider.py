"""A service whose customers' hosts are one provider on loopback: a fixed resolver, and a dialer that goes astray."""

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
from app.egress.transport import vetted_transport
from tests.assembly import assemble, client_of
from tests.fake_anthropic import FakeAnthropic, Served
from tests.fakes import FakeSecretStore
from tests.integration.egress.far_side import Detour, FixedResolver, trusting_context

ADDRESS = "160.79.104.10"
OTHER_ADDRESS = "160.79.104.11"
HOST = "gw.example.com"
OTHER_HOST = "api.deepseek.com"
PRIVATE_HOST = "inside.example.com"
MIXED_HOST = "mixed.example.com"
NOWHERE = "nowhere.example.com"
SILENT_HOST = "silent.example.com"
URL = f"https://{HOST}"


@dataclass(frozen=True, kw_only=True)
class FarWorld:
    """The client of such a service, and what its ways out saw."""

    http: httpx.AsyncClient
    resolver: FixedResolver
    detour: Detour
    provider: FakeAnthropic


@asynccontextmanager
async def far_world(
    services: Services, database: Database, far: Served, *, url_checks_per_minute: int = 1000
) -> AsyncIterator[FarWorld]:
    """`far` speaks TLS for `HOST` and `OTHER_HOST`; the other hosts lead nowhere good."""
    resolver = FixedResolver(
        gw_example_com=[[ADDRESS]],
        api_deepseek_com=[[OTHER_ADDRESS]],
        inside_example_com=[["10.1.2.3"]],
        mixed_example_com=[[ADDRESS, "127.0.0.1"]],
        silent_example_com=[None],
    )
    port = urlsplit(far.base_url).port
    detour = Detour({ADDRESS: port, OTHER_ADDRESS: port})
    guard = AddressGuard(resolver)
    transport = vetted_transport(guard, tls=trusting_context(), dialer=detour)
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
            yield FarWorld(http=client, resolver=resolver, detour=detour, provider=far.fake)


# Text → why it is refused, one for each reason that needs no DNS.
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
    f"https://{NOWHERE}": "dns_no_records",
    f"https://{PRIVATE_HOST}": "dns_private_address",
    f"https://{MIXED_HOST}": "dns_private_address",
}
