"""The processes of the relay's benchmarks: providers, peers, and an organization whose key the relay uses."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import trustme

from bench.load import request
from tests.support.processes.commands import byok
from tests.support.processes.service import Service, free_port, until
from tests.support.provider.fake_anthropic import make_key

ORGANIZATION = "org_bench"
PREFIX = "/relay/anthropic"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A server under load."""

    name: str
    port: int
    process: psutil.Process
    prefix: str = ""
    token: str = ""

    def cpu_seconds(self) -> float:
        spent = self.process.cpu_times()
        return float(spent.user + spent.system)

    def memory_kb(self) -> float:
        return float(self.process.memory_info().rss) / 1024

    def wire(self, path: str, body: str) -> bytes:
        return request("POST", f"{self.prefix}{path}", token=self.token, body=body)


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A certificate for 127.0.0.1 with its key, and the authority that signed it."""

    file: Path
    ca_file: Path


@contextmanager
def certificate() -> Iterator[Certificate]:
    with TemporaryDirectory() as name:
        directory = Path(name)
        made = Certificate(file=directory / "certificate.pem", ca_file=directory / "ca.pem")
        authority = trustme.CA()
        authority.cert_pem.write_to_path(made.ca_file)
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(made.file)
        yield made


@dataclass(frozen=True, kw_only=True)
class RelayUser:
    """The relay as one organization sees it, and the credential whose key it uses."""

    service: Service
    peer: Peer
    credential_id: str


async def relay_user(service: Service) -> RelayUser:
    """Save a key, use it, and get a token for the relay that is valid for all of a benchmark."""
    saved = (await service.save(ORGANIZATION, make_key())).json()
    mode = {"mode": "byo", "credential_id": saved["id"]}
    await service.request("PUT", f"/v1/organizations/{ORGANIZATION}/usage-mode", json=mode)
    arguments = ("token", "--organization", ORGANIZATION, "--scope", "relay:messages", "--ttl", "12h")
    token = (await byok(*arguments, cwd=service.home, **service.environment)).stdout.strip()
    peer = Peer(
        name="relay",
        port=service.port,
        process=psutil.Process(service.process.pid),
        prefix=PREFIX,
        token=token,
    )
    return RelayUser(service=service, peer=peer, credential_id=saved["id"])


@asynccontextmanager
async def python_peer(name: str, module: str, *arguments: str) -> AsyncIterator[Peer]:
    """Run a module of this package as a server."""
    port = free_port()
    async with served(name, port, *(sys.executable, "-m", module, *arguments, "--port", str(port))) as peer:
        yield peer


@asynccontextmanager
async def served(
    name: str,
    port: int,
    *command: str,
    environment: dict[str, str] | None = None,
    seconds: float = 60,
    output: int | None = None,
) -> AsyncIterator[Peer]:
    """Run a server until the block ends; the block starts when it accepts connections."""
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=output, stderr=output)

    async def is_listening() -> bool:
        assert process.returncode is None, f"{name} ended"
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionError:
            return False
        writer.close()
        return True

    try:
        await until(is_listening, f"{name} listens", seconds=seconds)
        yield Peer(name=name, port=port, process=psutil.Process(process.pid))
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
