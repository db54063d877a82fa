"""Messages without streaming: the relay, a pass-through, the provider by itself, and LiteLLM if it is installed."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.load import Load, load
from bench.measures import Measure, progress
from bench.relay.setup import Peer

CONNECTIONS = 16
ROUNDS = 5
SECONDS = 1.5
MAX_CPU_MS = 3.5
MAX_COUNT_CPU_MS = 1.5
MIN_LITELLM_RATIO = 8


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round of one server."""

    load: Load
    cpu_ms: float


async def measure(relay: Peer, others: Sequence[Peer], body: str) -> list[Measure]:
    """Compare the relay with its peers in alternating rounds, so that other load affects all of them equally."""
    peers = (relay, *others)
    rounds: dict[str, list[Round]] = {peer.name: [] for peer in peers}
    counts: list[Round] = []
    for number in range(ROUNDS + 1):
        found = {peer.name: await _round(peer, "/v1/messages", body) for peer in peers}
        count = await _round(relay, "/v1/messages/count_tokens", body)
        if number:  # the first round is the warm-up
            for name, one in found.items():
                rounds[name].append(one)
            counts.append(count)
            shown = ", ".join(f"{name} {one.load.per_second:,.0f}/s" for name, one in found.items())
            progress(f"messages, round {number} of {ROUNDS}: {shown}")
    ours = rounds[relay.name]
    return [
        *(_ratio(ours, rounds[peer.name], peer) for peer in others),
        *(measure for peer in peers for measure in _of(peer, rounds[peer.name], is_relay=peer is relay)),
        Measure(
            name="relay, CPU time of count_tokens",
            value=statistics.median(it.cpu_ms for it in counts),
            unit="ms",
            at_most=MAX_COUNT_CPU_MS,
        ),
    ]


def _ratio(ours: Sequence[Round], theirs: Sequence[Round], peer: Peer) -> Measure:
    return Measure(
        name=f"relay, ratio to {peer.name}",
        value=statistics.median(
            mine.load.per_second / other.load.per_second for mine, other in zip(ours, theirs, strict=True)
        ),
        unit="x",
        at_least=MIN_LITELLM_RATIO if peer.name == "LiteLLM" else None,
        note="requests/s",
    )


def _of(peer: Peer, rounds: Sequence[Round], *, is_relay: bool) -> list[Measure]:
    def median(name: str) -> float:
        return statistics.median(float(getattr(it.load, name)) for it in rounds)

    return [
        Measure(name=f"{peer.name}, requests", value=median("per_second"), unit="/s"),
        Measure(
            name=f"{peer.name}, p50", value=median("p50_ms"), unit="ms", note=f"p99 {median('p99_ms'):.1f} ms"
        ),
        Measure(
            name=f"{peer.name}, CPU time",
            value=statistics.median(it.cpu_ms for it in rounds),
            unit="ms",
            at_most=MAX_CPU_MS if is_relay else None,
            note="per message",
        ),
        Measure(name=f"{peer.name}, memory", value=peer.memory_kb() / 1024, unit="MB"),
    ]


async def _round(peer: Peer, path: str, body: str) -> Round:
    before = peer.cpu_seconds()
    found = await load(peer.port, peer.wire(path, body), connections=CONNECTIONS, seconds=SECONDS)
    assert found.errors == 0, f"{peer.name}: {found.errors} of {found.requests} requests failed"
    return Round(load=found, cpu_ms=(peer.cpu_seconds() - before) / found.requests * 1000)
