"""A scripted DNS server on loopback."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias, cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

# Maps a query (name, type) to a response code and records in zone file syntax; None means no response.
Script: TypeAlias = Callable[[str, str], tuple[dns.rcode.Rcode, list[str]] | None]

_MAX_BYTES = 65535


class NameServer(asyncio.DatagramProtocol):
    """Records queries and responds by the script, over UDP and TCP.

    A response longer than `datagram_bytes` is truncated over UDP.
    """

    def __init__(self, script: Script, datagram_bytes: int = 512) -> None:
        self._script = script
        self._datagram_bytes = datagram_bytes
        self.queries: list[tuple[str, str]] = []
        self.port = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # In Python 3.11 asyncio's transport for datagrams is not a subclass of `DatagramTransport`.
        self._transport = cast("asyncio.DatagramTransport", transport)
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        wire = self._respond(data, self._datagram_bytes)
        if wire is not None:
            self._transport.sendto(wire, addr)

    async def serve_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(2))
        wire = self._respond(await reader.readexactly(length), _MAX_BYTES)
        if wire is not None:
            writer.write(len(wire).to_bytes(2) + wire)
        writer.close()

    def _respond(self, data: bytes, max_bytes: int) -> bytes | None:
        query = dns.message.from_wire(data)
        (question,) = query.question
        key = (question.name.to_text(), dns.rdatatype.to_text(question.rdtype))
        self.queries.append(key)
        scripted = self._script(*key)
        if scripted is None:
            return None
        code, records = scripted
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        response.set_rcode(code)
        for record in records:
            name, ttl, *rest = record.split(maxsplit=4)
            response.answer.append(dns.rrset.from_text(name, int(ttl), *rest))
        wire = response.to_wire(max_size=_MAX_BYTES)
        if len(wire) > max_bytes:
            response.flags |= dns.flags.TC
            response.answer.clear()
            wire = response.to_wire()
        return wire


def _sockets_on_one_port() -> tuple[socket.socket, socket.socket]:
    while True:
        stream_socket = socket.create_server(("127.0.0.1", 0))
        datagram_socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            datagram_socket.bind(stream_socket.getsockname())
        except OSError:  # another process uses this port: try another one
            stream_socket.close()
            datagram_socket.close()
        else:
            return stream_socket, datagram_socket


@asynccontextmanager
async def name_server(script: Script, *, datagram_bytes: int = 512) -> AsyncIterator[NameServer]:
    stream_socket, datagram_socket = _sockets_on_one_port()
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: NameServer(script, datagram_bytes), sock=datagram_socket
    )
    listener = await asyncio.start_server(server.serve_stream, sock=stream_socket)
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()
        transport.close()
