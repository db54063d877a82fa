"""Compares all responses about an organization's usage with the oracle."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from tests.support.oracles.corrections import (
    compare_rejection,
    compare_repeated_requests,
    expected_rows,
)
from tests.support.oracles.usage import ModeChange, Row
from tests.support.oracles.usage_statements import month_of, parse_statement, statement
from tests.support.oracles.usage_totals import (
    DIMENSIONS,
    ReportParameters,
    crossed,
    expected_spend,
    parse_report,
    period_of,
    pico,
    report,
)
from tests.support.usage.random_events import MODELS, ZONES, canonical_json
from tests.support.usage.scenario_organization import OrganizationClient, SentEvent

_WIDTHS = ("1h", "1d", "1mo", "all")
_COMBINATIONS = 5
_REPETITIONS = {"duplicate_event", "event_id_conflict"}
_TOKENS = {
    "uncached_input": "uncached_input_tokens",
    "cache_write_5m": "ephemeral_5m_input_tokens",
    "cache_write_1h": "ephemeral_1h_input_tokens",
    "cache_read": "cache_read_input_tokens",
    "output": "output_tokens",
    "web_search_requests": "web_search_requests",
}


async def compare(organization: OrganizationClient, seed: int) -> int:
    """Record all differences; return the number of ledger rows."""
    await _compare_mode_history(organization)
    accepted = _find_accepted(organization)
    rows = await _compare_rows(organization, accepted)
    await _compare_reports(organization, rows, Random(seed))
    await _compare_limits(organization, rows)
    await _compare_statements(organization, rows)
    return len(rows)


async def _compare_mode_history(it: OrganizationClient) -> None:
    """Check that the history contains all changes that became active, and none that was replaced earlier."""
    found: dict[datetime, ModeChange] = {}
    page = None
    while True:
        params = {"limit": 100} | ({} if page is None else {"page": page})
        body = await it.request_json("GET", "/usage-mode/history", params=params)
        for one in body["data"]:
            at = datetime.fromisoformat(one["effective_from"])
            found[at] = ModeChange(at=at, mode=one["mode"], credential_id=one["credential_id"])
        page = body["next_page"]
        if page is None:
            break
    expected = {}
    for state in it.applied_changes:
        at = datetime.fromisoformat(state["effective_from"])
        expected[at] = ModeChange(at=at, mode=state["mode"], credential_id=state["credential_id"])
    for one in it.scheduled:
        # If its start is during the request that replaced it, only the database knows whether it became active.
        has_begun = one.at in found
        if one.replaced is None or one.at < one.replaced[0] or (has_begun and one.at <= one.replaced[1]):
            expected[one.at] = ModeChange(at=one.at, mode=one.mode, credential_id=one.credential_id)
    it.expect_equal(
        "usage mode history",
        expected=sorted(expected.items(), key=_first),
        found=sorted(found.items(), key=_first),
    )
    it.state.mode_changes = list(expected.values())


def _first(pair: tuple[datetime, Any]) -> datetime:
    return pair[0]


def _find_accepted(it: OrganizationClient) -> dict[str, SentEvent]:
    """Check that each id is accepted once, and that other events with it are duplicates, conflicts or rejected."""
    by_id: dict[str, list[SentEvent]] = defaultdict(list)
    for sent in it.sent_events:
        by_id[sent.event["event_id"]].append(sent)
    accepted = {}
    for event_id, sent_events in by_id.items():
        accepted_events = [one for one in sent_events if one.status == "accepted"]
        unknown_events = [one for one in sent_events if one.status == "unknown"]
        if not accepted_events and unknown_events:
            accepted_events = [
                one
                for one in unknown_events
                if any(
                    canonical_json(one.event) == canonical_json(two.event)
                    for two in sent_events
                    if two.status == "duplicate"
                )
            ][:1]
        is_correction = all("corrects" in one.event for one in sent_events)
        it.expect_equal(
            "acceptances",
            event_id,
            expected=True,
            found=len(accepted_events) == 1 or (is_correction and not accepted_events),
        )
        if accepted_events:
            accepted[event_id] = accepted_events[0]
    for event_id, sent_events in by_id.items():
        for one in sent_events:
            if one is not accepted.get(event_id) and one.status != "unknown":
                _compare_status(it, one, accepted)
    return accepted


def _compare_status(it: OrganizationClient, sent: SentEvent, accepted: dict[str, SentEvent]) -> None:
    """Check the status of an event that was not accepted in this request."""
    expected = _expected_rejection(it, sent)
    if expected is None and "corrects" in sent.event and sent.code not in _REPETITIONS:
        compare_rejection(it, sent, accepted)
        return
    found = accepted.get(sent.event["event_id"])
    if expected is None and found is not None:
        is_same = canonical_json(sent.event) == canonical_json(found.event)
        expected = "duplicate" if is_same else "conflict"
    it.expect_equal("status", sent.event, expected=expected, found=sent.status)


def _expected_rejection(it: OrganizationClient, sent: SentEvent) -> str | None:
    """Return "rejected" if the event is invalid, outside the time range, or has an unknown credential."""
    event = sent.event
    started_at = datetime.fromisoformat(event["started_at"])
    is_in_time = sent.sent_at - timedelta(days=35) < started_at < sent.sent_at + timedelta(minutes=10)
    counters = [
        count for name in ("input_tokens", "output_tokens") if (count := event["usage"].get(name)) is not None
    ]
    is_one = "mode" not in event and event["outcome"] != "lost" and min(counters, default=-1) >= 0
    is_of_known = event.get("credential_id", it.events.credentials[0]) in it.events.credentials
    return None if is_in_time and is_one and is_of_known else "rejected"


async def _compare_rows(it: OrganizationClient, accepted: dict[str, SentEvent]) -> list[Row]:
    """Check that each accepted event has one row per model. Return them with the flags of the ledger.

    `ingested_at` must be between request and response.
    """
    response = await it.request("GET", "/usage-events", headers={"Accept": "text/csv"})
    assert response.status_code == 200, response.text
    listed_rows = list(csv.DictReader(io.StringIO(response.text)))
    it.expect_equal(
        "ids",
        expected=sorted(accepted),
        found=sorted(
            row["event_id"] for row in listed_rows if (row["part"], row["correction"]) == ("0", "0")
        ),
    )
    by_event: dict[str, list[dict[str, str]]] = defaultdict(list)
    for found in listed_rows:
        by_event[found["event_id"]].append(found)
    ingested = {}
    for event_id, parts in by_event.items():
        parts.sort(key=lambda row: (-int(row["correction"]), int(row["part"])))
        ingested[event_id] = datetime.fromisoformat(parts[0]["ingested_at"])
        sent = accepted.get(event_id)
        if sent is not None and sent.status == "accepted":
            is_within = sent.sent_at <= ingested[event_id] <= sent.responded_at
            it.expect_equal("ingested while the request ran", expected=True, found=is_within)
    flags = {event_id: parts[0]["flags"].split() for event_id, parts in by_event.items()}
    compare_repeated_requests(it, accepted, flags)
    rows = []
    for event_id, expected in expected_rows(it, accepted, ingested).items():
        parts = by_event[event_id]
        it.expect_equal("parts", event_id, expected=len(expected), found=len(parts))
        for row, found in zip(expected, parts, strict=False):
            it.expect_equal("row", event_id, expected=_expected_row(row), found=_parse_row(found))
            rows.append(replace(row, flags=found["flags"].split()))
    return rows


def _expected_row(row: Row) -> dict[str, Any]:
    return {
        "part": row.part,
        "correction": 0 if row.sign == 1 else -1,
        "ingested_at": row.ingested_at,
        "model": row.model,
        "usage_mode": row.usage_mode,
        "started_at": row.started_at,
        "outcome": row.outcome,
        "usage_source": row.usage_source,
        "service_tier": row.service_tier,
        "speed": row.speed,
        "inference_geo": row.inference_geo,
        "credential_id": row.credential_id,
        "key_version": row.key_version,
        "reservation_id": row.reservation_id,
        **row.tokens,
        "cost": row.cost,
        "billed": row.billed,
        "is_mismatch": row.is_mismatch,
    }


def _parse_row(found: dict[str, str]) -> dict[str, Any]:
    return {
        "part": int(found["part"]),
        "correction": int(found["correction"]),
        "ingested_at": datetime.fromisoformat(found["ingested_at"]),
        "model": found["model"],
        "usage_mode": found["usage_mode"],
        "started_at": datetime.fromisoformat(found["started_at"]),
        "outcome": found["outcome"],
        "usage_source": found["usage_source"],
        **{name: found[name] or None for name in ("service_tier", "speed", "inference_geo")},
        "credential_id": found["credential_id"] or None,
        "key_version": int(found["key_version"]) if found["key_version"] else None,
        "reservation_id": found["reservation_id"] or None,
        **{name: int(found[column]) for name, column in _TOKENS.items()},
        "cost": _pico(found["estimated_cost"]) if found["estimated_cost"] else None,
        "billed": _pico(found["billed_cost"]),
        "is_mismatch": "mode_mismatch" in found["flags"].split(),
    }


def _pico(usd: str) -> int:
    return pico({"amount": usd, "currency": "USD"})


def _report_parameters(random: Random) -> Iterator[ReportParameters]:
    """Yield every bucket width with every grouping over all events, and one range that cuts buckets."""
    now = datetime.now(UTC)
    groupings = [(), *((name,) for name in DIMENSIONS)]
    groupings += [tuple(random.sample(DIMENSIONS, random.randint(2, 5))) for _ in range(_COMBINATIONS)]
    first, last = now - timedelta(days=36), now + timedelta(minutes=10)
    for number, group_by in enumerate(groupings):
        for at, width in enumerate(_WIDTHS):
            zone = ZONES[(number + at) % len(ZONES)]
            yield ReportParameters(
                starting_at=first, ending_at=last, width=width, zone=zone, group_by=group_by
            )
        start = now - timedelta(days=random.uniform(0, 36))
        end = start + timedelta(days=random.uniform(0.1, 20))
        width, zone = random.choice(_WIDTHS), random.choice(ZONES)
        models = random.sample(MODELS, random.randrange(3))
        yield ReportParameters(
            starting_at=start, ending_at=end, width=width, zone=zone, group_by=group_by, models=models
        )


async def _compare_reports(it: OrganizationClient, rows: list[Row], random: Random) -> None:
    for parameters in _report_parameters(random):
        expected = report(rows, parameters)
        # Sometimes small pages, but not hundreds of them.
        limit = random.choice((1000, 1000, random.randint(3, 40) + len(expected) // 6))
        found = parse_report(await _pages(it, parameters, limit))
        it.expect_equal("length", parameters, expected=len(expected), found=len(found))
        for one, other in zip(expected, found, strict=False):
            it.expect_equal("report", parameters, expected=one, found=other)


async def _pages(it: OrganizationClient, parameters: ReportParameters, limit: int) -> list[dict[str, Any]]:
    pages: list[dict[str, Any]] = []
    page: dict[str, str] = {}
    while True:
        body = await it.request_json(
            "GET", "/usage-report", params=parameters.query | page | {"limit": limit}
        )
        pages.append(body)
        results = sum(len(bucket["results"]) for bucket in body["data"])
        it.expect_equal("length of a page", expected=True, found=results == limit or not body["has_more"])
        if not body["has_more"]:
            return pages
        page = {"page": body["next_page"]}


async def _compare_limits(it: OrganizationClient, rows: list[Row]) -> None:
    settled, unpriced = _find_settled(rows)
    for reservation in it.reservations.values():
        if "model" in reservation["requested"]:
            found = None if reservation["amount"] is None else pico(reservation["amount"])
            it.expect_equal("reserved amount", expected=it.estimate_of(reservation), found=found)
        at = datetime.fromisoformat(reservation["created_at"])
        change = it.state.mode_at(at)
        mode = "managed" if change is None else change.mode
        it.expect_equal("mode of a reservation", at, expected=mode, found=reservation["usage_mode"])
    await _compare_held(it, settled, unpriced)
    open_reservations = it.open_reservations(settled)
    asked_at = datetime.now(UTC)
    body = await it.request_json("GET", "/spend-limits", params={"limit": 100})
    responded_at = datetime.now(UTC)
    it.expect_equal("limits", expected=False, found=body["has_more"])
    for limit in body["data"]:
        starts_at = limit["period_starts_at"]
        start = None if starts_at is None else datetime.fromisoformat(starts_at)
        possible_starts = {period_of(limit["period"], at) for at in (asked_at, responded_at)}
        it.expect_equal("period", limit["name"], expected=True, found=start in possible_starts)
        expected = expected_spend(rows, open_reservations, limit, start)
        money = {name: pico(limit[name]) for name in expected if name != "unpriced_requests"}
        shown = money | {"unpriced_requests": limit["unpriced_requests"]}
        it.expect_equal("limit", limit["name"], expected=expected, found=shown)
        used = (expected["spent"] + expected["reserved"]) * 10_000 // pico(limit["amount"]) / 100
        it.expect_equal("percent used", expected=used, found=limit["percent_used"])
        uncorrected = [row for row in rows if row.sign == 1]
        most = expected_spend(uncorrected, open_reservations, limit, start)["spent"]
        _compare_crossings(it, limit, expected["spent"], most)


def _find_settled(rows: list[Row]) -> tuple[set[str], set[str]]:
    """Return the settled reservations, and those that stay charged because a part of their event has no price."""
    unpriced: dict[str, int] = defaultdict(int)
    for row in rows:
        if row.reservation_id is not None:
            unpriced[row.reservation_id] += row.unpriced
    charged = {id_ for id_, number in unpriced.items() if number}
    return unpriced.keys() - charged, charged


async def _compare_held(it: OrganizationClient, settled: set[str], unpriced: set[str]) -> None:
    """Check that the list contains exactly the reservations that are still charged, each in its state."""
    expected = {
        id_: "unpriced" if id_ in unpriced else "open or expired"
        for id_ in it.reservations
        if id_ not in settled | it.released
    }
    found: dict[str, str] = {}
    page: dict[str, str] = {}
    while True:
        body = await it.request_json("GET", "/spend-reservations", params={"limit": 100} | page)
        for one in body["data"]:
            is_open = one["state"] in {"open", "expired"}
            found[one["id"]] = "open or expired" if is_open else one["state"]
        if not body["has_more"]:
            break
        page = {"page": body["next_page"]}
    it.expect_equal("held reservations", expected=expected, found=found)


def _compare_crossings(it: OrganizationClient, limit: dict[str, Any], total: int, most: int) -> None:
    """Check that each threshold is crossed once, and only after the spend has reached it.

    A correction may lower the spend again. `most` is the spend without corrections.
    """
    thresholds = [one["threshold"] for one in limit["crossings"]]
    it.expect_equal("crossings", thresholds, expected=len(set(thresholds)), found=len(thresholds))
    reached, reachable = crossed(limit, total), crossed(limit, most)
    it.expect_equal("crossings", thresholds, expected=True, found=reached <= set(thresholds) <= reachable)
    for one in limit["crossings"]:
        at = pico(one["spent"])
        is_reached = one["threshold"] * pico(limit["amount"]) <= at * 100 and at <= most
        it.expect_equal("amount of a crossing", expected=limit["amount"], found=one["amount"])
        it.expect_equal("crossing", one, expected=True, found=is_reached)


async def _compare_statements(it: OrganizationClient, rows: list[Row]) -> None:
    present = datetime.now(UTC).replace(day=1)
    last = present - timedelta(days=1)
    for month in {month_of(at) for at in (present, last, last.replace(day=1) - timedelta(days=1))}:
        body = await it.request_json("GET", f"/billing-statements/{month}")
        is_closed = month in it.closed
        it.expect_equal(
            "status of the statement",
            month,
            expected="closed" if is_closed else "open",
            found=body["status"],
        )
        if is_closed:
            it.expect_equal("closed statement", month, expected=it.closed_as, found=body)
        expected = statement(
            rows,
            month,
            terms=it.terms_of_closed if is_closed else it.terms,
            peak=max((number for day, number in it.counts.items() if day.startswith(month)), default=0),
            closed=it.closed,
        )
        found = parse_statement(body)
        for name, value in expected.items():
            it.expect_equal(name, month, expected=value, found=found[name])
