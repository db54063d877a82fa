"""What tests of the probe share: a destination, a probe with defaults, and servers that misbehave."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from app.core.api_key import ApiKey
from app.credentials.verdicts import Verdict
from app.egress.anthropic import AnthropicClient
from app.provider_url.endpoint import AuthStyle, ProviderEndpoint

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def destination(
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


async def probed(
    client: AnthropicClient,
    base_url: str,
    key: str,
    *,
    previously_valid: bool = False,
    timeout_seconds: float = 15.0,
) -> Verdict:
    return await client.probe(
        ApiKey.parse(key),
        destination(base_url),
        previously_valid=previously_valid,
        timeout_seconds=timeout_seconds,
    )


@contextmanager
def refusing_port() -> Iterator[int]:
    """A port that is taken, so that nobody else gets it, and refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@asynccontextmanager
async def raw_server(peer: Peer) -> AsyncIterator[int]:
    """A server that says exactly what `peer` says; yields its port."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await peer(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def saying(answer: bytes) -> Peer:
    """Reads a request's head, says its line and hangs up."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    return peer


async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Accepts, listens, and never speaks."""
    await reader.read()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close so that the peer sees ECONNRESET."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    writer.transport.abort()
