"""Checks corpus files against the code that decodes and prices usage events.

    python -m tests.usage_costs_corpus FILE.jsonl [...]

A corpus file has one JSON object per line: `id`, `model`, `started_at`, `usage` (sent as it is), `override` (the
organization's only price override, or null), `expect` (`rejected`, `cost`, `flags_any`) and `debatable`. The script
prints one JSON line for each disagreement, then the counts. The exit status is 1 if a disagreement is not debatable.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from app.core.money import to_usd
from app.pricing.price_list import load_price_list
from app.pricing.prices import OrganizationPrices, OverrideList, PriceList
from app.pricing.schemas import PriceOverrideEntry
from app.usage.schemas import flag_names
from app.usage_events.event_decoder import EventRejected, decode_event
from app.usage_events.priced_event import price_event
from app.usage_events.records import UsageFlag

_LONG_BEFORE = datetime(2000, 1, 1, tzinfo=UTC)


class _Expectation(msgspec.Struct):
    rejected: bool
    cost: str | None
    flags_any: list[str] = []


class Case(msgspec.Struct):
    """One line of a corpus file. The usage object stays as it is written, down to the form of its numbers."""

    id: str
    model: str
    started_at: str
    usage: msgspec.Raw
    expect: _Expectation
    override: Any = None
    debatable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the service makes of one event. `cost` is in USD, None without a known price."""

    rejected: bool
    cost: str | None = None
    flags: tuple[str, ...] = ()
    code: str | None = None

    @property
    def shown(self) -> Mapping[str, Any]:
        return {"rejected": self.rejected, "cost": self.cost, "flags": self.flags, "code": self.code}


def evaluate(case: Case, price_list: PriceList) -> Result:
    """Decode and price the event of a case."""
    event = {
        "event_id": "corpus",
        "started_at": case.started_at,
        "model": case.model,
        "outcome": "succeeded",
        "usage": case.usage,
    }
    try:
        decoded = decode_event(msgspec.json.encode(event))
    except EventRejected as rejected:
        return Result(rejected=True, code=rejected.code)
    overrides = [] if case.override is None else [_override_list(case.override)]
    parts = price_event(
        decoded.event,
        OrganizationPrices(price_list, overrides),
        at=decoded.event.started_at,
        is_compatible_endpoint=False,
        flags=decoded.flags,
    )
    costs, flags = [part.cost for part in parts if part.cost is not None], UsageFlag.NONE
    cost = sum(costs) if len(costs) == len(parts) else None  # unknown if a part has no price
    for part in parts:
        flags |= UsageFlag(part.flags)
    return Result(rejected=False, cost=None if cost is None else to_usd(cost), flags=tuple(flag_names(flags)))


def _override_list(entry: Mapping[str, Any]) -> OverrideList:
    override = PriceOverrideEntry.model_validate(entry).to_domain()
    return OverrideList(
        number=1,
        effective_from=_LONG_BEFORE,
        set_at=_LONG_BEFORE,
        set_by="corpus",
        overrides=[override],
    )


def is_as_expected(case: Case, result: Result) -> bool:
    expected = case.expect
    if expected.rejected or result.rejected:
        return expected.rejected is result.rejected
    if expected.flags_any and not set(expected.flags_any) & set(result.flags):
        return False
    if expected.cost is None or result.cost is None:
        return expected.cost is result.cost
    return Decimal(expected.cost) == Decimal(result.cost)


def run(paths: Iterable[Path]) -> int:
    """Print the disagreements and the counts. Return 1 if a disagreement is not debatable, else 0."""
    price_list = load_price_list()
    cases = 0
    disagreements: dict[bool, int] = {False: 0, True: 0}
    for corpus, case in _read(paths):
        cases += 1
        result = evaluate(case, price_list)
        if is_as_expected(case, result):
            continue
        disagreements[case.debatable] += 1
        expected = msgspec.to_builtins(case.expect)
        line = {
            "corpus": corpus,
            "id": case.id,
            "expected": expected,
            "expect": expected,
            "got": result.shown,
        }
        print(json.dumps(line | {"debatable": case.debatable}))
    counts = {"cases": cases, "disagree": disagreements[False], "debatable_disagree": disagreements[True]}
    print(json.dumps(counts))
    return 1 if disagreements[False] else 0


def _read(paths: Iterable[Path]) -> Iterator[tuple[str, Case]]:
    decoder = msgspec.json.Decoder(Case)
    for path in paths:
        with path.open("rb") as lines:
            yield from ((path.name, decoder.decode(line)) for line in lines if line.strip())


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(__doc__)
    sys.exit(run(map(Path, sys.argv[1:])))
