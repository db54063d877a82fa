"""Measures the cost of egress: requests over the vetting transport and over plain httpx, both on warm TLS connections.

python -m bench.egress               print the summary table
python -m bench.egress --serve PEM   the server: print its port, then send every request the same response
"""

import argparse
import asyncio
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from app.egress.resolver import AddressGuard
from app.egress.transport import pinned_transport
from bench.measures import Measure, progress, table
from tests.support.network.scripted_servers import (
    ADDRESS,
    HOST,
    FixedResolver,
    LoopbackBackend,
    certificate,
    http_response,
    trusting_context,
)

MIN_RATIO = 0.9
ROUNDS = 40
SECONDS = 0.25
CONCURRENCY = 8

BODY = b'{"data":[{"type":"model","id":"claude-haiku-5-5"}],"has_more":false}'
HEADERS = {"x-api-key": "sk-ant-api03-of-a-benchmark", "anthropic-version": "2023-06-01"}
PATH = "/v1/models?limit=1"


async def run() -> list[Measure]:
    """Alternate short rounds and take the median of their ratios, so that other load affects both sides equally."""
    async with _provider_server() as port:
        tls = trusting_context()
        guard = AddressGuard(FixedResolver(gw_example_com=[[ADDRESS]]))
        transport = pinned_transport(guard, tls=tls, network_backend=LoopbackBackend({ADDRESS: port}))
        async with (
            httpx.AsyncClient(transport=transport, base_url=f"https://{HOST}", trust_env=False) as vetted,
            httpx.AsyncClient(verify=tls, base_url=f"https://localhost:{port}", trust_env=False) as plain,
        ):
            rounds: list[dict[httpx.AsyncClient, float]] = []
            for number in range(ROUNDS + 1):
                order = (vetted, plain) if number % 2 else (plain, vetted)
                pair = {http: await _per_second(http) for http in order}
                if number:  # the first round is the warm-up
                    rounds.append(pair)
            ratios = [pair[vetted] / pair[plain] for pair in rounds]
            for name, http in (("vetted", vetted), ("plain httpx", plain)):
                progress(f"{name}: {statistics.median(pair[http] for pair in rounds):,.0f} requests/s")
    return [
        Measure(
            name="vetted requests, ratio to plain httpx",
            value=statistics.median(ratios),
            unit="x",
            at_least=MIN_RATIO,
            note=f"TLS, {CONCURRENCY} at a time",
        ),
        Measure(name="vetted requests", value=statistics.median(pair[vetted] for pair in rounds), unit="/s"),
    ]


async def _per_second(http: httpx.AsyncClient) -> float:
    started_at = time.perf_counter()
    ends_at = started_at + SECONDS

    async def send_requests() -> int:
        sent = 0
        while time.perf_counter() < ends_at:
            response = await http.get(PATH, headers=HEADERS)
            assert response.content == BODY
            sent += 1
        return sent

    sent = sum(await asyncio.gather(*(send_requests() for _ in range(CONCURRENCY))))
    return sent / (time.perf_counter() - started_at)


@asynccontextmanager
async def _provider_server() -> AsyncIterator[int]:
    """Run the server in a separate process, so that its work does not count."""
    with tempfile.TemporaryDirectory(prefix="byok-bench-") as directory:
        pem = Path(directory, "server.pem")
        certificate(HOST, "localhost").private_key_and_cert_chain_pem.write_to_path(pem)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.egress", "--serve", str(pem)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            line = await process.stdout.readline()
            assert line, "the server did not start"
            yield int(line)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


class _FixedResponse(asyncio.Protocol):
    """Sends the fixed response to requests without a body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        *heads, self._received = (self._received + data).split(b"\r\n\r\n")
        for _ in heads:
            self._transport.write(http_response(BODY, "Content-Type: application/json"))


async def _serve(pem: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = await asyncio.get_running_loop().create_server(_FixedResponse, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--serve", type=Path, metavar="PEM")
    options = parser.parse_args()
    if options.serve is not None:
        asyncio.run(_serve(options.serve))
    measures = asyncio.run(run())
    print(f"\n{table(measures)}")
    return 0 if all(measure.is_met for measure in measures) else 1


if __name__ == "__main__":
    sys.exit(main())
