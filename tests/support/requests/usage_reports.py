"""Helpers for report tests: random events, random report parameters, and the request."""

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from tests.support.database.ledger import Event, event
from tests.support.oracles.report import DIMENSIONS, ReportParameters, utc
from tests.support.tenant import Tenant

ZONES = (
    *("UTC", "America/New_York", "Europe/Berlin", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe"),
    *("America/Havana", "Africa/Cairo", "America/St_Johns", "Pacific/Apia", "Pacific/Chatham"),
)
CREDENTIALS = [UUID(int=number) for number in (7, 8)]
MEASURES = (
    *("requests", "-requests", "-estimated_cost", "estimated_cost", "-billed_cost", "-output_tokens"),
    *("-uncached_input_tokens", "cache_read_input_tokens", "-web_search_requests", "-unpriced_requests"),
)
WIDTHS = ("1h", "1d", "1mo", "all")
# Times around clock changes on both hemispheres in 2026.
STARTS = [
    utc(2026, 3, 7, 4),
    utc(2026, 3, 28, 22),
    utc(2026, 4, 3, 14),
    utc(2026, 10, 3, 14),
    utc(2026, 10, 24, 23),
    utc(2026, 10, 31, 23),
]


async def report(tenant: Tenant, parameters: ReportParameters, **more: Any) -> dict[str, Any]:
    response = await tenant.get(f"{tenant.path}/usage-report", params=parameters.query | more)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def random_event(chance: random.Random, start: datetime, length: timedelta) -> Event:
    at = start + timedelta(microseconds=chance.randrange(length // timedelta(microseconds=1)))
    if chance.random() < 0.2:
        at = at.replace(minute=chance.choice((0, 15, 30, 45)), second=0, microsecond=0)
    mode = chance.choice(("managed", "byo"))
    return event(
        at,
        mode=mode,
        model=chance.choice(
            ("claude-haiku-4-5", "claude-haiku-4-5-20251001", "claude-opus-4-1", "gateway/Ünïcode")
        ),
        endpoint_id=chance.choice((None, "endpoint_a", "endpoint_b")),
        feature=chance.choice((None, "", "a", "B", "é", "=1+1")),
        session_id=chance.choice((None, "s1", "s2")),
        prompt_id=chance.choice((None, "p1")),
        credential_id=chance.choice(CREDENTIALS) if mode == "byo" else None,
        key_version=chance.choice((1, 2)) if mode == "byo" else None,
        outcome=chance.choice(("succeeded", "failed", "aborted")),
        usage_source=chance.choice(("reported", "estimated")),
        service_tier=chance.choice((None, "standard", "batch")),
        speed=chance.choice((None, "standard", "fast")),
        inference_geo=chance.choice((None, "us")),
        flags=chance.choice((0, 0, 1, 2, 3, 8, 15)),
        uncached_input_tokens=chance.randrange(10**9),
        cache_write_5m_tokens=chance.randrange(1000),
        cache_write_1h_tokens=chance.randrange(1000),
        cache_read_tokens=chance.randrange(2**62),
        output_tokens=chance.randrange(10**5),
        web_search_requests=chance.randrange(3),
        cost=chance.choice((None, 0, 5500, chance.randrange(10**18), 9 * 10**18)),
    )


def corrections(chance: random.Random, events: Sequence[Event]) -> list[Event]:
    """Return corrections for some unpriced events; some events get two."""
    found = []
    for it in events:
        if it.cost is None and chance.random() < 0.5:
            same = {
                name: getattr(it, name) for name in ("mode", "model", "endpoint_id", "feature", "outcome")
            }
            same |= {
                name: getattr(it, name)
                for name in ("session_id", "prompt_id", "credential_id", "key_version", "usage_source")
            }
            same |= {name: getattr(it, name) for name in ("service_tier", "speed", "inference_geo", "flags")}
            found += [
                event(
                    it.started_at,
                    event_id=it.event_id,
                    correction=number,
                    cost=chance.randrange(10**12),
                    **same,
                )
                for number in range(1, chance.choice((2, 3)))
            ]
    return found


def random_parameters(chance: random.Random, start: datetime, length: timedelta) -> ReportParameters:
    since = start + length * chance.uniform(-0.2, 0.5)
    until = since + length * chance.uniform(0.01, 1)
    if chance.random() < 0.5:
        since, until = (
            it.replace(minute=0, second=0, microsecond=0) for it in (since, until + timedelta(hours=1))
        )
    some = chance.sample(DIMENSIONS, chance.choice((0, 1, 2, 2, 3, 9)))
    if chance.random() < 0.2:
        some = [*some, "flag"]
    if chance.random() < 0.3:
        some = [name for name in some if name in {"usage_mode", "model"}]
    values: dict[str, list[Any]] = {
        "usage_mode": ["byo"],
        "model": [chance.choice(("claude-haiku-4-5", "claude-haiku-4-5-latest")), "unheard-of"],
        "endpoint_id": ["endpoint_a"],
        "feature": ["a", "é"],
        "session_id": ["s1"],
        "prompt_id": ["p1"],
        "credential_id": CREDENTIALS[:1],
        "key_version": [2],
        "outcome": ["failed", "aborted"],
        "usage_source": ["estimated"],
        "service_tier": ["batch", "standard"],
        "speed": ["fast"],
        "inference_geo": ["us"],
        "flag": ["cache_ttl_assumed", "mixed_models"],
    }
    optional = (
        *("endpoint_id", "feature", "session_id", "prompt_id", "credential_id", "key_version"),
        *("service_tier", "speed", "inference_geo", "flag"),
    )
    filtered = chance.sample(sorted(values), chance.choice((0, 0, 1, 2)))
    return ReportParameters(
        starting_at=since,
        ending_at=until,
        bucket_width=chance.choice(WIDTHS),
        time_zone=chance.choice(ZONES),
        group_by=some,
        filters={name: values[name] for name in filtered},
        without=chance.sample(optional, chance.choice((0, 0, 0, 1, 2))),
        order_by=chance.choice((None, None, *MEASURES)),
        top=chance.choice((None, None, None, 1, 3, 100)),
    )
