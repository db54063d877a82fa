"""Checks corpus files against the URL type and the DNS check of the service.

    python -m tests.url_policy_corpus FILE.jsonl [...]

A corpus file has one JSON object per line: `id`, `input` (the text, or null), `resolves_to` (addresses by canonical
host, or null if no DNS lookup may happen), `expect` (accept | reject), `canonical`, `reason`, and optionally
`alt_reasons` (equally correct reasons) and `debatable`. The script prints one JSON line for each disagreement, then a
count. The exit status is 1 if a disagreement is not debatable.
"""

import asyncio
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from app.api.field_errors import FIELD_ERRORS
from app.core.url_errors import UrlRefused
from app.egress.resolver import AddressGuard
from app.provider_url.url import OptionalProviderURL, ProviderURL

DEFAULT_ENDPOINT = "https://api.anthropic.com/v1/messages"
UNEXPECTED_LOOKUP = "unexpected_lookup"

_FIELD: TypeAdapter[ProviderURL | None] = TypeAdapter(OptionalProviderURL)


class CaseResolver:
    """Resolves the hosts of one case, and records whether a lookup happened."""

    def __init__(self, records: Mapping[str, Sequence[str]] | None) -> None:
        self._records = records or {}
        self.was_used = False

    async def addresses(self, host: str) -> Sequence[str]:
        self.was_used = True
        return self._records.get(host, ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result for one input. `canonical` is set if and only if the input was accepted."""

    reason: str
    canonical: str | None

    @property
    def decision(self) -> str:
        return "reject" if self.canonical is None else "accept"


async def evaluate(case: Mapping[str, Any]) -> Outcome:
    """Validate the URL's type first, then the addresses of its host."""
    resolver = CaseResolver(case["resolves_to"])
    try:
        url = _FIELD.validate_python(case["input"])
    except ValidationError as error:
        code, _ = FIELD_ERRORS[error.errors()[0]["type"]]  # as a response has it
        return Outcome(reason=code, canonical=None)
    if url is None:
        return Outcome(reason="ok", canonical=DEFAULT_ENDPOINT)
    try:
        await AddressGuard(resolver).resolve_and_validate(url.host)
    except UrlRefused as refusal:
        outcome = Outcome(reason=refusal.reason.value, canonical=None)
    else:
        outcome = Outcome(reason="ok", canonical=url.messages_url)
    if resolver.was_used and case["resolves_to"] is None:
        return Outcome(reason=UNEXPECTED_LOOKUP, canonical=None)
    return outcome


def is_as_expected(case: Mapping[str, Any], outcome: Outcome) -> bool:
    if outcome.decision != case["expect"]:
        return False
    if outcome.canonical is None:
        return outcome.reason in {case["reason"], *case.get("alt_reasons", ())}
    return bool(outcome.canonical == case["canonical"] == ProviderURL(outcome.canonical))


def read(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            yield from (json.loads(line) for line in lines if line.strip())


async def run(paths: Iterable[Path]) -> int:
    """Print the disagreements and their count. Return 1 if one of them is not debatable, else 0."""
    cases = disagreements = debatable = 0
    for case in read(paths):
        cases += 1
        outcome = await evaluate(case)
        if is_as_expected(case, outcome):
            continue
        is_debatable = bool(case.get("debatable"))
        debatable += is_debatable
        disagreements += not is_debatable
        line = {
            "id": case["id"],
            "input": case["input"],
            "expect": case["expect"],
            "got": outcome.decision,
            "reason": outcome.reason,
            "canonical": outcome.canonical,
        }
        print(json.dumps(line | {"debatable": True} if is_debatable else line))
    print(f"{cases} cases: {disagreements} disagreements, and {debatable} on debatable cases")
    return 1 if disagreements else 0


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(__doc__)
    sys.exit(asyncio.run(run(map(Path, sys.argv[1:]))))
