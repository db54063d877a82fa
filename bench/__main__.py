"""`make bench`: run all benchmarks and print a summary table. Exit code 1 if a target is missed."""

import asyncio
import sys

from bench import (
    decisions,
    egress,
    footprint,
    ingestion,
    kept_usage,
    leases,
    limits,
    listings,
    page,
    prices,
    reports,
    requests,
    url_policy,
)
from bench.measures import Measure, table
from bench.relay import comparison as relay


async def _measure() -> list[Measure]:
    print("\nPrices", flush=True)
    measures = prices.run()
    print("\nDecisions", flush=True)
    measures += decisions.run()
    for title, benchmark in (
        ("Requests", requests),
        ("Ingestion", ingestion),
        ("Kept usage objects", kept_usage),
        ("Limits", limits),
        ("Egress", egress),
        ("Relay", relay),
        ("Reports", reports),
        ("Listings", listings),
        ("Leases", leases),
        ("Page", page),
        ("Footprint", footprint),
    ):
        print(f"\n{title}", flush=True)
        measures += await benchmark.run()
    return measures


def main() -> int:
    print("URL policy", flush=True)
    has_failed = url_policy.measure() != 0
    measures = asyncio.run(_measure())
    print(f"\n{table(measures)}")
    if has_failed:
        print(f"The URL policy costs more than {url_policy.MAX_RATIO:g} times pydantic's parser.")
    return 1 if has_failed or not all(measure.is_met for measure in measures) else 0


if __name__ == "__main__":
    sys.exit(main())
