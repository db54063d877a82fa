"""A name server on loopback that answers as told."""

import asyncio
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


class NameServer(asyncio.DatagramProtocol):
    """Notes the questions and answers by the script."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.questions: list[tuple[str, str]] = []
        self.port = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio's own transport for datagrams is no DatagramTransport in Python 3.11.
        self._transport = cast("asyncio.DatagramTransport", transport)
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        (question,) = query.question
        asked = (question.name.to_text(), dns.rdatatype.to_text(question.rdtype))
        self.questions.append(asked)
        scripted = self._script(*asked)
        if scripted is None:
            return
        code, records = scripted
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        response.set_rcode(code)
        for record in records:
            name, ttl, *rest = record.split(maxsplit=4)
            response.answer.append(dns.rrset.from_text(name, int(ttl), *rest))
        self._transport.sendto(response.to_wire(), addr)


@asynccontextmanager
async def name_server(script: Script) -> AsyncIterator[NameServer]:
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: NameServer(script), local_addr=("127.0.0.1", 0)
    )
    try:
        yield server
    finally:
        transport.close()
