"""Customers' hosts that respond badly, as a separate process, so that they do not delay the clients that measure."""

import asyncio
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.support.network.scripted_servers import AUTHORITY, Reader, Writer, http_response

INFORMATIONAL_RESPONSES = 38_000


@asynccontextmanager
async def bad_hosts(listener: socket.socket, hosts: Sequence[str], directory: Path) -> AsyncIterator[None]:
    """Serve these hosts over TLS until the block ends. `directory` gets the certificate and its private key."""
    certificate = directory / "bad-hosts.pem"
    AUTHORITY.issue_cert(*hosts).private_key_and_cert_chain_pem.write_to_path(certificate)
    descriptor = listener.fileno()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.support.processes.bad_hosts", str(descriptor), str(certificate)),
        cwd=Path(__file__).parents[3],
        pass_fds=[descriptor],
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline(), "the bad hosts did not start"
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _respond_badly(reader: Reader, writer: Writer) -> None:
    """Hang until the client disconnects, or send many informational responses to a key that says so."""
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if "-continue" in head:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * INFORMATIONAL_RESPONSES + http_response())
            await writer.drain()
        else:
            await reader.read()
    writer.transport.abort()


async def _main(descriptor: int, certificate: str) -> None:
    os.nice(19)  # hosts of a real attacker would not use this machine's processors
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = await asyncio.start_server(_respond_badly, sock=socket.socket(fileno=descriptor), ssl=context)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), sys.argv[2]))
