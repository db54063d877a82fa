"""Measures the time to decide what a provider's response says about a key.

python -m bench.decisions
"""

import sys
import time
from typing import Final

from app.validation.decision_table import decide
from app.validation.provider_response import ProviderResponse
from bench.measures import Measure, progress
from tests.support.provider.provider_answers import MAX_BYTES, PROBES, Case, cases, content_of

MAX_MICROSECONDS: Final = 20.0
ROUNDS: Final = 100


def run() -> list[Measure]:
    """Decide the responses of all test cases, and take the best of several rounds."""
    read, decided = float("inf"), float("inf")
    contents = [(case, _content(case)) for case in cases()]
    for _ in range(ROUNDS):
        started_at = time.process_time()
        responses = [
            (case, ProviderResponse.read(case["status"], case["headers"], content))
            for case, content in contents
        ]
        read_at = time.process_time()
        for case, response in responses:
            decide(
                response,
                probe=PROBES[case["probe"]],
                is_anthropic=case["host"] == "anthropic",
                previously_valid=True,
                host="gw.example.com",
            )
        read = min(read, read_at - started_at)
        decided = min(decided, time.process_time() - read_at)
    reading, deciding = (seconds / len(contents) * 1e6 for seconds in (read, decided))
    progress(f"{len(contents)} responses: {reading:.1f} us to parse, {deciding:.1f} us to decide")
    return [
        Measure(
            name="decision about a response",
            value=deciding,
            unit="us",
            at_most=MAX_MICROSECONDS,
            note=f"mean of {len(contents)} responses",
        ),
        Measure(name="parsing a response", value=reading, unit="us"),
    ]


def _content(case: Case) -> bytes | None:
    content = content_of(case["body"])
    return None if len(content) > MAX_BYTES else content


if __name__ == "__main__":
    sys.exit(0 if all(measure.is_met for measure in run()) else 1)
