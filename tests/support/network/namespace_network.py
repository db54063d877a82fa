"""The service with providers, an unused proxy, and traps on private addresses, in network namespaces."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from tests.support.network.namespaces import (
    NAME_SERVER,
    PRIVATE,
    PROVIDERS,
    PROXY,
    Internet,
    fake_provider,
    internet,
    server_at,
)
from tests.support.network.scripted_servers import AUTHORITY, ScriptedServer
from tests.support.processes.service_in_namespace import NamespacedService, service_in
from tests.support.provider.fake_anthropic import FakeAnthropic

FAKE, HOSTILE, ELSEWHERE = PROVIDERS
WILDCARD = "*.example.com"
ALLOWED_HOST = "gateway.of-the-operator.com"
# Long enough for every response that should arrive.
PROVIDER_TIMEOUT = "2s"


@dataclass(frozen=True, kw_only=True)
class NamespaceNetwork:
    """A running service with its network. The fake provider has a certificate for `*.example.com`."""

    net: Internet
    service: NamespacedService
    fake: FakeAnthropic
    proxy: ScriptedServer
    traps: dict[str, ScriptedServer]
    key_log: Path

    @staticmethod
    def new_host() -> str:
        return f"gw-{uuid4().hex[:12]}.example.com"

    def trap_connections(self) -> dict[str, int]:
        """The number of connections to each private address."""
        return {address: trap.connections for address, trap in self.traps.items()}


@asynccontextmanager
async def namespace_network(directory: Path) -> AsyncIterator[NamespaceNetwork]:
    ca_file, key_log = directory / "ca.pem", directory / "tls-secrets"
    AUTHORITY.cert_pem.write_to_path(ca_file)
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
    async with AsyncExitStack() as stack:
        net = await stack.enter_async_context(internet())
        yield NamespaceNetwork(
            net=net,
            fake=await stack.enter_async_context(fake_provider(net.far, FAKE, WILDCARD)),
            proxy=await stack.enter_async_context(server_at(net.far, PROXY, port=3128)),
            traps={
                address: await stack.enter_async_context(server_at(net.near, address)) for address in PRIVATE
            },
            service=await stack.enter_async_context(
                service_in(
                    net.near,
                    environment={
                        "SSLKEYLOGFILE": str(key_log),
                        **dict.fromkeys(names, f"http://{PROXY}:3128"),
                    },
                    DNS__NAMESERVERS=NAME_SERVER,
                    PROVIDER__CA_FILE=str(ca_file),
                    PROVIDER__ALLOWED_HOSTS=ALLOWED_HOST,
                    PROVIDER__DEFAULT_BASE_URL="http://127.0.0.1:9",
                    PROVIDER__TIMEOUT=PROVIDER_TIMEOUT,
                )
            ),
            key_log=key_log,
        )
