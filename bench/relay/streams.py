"""Paced streams: the CPU time of an event, the pace, memory, lag of the event loop, first bytes, and aborted streams."""

import asyncio
import re
import ssl
import statistics
import time

import httpx

from bench.measures import Measure
from bench.relay.peers import EVENTS, PACE_SECONDS
from bench.relay.setup import Certificate, Peer

STREAMS = 128
PAIRS = 40
MAX_CPU_US_AN_EVENT = 130
MAX_PACE = 1.05
MAX_KB_A_STREAM = 40
MAX_ABORT_MS = 100
MAX_LAG_MS = 10
MAX_FIRST_BYTE_MS, MAX_FIRST_BYTE_P99_MS = 6, 20
_ABORTED = 32  # fewer than the slots of an organization
_LAG = re.compile(r'byok_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)')


async def measure(relay: Peer, other: Peer, provider: Peer, body: str, tls: Certificate) -> list[Measure]:
    """Compare the relay's streams with another peer's and with those of the provider itself, which speaks TLS."""
    await _all_streams(relay, body)  # warm-up
    ideal = EVENTS * PACE_SECONDS
    lag_before = await _lag(relay)
    cpu_us, took, kb = await _paced(relay, body)
    lag = _p99_ms(lag_before, await _lag(relay))
    other_us, other_took, _ = await _paced(other, body)
    return [
        Measure(
            name="relay, CPU time of an event",
            value=cpu_us,
            unit="us",
            at_most=MAX_CPU_US_AN_EVENT,
            note=f"{STREAMS} streams; {other.name} {other_us:.0f} us",
        ),
        Measure(
            name="relay, duration of paced streams",
            value=took / ideal,
            unit="x",
            at_most=MAX_PACE,
            note=f"ideal: 1; {other.name} {other_took / ideal:.2f}",
        ),
        Measure(
            name="relay, lag of the event loop, p99",
            value=lag,
            unit="ms",
            at_most=MAX_LAG_MS,
            note=f"under {STREAMS} streams; the upper bound of its bucket",
        ),
        Measure(name="relay, memory of an open stream", value=kb, unit="KB", at_most=MAX_KB_A_STREAM),
        *await _first_bytes(relay, provider, body, tls),
        Measure(
            name="relay, abort to provider closed",
            value=await _abort_ms(relay, provider, body, tls),
            unit="ms",
            at_most=MAX_ABORT_MS,
            note="the slowest of a burst of aborts",
        ),
    ]


async def _paced(peer: Peer, body: str) -> tuple[float, float, float]:
    """CPU time of an event in us, seconds of all streams, KB of an open stream."""
    before, memory, started = peer.cpu_seconds(), peer.memory_kb(), time.perf_counter()
    running = asyncio.create_task(_all_streams(peer, body))
    await asyncio.sleep(EVENTS * PACE_SECONDS / 2)
    grown = max(0.0, peer.memory_kb() - memory) / STREAMS
    await running
    took = time.perf_counter() - started
    return (peer.cpu_seconds() - before) / STREAMS / EVENTS * 1e6, took, grown


async def _all_streams(peer: Peer, body: str) -> None:
    await asyncio.gather(*(_read_stream(peer, body) for _ in range(STREAMS)))


async def _read_stream(peer: Peer, body: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", peer.port)
    writer.write(peer.wire("/v1/messages", body))
    received = b""
    while b"message_stop" not in received[-400:]:
        chunk = await reader.read(65536)
        assert chunk, received[-400:]
        received += chunk
    writer.close()


async def _first_bytes(relay: Peer, provider: Peer, body: str, tls: Certificate) -> list[Measure]:
    """What the relay adds to the time to the first byte of a stream, when no other request runs."""
    trusted = ssl.create_default_context(cafile=str(tls.ca_file))
    added = []
    for number in range(PAIRS + 1):
        direct = await _first_byte_ms(provider, body, trusted)
        through = await _first_byte_ms(relay, body, None)
        if number:  # the first pair is the warm-up
            added.append(through - direct)
    added.sort()
    return [
        Measure(
            name="relay, added to the first byte, p50",
            value=statistics.median(added),
            unit="ms",
            at_most=MAX_FIRST_BYTE_MS,
        ),
        Measure(
            name="relay, added to the first byte, p99",
            value=added[len(added) * 99 // 100],
            unit="ms",
            at_most=MAX_FIRST_BYTE_P99_MS,
        ),
    ]


async def _first_byte_ms(peer: Peer, body: str, trusted: ssl.SSLContext | None) -> float:
    """On an open connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", peer.port, ssl=trusted)
    started = time.perf_counter()
    writer.write(peer.wire("/v1/messages", body))
    await reader.readuntil(b"message_start")
    took = (time.perf_counter() - started) * 1000
    writer.transport.abort()
    return took


async def _abort_ms(relay: Peer, provider: Peer, body: str, tls: Certificate) -> float:
    """How long the provider still has open streams after all clients left at once."""
    url = f"https://127.0.0.1:{provider.port}/open"
    opened = [await asyncio.open_connection("127.0.0.1", relay.port) for _ in range(_ABORTED)]
    for _, writer in opened:
        writer.write(relay.wire("/v1/messages", body))
    await asyncio.gather(*(reader.readuntil(b"message_start") for reader, _ in opened))
    trusted = ssl.create_default_context(cafile=str(tls.ca_file))
    async with httpx.AsyncClient(verify=trusted, trust_env=False) as http:
        await http.get(url)
        started = time.perf_counter()
        for _, writer in opened:
            writer.transport.abort()
        while int((await http.get(url)).text):  # noqa: ASYNC110  # polls another process
            await asyncio.sleep(0)
    return (time.perf_counter() - started) * 1000


async def _lag(relay: Peer) -> dict[float, float]:
    """The cumulative counts of the lag's buckets, by their upper bounds in seconds."""
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(f"http://127.0.0.1:{relay.port}/metrics")).text
    return {float(bound): float(count) for bound, count in _LAG.findall(text)}


def _p99_ms(before: dict[float, float], after: dict[float, float]) -> float:
    counts = {bound: count - before[bound] for bound, count in after.items()}
    total = counts[float("inf")]
    return next(bound for bound, count in sorted(counts.items()) if count >= total * 0.99) * 1000
