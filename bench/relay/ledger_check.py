"""Compares the usage ledger with what the provider counted, call by call."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.measures import Measure, progress
from bench.relay.soak_provider import DELTAS, TEXT

# An aborted stream that reported no usage is estimated from the bytes of its deltas, a quarter of a token each.
_MOST_ESTIMATED = DELTAS * len(TEXT.encode()) // 4 + 1
_SHOWN = 5


@dataclass(kw_only=True)
class LedgerCheck:
    """The rows by outcome, what disagrees, and the tokens of both sides without those that were estimated."""

    outcomes: Counter[str] = field(default_factory=Counter)
    disagreements: list[str] = field(default_factory=list)
    ledger_tokens: int = 0
    provider_tokens: int = 0

    def measures(self) -> list[Measure]:
        for text in self.disagreements[:_SHOWN]:
            progress(text)
        return [
            Measure(
                name="soak, rows that disagree with the provider",
                value=len(self.disagreements),
                unit="",
                at_most=0,
                note=", ".join(f"{number} {outcome}" for outcome, number in sorted(self.outcomes.items())),
            ),
            Measure(
                name="soak, tokens of the ledger less those of the provider",
                value=abs(self.ledger_tokens - self.provider_tokens),
                unit="",
                at_most=0,
                note=f"{self.provider_tokens:,} tokens",
            ),
        ]


def compare(journal: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> LedgerCheck:
    """Match every row of the ledger with one entry of the provider's journal."""
    check = LedgerCheck(outcomes=Counter(row["outcome"] for row in rows))
    by_id: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_id.setdefault(row["provider_request_id"], []).append(row)
    for call in journal:
        _compare_call(check, call, by_id.pop(f"req_{call['number']}", []))
    check.disagreements += [f"the provider does not know {id_}" for id_ in by_id]
    return check


def _compare_call(check: LedgerCheck, call: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    if len(rows) != 1:
        check.disagreements.append(f"call {call['number']} has {len(rows)} rows")
        return
    (row,) = rows
    counted = (call["input_tokens"], call["cache_read_input_tokens"], call["output_tokens"])
    ledger = (row["uncached_input_tokens"], row["cache_read_tokens"], row["output_tokens"])
    if row["usage_source"] == "reported":
        check.provider_tokens += sum(counted)
        check.ledger_tokens += sum(ledger)
        agrees = ledger == counted and (row["outcome"] == "failed") == call["fails"]
    else:
        # The client left. The input is known from the first event.
        agrees = (
            row["outcome"] == "aborted"
            and call["is_stream"]
            and ledger[:2] == counted[:2]
            and 1 <= ledger[2] <= _MOST_ESTIMATED
        )
    if not agrees:
        check.disagreements.append(
            f"call {call['number']}: {row['outcome']}, {row['usage_source']}, {ledger} is not {counted}"
        )
