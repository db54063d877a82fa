"""Everything that the service says of one organization's usage, held against the oracle."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from tests.e2e.usage_events import ZONES, same
from tests.e2e.usage_organization import Attempt, Organization
from tests.usage_oracle import Point, Row
from tests.usage_oracle_statements import month_of, statement, told_statement
from tests.usage_oracle_sums import DIMENSIONS, Asked, crossed, period_of, pico, report, spent, told

_WIDTHS = ("1h", "1d", "1mo", "all")
_COMBINATIONS = 5
_TOKENS = {
    "uncached_input": "uncached_input_tokens",
    "cache_write_5m": "ephemeral_5m_input_tokens",
    "cache_write_1h": "ephemeral_1h_input_tokens",
    "cache_read": "cache_read_input_tokens",
    "output": "output_tokens",
    "web_search_requests": "web_search_requests",
}


async def compare(organization: Organization, seed: int) -> int:
    """Notes what differs; returns how many rows of the ledger there are."""
    await _timeline(organization)
    accepted = _accepted(organization)
    rows = await _rows(organization, accepted)
    await _reports(organization, rows, Random(seed))
    await _limits(organization, rows)
    await _statements(organization, rows)
    return len(rows)


async def _timeline(it: Organization) -> None:
    """The history holds what took force, and no switch that was replaced before its instant."""
    found: dict[datetime, Point] = {}
    page = None
    while True:
        params = {"limit": 100} | ({} if page is None else {"page": page})
        answer = await it.answer("GET", "/usage-mode/history", params=params)
        for one in answer["data"]:
            at = datetime.fromisoformat(one["effective_from"])
            found[at] = Point(at=at, mode=one["mode"], credential_id=one["credential_id"])
        page = answer["next_page"]
        if page is None:
            break
    expected = {}
    for state in it.switched:
        at = datetime.fromisoformat(state["effective_from"])
        expected[at] = Point(at=at, mode=state["mode"], credential_id=state["credential_id"])
    for one in it.scheduled:
        # While it was being replaced, only the database knows whether its instant had come.
        has_begun = one.at in found
        if one.replaced is None or one.at < one.replaced[0] or (has_begun and one.at <= one.replaced[1]):
            expected[one.at] = Point(at=one.at, mode=one.mode, credential_id=one.credential_id)
    it.differ(
        "timeline", expected=sorted(expected.items(), key=_first), found=sorted(found.items(), key=_first)
    )
    it.known.points = list(expected.values())


def _first(pair: tuple[datetime, Any]) -> datetime:
    return pair[0]


def _accepted(it: Organization) -> dict[str, Attempt]:
    """Each id is accepted once; whatever else came under it is the same, another, or none at all."""
    by_id: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in it.attempts:
        by_id[attempt.event["event_id"]].append(attempt)
    accepted = {}
    for event_id, attempts in by_id.items():
        took = [one for one in attempts if one.status == "accepted"]
        unsure = [one for one in attempts if one.status == "unknown"]
        if not took and unsure:
            took = [
                one
                for one in unsure
                if any(same(one.event) == same(two.event) for two in attempts if two.status == "duplicate")
            ][:1]
        it.differ("acceptances", event_id, expected=1, found=len(took))
        if not took:
            continue
        accepted[event_id] = took[0]
        for one in attempts:
            if one in took or one.status == "unknown":
                continue
            expected = _refusal(it, one) or (
                "duplicate" if same(one.event) == same(took[0].event) else "conflict"
            )
            it.differ("status", one.event, expected=expected, found=one.status)
    return accepted


def _refusal(it: Organization, attempt: Attempt) -> str | None:
    """Of what is no event, or of no time, or of nobody's credential."""
    event = attempt.event
    started_at = datetime.fromisoformat(event["started_at"])
    is_in_time = attempt.sent_at - timedelta(days=35) < started_at < attempt.sent_at + timedelta(minutes=10)
    is_one = "mode" not in event and event["outcome"] != "lost" and event["usage"]["input_tokens"] >= 0
    is_of_known = event.get("credential_id", it.events.credentials[0]) in it.events.credentials
    return None if is_in_time and is_one and is_of_known else "rejected"


async def _rows(it: Organization, accepted: dict[str, Attempt]) -> list[Row]:
    """Every event that was accepted is one row; when it came in is told by the ledger, within the request."""
    response = await it.request("GET", "/usage-events", headers={"Accept": "text/csv"})
    assert response.status_code == 200, response.text
    told_rows = list(csv.DictReader(io.StringIO(response.text)))
    it.differ("ids", expected=sorted(accepted), found=sorted(row["event_id"] for row in told_rows))
    rows = []
    for found in told_rows:
        attempt = accepted.get(found["event_id"])
        if attempt is None:
            continue
        ingested_at = datetime.fromisoformat(found["ingested_at"])
        if attempt.status == "accepted":
            is_within = attempt.sent_at <= ingested_at <= attempt.answered_at
            it.differ("taken in while the request ran", expected=True, found=is_within)
        row = it.known.row(attempt.event, ingested_at)
        rows.append(row)
        it.differ("row", attempt.event, expected=_expected_row(it, row), found=_told_row(found))
    return rows


def _expected_row(it: Organization, row: Row) -> dict[str, Any]:
    return {
        "usage_mode": row.usage_mode,
        "started_at": row.started_at,
        "outcome": row.outcome,
        "usage_source": row.usage_source,
        "credential_id": row.credential_id,
        "key_version": row.key_version,
        "reservation_id": row.reservation_id,
        **row.tokens,
        "cost": row.cost,
        "billed": row.billed,
        "is_mismatch": row.is_mismatch,
    }


