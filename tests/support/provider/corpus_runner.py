"""Compares corpus files of provider responses with what the client and the decision table make of them."""

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.core.keys.api_key import ApiKey
from app.egress.http_client import http_client
from tests.support.provider.corpus_server import encoded, probe_case, serving

CONCURRENCY = 32
KEY = "sk-ant-api03-made-up-key-of-the-corpus-runner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the service says about the key. `row` is the row of the decision table; `error` is set if a case cannot be fed."""

    status: str | None = None
    reason: str | None = None
    row: str | None = None
    error: str | None = None


def is_as_expected(case: Mapping[str, Any], outcome: Outcome) -> bool:
    return any(
        outcome.status == accepted["status"] and outcome.reason in accepted["reasons"]
        for accepted in (case["expect"], *(case.get("also") or ()))
    )


def read(paths: Iterable[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The cases, each with the name of its file."""
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            yield from ((path.name, json.loads(line)) for line in lines if line.strip())


async def evaluate(cases: Sequence[Mapping[str, Any]]) -> list[Outcome]:
    """The outcome of each case. A case that cannot be fed has an error."""
    responses: list[bytes] = []
    errors: dict[int, str] = {}
    for index, case in enumerate(cases):
        try:
            responses.append(encoded(case))
        except (KeyError, TypeError, ValueError, LookupError) as error:
            responses.append(b"")
            errors[index] = f"{type(error).__name__}: {error}"
    slots = asyncio.Semaphore(CONCURRENCY)

    async def outcome(index: int, case: Mapping[str, Any]) -> Outcome:
        if index in errors:
            return Outcome(error=errors[index])
        try:
            is_as_expected(case, Outcome())  # refuses a case whose expectation cannot be read
            async with slots:
                result = await probe_case(http, base_url, index, case, ApiKey(KEY), previously_valid=False)
            return Outcome(status=result.status, reason=result.reason, row=result.row)
        except (KeyError, TypeError, ValueError) as error:
            return Outcome(error=f"{type(error).__name__}: {error}")

    async with serving(responses) as base_url, http_client() as http:
        return list(await asyncio.gather(*(outcome(index, case) for index, case in enumerate(cases))))


async def run(paths: Iterable[Path]) -> int:
    """Print the disagreements and their counts. Return 1 if one of them is not debatable, else 0."""
    corpus = list(read(paths))
    disagreements = debatable = 0
    outcomes = await evaluate([case for _, case in corpus])
    for (name, case), outcome in zip(corpus, outcomes, strict=True):
        if outcome.error is None and is_as_expected(case, outcome):
            continue
        is_debatable = bool(case.get("debatable"))
        debatable += is_debatable
        disagreements += not is_debatable
        got = {"status": outcome.status, "reason": outcome.reason, "row": outcome.row}
        if outcome.error is not None:
            got = {"error": outcome.error}
        expected = case.get("expect")
        line = {"corpus": name, "id": case.get("id"), "expected": expected, "expect": expected, "got": got}
        print(json.dumps(line | {"debatable": is_debatable}, ensure_ascii=False))
    counts = {"cases": len(corpus), "disagree": disagreements, "debatable_disagree": debatable}
    print(json.dumps(counts))
    return 1 if disagreements else 0
