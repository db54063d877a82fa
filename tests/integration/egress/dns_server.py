"""A name server on loopback that answers as told."""

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

# Question (name, type) -> response code and records as in a zone file; None: silence.
Script: TypeAlias = Callable[[str, str], tuple[dns.rcode.Rcode, list[str]] | None]

_LONGEST = 65535


class NameServer(asyncio.DatagramProtocol):
    """Notes the questions and answers by the script, over UDP and TCP. `datagram_bytes`: more does not fit into one."""

    def __init__(self, script: Script, datagram_bytes: int = 512) -> None:
        self._script = script
        self._datagram_bytes = datagram_bytes
        self.questions: list[tuple[str, str]] = []
        self.port = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio's own transport for datagrams is no DatagramTransport in Python 3.11.
        self._transport = cast("asyncio.DatagramTransport", transport)
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        wire = self._answer(data, self._datagram_bytes)
        if wire is not None:
            self._transport.sendto(wire, addr)

    async def serve_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(2))
        wire = self._answer(await reader.readexactly(length), _LONGEST)
        if wire is not None:
            writer.write(len(wire).to_bytes(2) + wire)
        writer.close()

    def _answer(self, data: bytes, most_bytes: int) -> bytes | None:
        query = dns.message.from_wire(data)
        (question,) = query.question
        asked = (question.name.to_text(), dns.rdatatype.to_text(question.rdtype))
        self.questions.append(asked)
        scripted = self._script(*asked)
        if scripted is None:
            return None
        code, records = scripted
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        response.set_rcode(code)
        for record in records:
            name, ttl, *rest = record.split(maxsplit=4)
            response.answer.append(dns.rrset.from_text(name, int(ttl), *rest))
        wire = response.to_wire(max_size=_LONGEST)
        if len(wire) > most_bytes:
            response.flags |= dns.flags.TC
            response.answer.clear()
            wire = response.to_wire()
        return wire


def _sockets_of_one_port() -> tuple[socket.socket, socket.socket]:
    while True:
        stream_socket = socket.create_server(("127.0.0.1", 0))
        datagram_socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            datagram_socket.bind(stream_socket.getsockname())
        except OSError:  # somebody else's; another one, then
            stream_socket.close()
            datagram_socket.close()
        else:
            return stream_socket, datagram_socket


@asynccontextmanager
async def name_server(script: Script, *, datagram_bytes: int = 512) -> AsyncIterator[NameServer]:
    stream_socket, datagram_socket = _sockets_of_one_port()
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
