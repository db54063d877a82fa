"""Helpers to test probes: an endpoint, a probe with defaults, and servers that misbehave."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from app.core.keys.api_key import ApiKey
from app.credentials.validation_results import ValidationResult
from app.egress.anthropic import AnthropicClient
from app.provider_url.endpoint import AuthStyle, ProviderEndpoint

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def provider_endpoint(
    base_url: str,
    *,
    auth_style: AuthStyle = AuthStyle.X_API_KEY,
    workspace_id: str | None = None,
    is_default: bool = True,
) -> ProviderEndpoint:
    return ProviderEndpoint(
        base_url=None if is_default else base_url,
        messages_url=f"{base_url}/v1/messages",
        auth_style=auth_style,
        workspace_id=workspace_id,
        probe_model=None,
    )


async def send_probe(
    client: AnthropicClient,
    base_url: str,
    key: str,
    *,
    previously_valid: bool = False,
    timeout_seconds: float = 15.0,
) -> ValidationResult:
    return await client.probe(
        ApiKey.parse(key),
        provider_endpoint(base_url),
        previously_valid=previously_valid,
        timeout_seconds=timeout_seconds,
    )


@contextmanager
def refusing_port() -> Iterator[int]:
    """Yield a bound port that refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@asynccontextmanager
async def raw_server(peer: Peer) -> AsyncIterator[int]:
    """Run a server whose connections `peer` handles. Yields its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await peer(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def respond_with(response: bytes) -> Peer:
    """Read the head of a request, send `response` and close the connection."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)
        await writer.drain()

    return peer


async def never_respond(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Accept the connection and never respond."""
    await reader.read()


def reset_connection(writer: asyncio.StreamWriter) -> None:
    """Close the connection so that the peer gets ECONNRESET."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    writer.transport.abort()
