"""Paced streams: the CPU time of an event, the pace, memory, lag of the event loop, first bytes, and aborted streams."""

import asyncio
import json
import re
import ssl
import statistics
import time
from dataclasses import dataclass

import httpx

from bench.measures import Measure
from bench.relay.peers import EVENTS, PACE_SECONDS
from bench.relay.setup import Certificate, Peer

STREAMS = 128
ROUNDS = 5
PAIRS = 40
MAX_CPU_US_AN_EVENT = 130
MAX_PACE = 1.05
MAX_KB_A_STREAM = 40
MAX_ABORT_MS = 100
MAX_LAG_MS = 10
MAX_FIRST_BYTE_MS, MAX_FIRST_BYTE_P99_MS = 6, 20
_ABORTED = 32  # fewer than the slots of an organization
_LAG, _BUSY_LAG = (
    re.compile(rf'byok_event_loop_{name}_seconds_bucket\{{le="([^"]+)"\}} (\S+)')
    for name in ("lag", "busy_lag")
)


@dataclass(frozen=True, kw_only=True)
class Paced:
    """What rounds of paced streams took. Times are ratios to the pace of the provider.

    Attributes:
        cpu_us: CPU time of an event.
        duration: from the first request until the last response is complete, all streams opening at once.
        pace: duration of the slowest stream, from its first event to its last one.
        memory_kb: what an open stream takes.
        lag_ms: p99 of the event loop's lag, the upper bound of its bucket.
        busy_lag_ms: the same without the time in which the process waited for a processor.
        provider_lag_ms: the lag of the provider at the same time.
    """

    cpu_us: float
    duration: float
    pace: float
    memory_kb: float
    lag_ms: float
    busy_lag_ms: float
    provider_lag_ms: float


async def measure(relay: Peer, other: Peer, provider: Peer, body: str, tls: Certificate) -> list[Measure]:
    """Compare the relay's streams with another peer's and with those of the provider itself, which speaks TLS."""
    trusted = ssl.create_default_context(cafile=str(tls.ca_file))
    ours = await _paced(relay, provider, body, trusted)
    theirs = await _paced(other, provider, body, trusted)
    return [
        Measure(
            name="relay, CPU time of an event",
            value=ours.cpu_us,
            unit="us",
            at_most=MAX_CPU_US_AN_EVENT,
            note=f"{STREAMS} streams; {other.name} {theirs.cpu_us:.0f} us",
        ),
        Measure(
            name="relay, duration of paced streams",
            value=ours.duration,
            unit="x",
            at_most=MAX_PACE,
            note=f"with the opening of all at once; ideal: 1; {other.name} {theirs.duration:.2f}",
        ),
        Measure(
            name="relay, pace of the slowest stream",
            value=ours.pace,
            unit="x",
            at_most=MAX_PACE,
            note=f"from its first event; ideal: 1; {other.name} {theirs.pace:.2f}",
        ),
        Measure(
            name="relay, lag of the event loop, p99",
            value=ours.lag_ms,
            unit="ms",
            at_most=MAX_LAG_MS,
            note=f"{ours.provider_lag_ms:g} ms in the provider at the same time; {other.name} {theirs.lag_ms:g} ms",
        ),
        Measure(
            name="relay, lag without waits for a processor, p99",
            value=ours.busy_lag_ms,
            unit="ms",
            at_most=MAX_LAG_MS,
            note="what is left of the lag above if other processes would not use the processors",
        ),
        Measure(
            name="relay, memory of an open stream", value=ours.memory_kb, unit="KB", at_most=MAX_KB_A_STREAM
        ),
        *await _first_bytes(relay, provider, body, trusted),
        Measure(
            name="relay, abort to provider closed",
            value=await _abort_ms(relay, provider, body, trusted),
            unit="ms",
            at_most=MAX_ABORT_MS,
            note="the slowest of a burst of aborts",
        ),
    ]


async def _paced(peer: Peer, provider: Peer, body: str, trusted: ssl.SSLContext) -> Paced:
    """Run the rounds one after the other, so that the lag has hundreds of samples and few of them are idle ones.

    The lag also contains the time that the process waits for a processor. The provider's lag shows how long that is: it
    has as many events, and less to do for each.
    """
    await _all_streams(peer, body)  # warm-up
    urls = f"http://127.0.0.1:{peer.port}", f"https://127.0.0.1:{provider.port}"
    lags_before = [await _lags(url, trusted) for url in urls]
    spent, memory = peer.cpu_seconds(), peer.memory_kb()
    durations, paces, grown = [], [], 0.0
    for _ in range(ROUNDS):
        started = time.perf_counter()
        running = asyncio.create_task(_all_streams(peer, body))
        await asyncio.sleep(EVENTS * PACE_SECONDS / 2)
        grown = max(grown, peer.memory_kb() - memory)
        paces.append(await running / EVENTS / PACE_SECONDS)
        durations.append((time.perf_counter() - started) / EVENTS / PACE_SECONDS)
    spent = peer.cpu_seconds() - spent
    lags, provider_lags = [
        [_p99_ms(*both) for both in zip(before, await _lags(url, trusted), strict=True)]
        for before, url in zip(lags_before, urls, strict=True)
    ]
    return Paced(
        cpu_us=spent / ROUNDS / STREAMS / EVENTS * 1e6,
        duration=statistics.median(durations),
        pace=statistics.median(paces),
        memory_kb=grown / STREAMS,
        lag_ms=lags[0],
        busy_lag_ms=lags[1],
        provider_lag_ms=provider_lags[0],
    )


