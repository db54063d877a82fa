"""Measures the relay with everything on: token, reservation, key, ledger row; the provider speaks TLS.

It is compared in the same run with a pass-through (uvicorn and httpx, no checks), with the provider by itself, and with
LiteLLM's proxy if BYOK_BENCH_LITELLM names its program.
"""

from contextlib import AsyncExitStack

from bench.measures import Measure
from bench.relay import messages, streams
from bench.relay.litellm import litellm
from bench.relay.setup import certificate, python_peer, relay_user
from bench.relay.soak_clients import BODY, STREAM_BODY
from tests.support.processes.service import running

PEERS = "bench.relay.peers"


async def run() -> list[Measure]:
    async with AsyncExitStack() as stack:
        tls = stack.enter_context(certificate())
        bare = await stack.enter_async_context(python_peer("the provider by itself", PEERS, "provider"))
        provider = await stack.enter_async_context(
            python_peer("the provider", PEERS, "provider", "--certificate", str(tls.file))
        )
        url = f"https://127.0.0.1:{provider.port}"
        arguments = ("pass-through", "--upstream", url, "--ca-file", str(tls.ca_file))
        httpx_peer = await stack.enter_async_context(python_peer("the pass-through", PEERS, *arguments))
        proxy = await stack.enter_async_context(litellm(url, tls))
        service = await stack.enter_async_context(
            running(
                PROVIDER__DEFAULT_BASE_URL=url,
                PROVIDER__CA_FILE=str(tls.ca_file),
                RELAY__SLOTS_PER_ORGANIZATION=str(2 * streams.STREAMS),
            )
        )
        relay = (await relay_user(service)).peer
        others = [httpx_peer, bare] if proxy is None else [httpx_peer, bare, proxy]
        return [
            *await messages.measure(relay, others, BODY),
            *await streams.measure(relay, httpx_peer, provider, STREAM_BODY, tls),
        ]