def _told_row(found: dict[str, str]) -> dict[str, Any]:
    return {
        "usage_mode": found["usage_mode"],
        "started_at": datetime.fromisoformat(found["started_at"]),
        "outcome": found["outcome"],
        "usage_source": found["usage_source"],
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


def _questions(random: Random) -> Iterator[Asked]:
    """Every width of every grouping, over all there is; and one with edges that cut buckets."""
    now = datetime.now(UTC)
    groupings = [(), *((name,) for name in DIMENSIONS)]
    groupings += [tuple(random.sample(DIMENSIONS, random.randint(2, 5))) for _ in range(_COMBINATIONS)]
    first, last = now - timedelta(days=36), now + timedelta(minutes=10)
    for number, group_by in enumerate(groupings):
        for at, width in enumerate(_WIDTHS):
            zone = ZONES[(number + at) % len(ZONES)]
            yield Asked(starting_at=first, ending_at=last, width=width, zone=zone, group_by=group_by)
        start = now - timedelta(days=random.uniform(0, 36))
        end = start + timedelta(days=random.uniform(0.1, 20))
        width, zone = random.choice(_WIDTHS), random.choice(ZONES)
        yield Asked(starting_at=start, ending_at=end, width=width, zone=zone, group_by=group_by)


async def _reports(it: Organization, rows: list[Row], random: Random) -> None:
    for asked in _questions(random):
        expected = report(rows, asked)
        # Small pages now and then, and not hundreds of them.
        limit = random.choice((1000, 1000, random.randint(3, 40) + len(expected) // 6))
        found = told(await _pages(it, asked, limit))
        it.differ("length", asked, expected=len(expected), found=len(found))
        for one, other in zip(expected, found, strict=False):
            it.differ("report", asked, expected=one, found=other)


async def _pages(it: Organization, asked: Asked, limit: int) -> list[dict[str, Any]]:
    pages: list[dict[str, Any]] = []
    page: dict[str, str] = {}
    while True:
        answer = await it.answer("GET", "/usage-report", params=asked.parameters | page | {"limit": limit})
        pages.append(answer)
        results = sum(len(bucket["results"]) for bucket in answer["data"])
        it.differ("length of a page", expected=True, found=results == limit or not answer["has_more"])
        if not answer["has_more"]:
            return pages
        page = {"page": answer["next_page"]}


async def _limits(it: Organization, rows: list[Row]) -> None:
    named = {row.reservation_id for row in rows if row.reservation_id is not None}
    for reservation in it.reservations.values():
        if "model" in reservation["wish"]:
            found = None if reservation["amount"] is None else pico(reservation["amount"])
            it.differ("reserved amount", expected=it.estimate_of(reservation), found=found)
        at = datetime.fromisoformat(reservation["created_at"])
        point = it.known.point_at(at)
        mode = "managed" if point is None else point.mode
        it.differ("mode of a reservation", at, expected=mode, found=reservation["usage_mode"])
    held = it.held(named)
    asked_at = datetime.now(UTC)
    answer = await it.answer("GET", "/spend-limits", params={"limit": 100})
    answered_at = datetime.now(UTC)
    it.differ("limits", expected=False, found=answer["has_more"])
    for limit in answer["data"]:
        starts_at = limit["period_starts_at"]
        start = None if starts_at is None else datetime.fromisoformat(starts_at)
        at_hand = {period_of(limit["period"], at) for at in (asked_at, answered_at)}
        it.differ("period", limit["name"], expected=True, found=start in at_hand)
        expected = spent(rows, held, limit, start)
        money = {name: pico(limit[name]) for name in expected if name != "unpriced_requests"}
        shown = money | {"unpriced_requests": limit["unpriced_requests"]}
        it.differ("limit", limit["name"], expected=expected, found=shown)
        used = (expected["spent"] + expected["reserved"]) * 10_000 // pico(limit["amount"]) / 100
        it.differ("percent used", expected=used, found=limit["percent_used"])
        _crossings(it, limit, expected["spent"])


def _crossings(it: Organization, limit: dict[str, Any], total: int) -> None:
    """Each threshold once, at a moment when the spend had reached it, in the order of time."""
    thresholds = [one["threshold"] for one in limit["crossings"]]
    it.differ("crossings", expected=sorted(crossed(limit, total)), found=sorted(thresholds))
    for one in limit["crossings"]:
        at = pico(one["spent"])
        is_reached = one["threshold"] * pico(limit["amount"]) <= at * 100 and at <= total
        it.differ("crossing", one, expected=True, found=is_reached)


async def _statements(it: Organization, rows: list[Row]) -> None:
    present = datetime.now(UTC).replace(day=1)
    last = present - timedelta(days=1)
    for month in {month_of(at) for at in (present, last, last.replace(day=1) - timedelta(days=1))}:
        answer = await it.answer("GET", f"/billing-statements/{month}")
        is_closed = month in it.closed
        it.differ(
            "status of the statement",
            month,
            expected="closed" if is_closed else "open",
            found=answer["status"],
        )
        if is_closed:
            it.differ("closed statement", month, expected=it.closed_as, found=answer)
        expected = statement(
            rows,
            month,
            terms=it.terms_of_closed if is_closed else it.terms,
            peak=max((number for day, number in it.counts.items() if day.startswith(month)), default=0),
            closed=it.closed,
        )
        found = told_statement(answer)
        for name, value in expected.items():
            it.differ(name, month, expected=value, found=found[name])