async def _all_streams(peer: Peer, body: str) -> float:
    """Open all streams at once. Returns the seconds of the slowest one, from its first event to its last one."""
    return max(await asyncio.gather(*(_read_stream(peer, body) for _ in range(STREAMS))))


async def _read_stream(peer: Peer, body: str) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", peer.port)
    writer.write(peer.wire("/v1/messages", body))
    last = await reader.readuntil(b"message_start")
    began_at = time.perf_counter()
    while b"message_stop" not in last:
        chunk = await reader.read(65536)
        assert chunk, last
        last = (last + chunk)[-400:]
    writer.close()
    return time.perf_counter() - began_at


async def _first_bytes(relay: Peer, provider: Peer, body: str, trusted: ssl.SSLContext) -> list[Measure]:
    """What the relay adds to the time to the first byte of a stream, when no other request runs.

    All connections are open already, or the relay must open one to the provider: it closes one whose stream is aborted.
    """
    short = json.dumps(json.loads(body) | {"max_tokens": 1})
    kept = await _added_ms(_FirstBytes(provider, short, trusted), _FirstBytes(relay, short, None))
    opened = await _added_ms(
        _FirstBytes(provider, body, trusted, is_aborted=True), _FirstBytes(relay, body, None, is_aborted=True)
    )
    return [
        Measure(
            name="relay, added to the first byte, p50",
            value=statistics.median(kept),
            unit="ms",
            at_most=MAX_FIRST_BYTE_MS,
            note=f"{statistics.median(opened):.2f} ms with a new connection to the provider",
        ),
        Measure(
            name="relay, added to the first byte, p99",
            value=_p99(kept),
            unit="ms",
            at_most=MAX_FIRST_BYTE_P99_MS,
            note=f"{_p99(opened):.2f} ms with a new connection to the provider",
        ),
    ]


class _FirstBytes:
    """Streams, one after the other, on a connection that is open before. A stream is read to its end, or aborted."""

    def __init__(
        self, peer: Peer, body: str, trusted: ssl.SSLContext | None, *, is_aborted: bool = False
    ) -> None:
        self._peer = peer
        self._request = peer.wire("/v1/messages", body)
        self._trusted = trusted
        self._is_aborted = is_aborted
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def next_ms(self) -> float:
        """Milliseconds from the request to the first event."""
        if self._connection is None:
            self._connection = await asyncio.open_connection("127.0.0.1", self._peer.port, ssl=self._trusted)
        reader, writer = self._connection
        started = time.perf_counter()
        writer.write(self._request)
        await reader.readuntil(b"message_start")
        took = (time.perf_counter() - started) * 1000
        if self._is_aborted:
            writer.transport.abort()
            self._connection = None
        else:
            await reader.readuntil(b"\r\n0\r\n\r\n")
        return took


async def _added_ms(direct: _FirstBytes, through: _FirstBytes) -> list[float]:
    """What the second adds to the first, in alternation, sorted."""
    added = []
    for number in range(PAIRS + 1):
        without = await direct.next_ms()
        took = await through.next_ms()
        if number:  # the first pair is the warm-up
            added.append(took - without)
    return sorted(added)


def _p99(values: list[float]) -> float:
    return values[len(values) * 99 // 100]


async def _abort_ms(relay: Peer, provider: Peer, body: str, trusted: ssl.SSLContext) -> float:
    """How long the provider still has open streams after all clients left at once."""
    url = f"https://127.0.0.1:{provider.port}/open"
    opened = [await asyncio.open_connection("127.0.0.1", relay.port) for _ in range(_ABORTED)]
    for _, writer in opened:
        writer.write(relay.wire("/v1/messages", body))
    await asyncio.gather(*(reader.readuntil(b"message_start") for reader, _ in opened))
    async with httpx.AsyncClient(verify=trusted, trust_env=False) as http:
        await http.get(url)
        started = time.perf_counter()
        for _, writer in opened:
            writer.transport.abort()
        while int((await http.get(url)).text):  # noqa: ASYNC110  # polls another process
            await asyncio.sleep(0)
    return (time.perf_counter() - started) * 1000


async def _lags(url: str, trusted: ssl.SSLContext) -> list[dict[float, float]]:
    """The cumulative counts of the buckets of both lags, by their upper bounds in seconds."""
    async with httpx.AsyncClient(verify=trusted, trust_env=False) as http:
        text = (await http.get(f"{url}/metrics")).text
    return [
        {float(bound): float(count) for bound, count in pattern.findall(text)}
        for pattern in (_LAG, _BUSY_LAG)
    ]


def _p99_ms(before: dict[float, float], after: dict[float, float]) -> float:
    counts = {bound: count - before[bound] for bound, count in after.items()}
    total = counts[float("inf")]
    return next(bound for bound, count in sorted(counts.items()) if count >= total * 0.99) * 1000
