"""The relay's HTTP client with a fixed resolver, connecting to scripted servers on loopback."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from app.egress.resolver import AddressGuard
from app.relay.transport import ProviderClient, ProviderRequest, ProviderResponse, Timeouts, open_client
from tests.support.network.scripted_servers import (
    ADDRESS,
    URL,
    FixedResolver,
    ScriptedServer,
    trusting_context,
)

TIMEOUTS = Timeouts(connect_seconds=5.0, upload_seconds=5.0, idle_seconds=5.0)


@asynccontextmanager
async def provider_client(
    server: ScriptedServer | None = None,
    *,
    resolver: FixedResolver | None = None,
    timeouts: Timeouts = TIMEOUTS,
    operator_base_url: str = "https://api.anthropic.com",
    connected: list[str] | None = None,
) -> AsyncIterator[ProviderClient]:
    """Open a client that reaches `server` under every public address. `connected` gets the addresses."""
    port = 9 if server is None else server.port  # 9: nothing listens there

    def to_loopback(address: str, _port: int) -> tuple[str, int]:
        if connected is not None:
            connected.append(address)
        return "127.0.0.1", port

    async with AsyncExitStack() as resources:
        yield open_client(
            AddressGuard(resolver or FixedResolver(gw_example_com=[[ADDRESS]])),
            resources,
            operator_base_url=operator_base_url,
            tls=trusting_context(),
            timeouts=timeouts,
            route=to_loopback,
        )


def post(
    url: str = URL,
    *,
    body: bytes | None = b"{}",
    headers: Sequence[tuple[str, str]] = (("x-api-key", "k"),),
    is_custom: bool = True,
) -> ProviderRequest:
    return ProviderRequest(method="POST", url=url, headers=headers, body=body, is_custom=is_custom)


def get(url: str = URL, *, is_custom: bool = True) -> ProviderRequest:
    return ProviderRequest(method="GET", url=url, headers=[("x-api-key", "k")], is_custom=is_custom)


async def body_of(response: ProviderResponse) -> bytes:
    body = b""
    while chunk := await response.read():
        body += chunk
    return body
