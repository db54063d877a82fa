"""An oracle that recomputes billing statements from the rows of tests/support/oracles/usage.py."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from tests.support.oracles.usage import PICO, Row
from tests.support.oracles.usage_totals import is_used, pico


@dataclass(frozen=True, kw_only=True)
class Terms:
    """A subscription."""

    fee: Decimal
    included: int
    overage: Decimal


def cents(usd: Decimal) -> str:
    return format(usd.quantize(Decimal("0.01"), rounding=ROUND_HALF_EVEN) + 0, "f")


def month_of(instant: datetime) -> str:
    return instant.astimezone(UTC).strftime("%Y-%m")


def statement(
    rows: Sequence[Row],
    month: str,
    *,
    terms: Terms | None,
    peak: int,
    closed: Mapping[str, datetime],
) -> dict[str, Any]:
    """Return the expected statement of a month.

    A closed month contains events that were ingested before it was closed. Later ones adjust the next open month.

    Args:
        rows: all rows of the organization.
        month: the month, `YYYY-MM`.
        terms: the subscription at the time of closing; the current one if the month is open.
        peak: the highest endpoint count of a day of the month.
        closed: the time at which each closed month was closed.
    """
    lines: dict[tuple[str, str | None, str | None], tuple[int, str]] = {}
    if terms is not None:
        lines["subscription", None, None] = 1, cents(terms.fee)
        over = peak - terms.included
        if over > 0:
            lines["endpoint_overage", None, None] = over, cents(over * terms.overage)
    byo, unpriced = {}, {}
    for (of_month, mode, model), members in _by_month_mode_and_model(rows, month, closed).items():
        if not is_used(members):
            continue
        adjusts = None if of_month == month else of_month
        missing = sum(row.unpriced for row in members)
        if mode == "byo":
            byo[model, adjusts] = _informational(members)
            continue
        usd = Decimal(sum(row.billed for row in members)) / PICO
        quantity = sum(
            row.tokens[name] for row in members for name in row.tokens if name != "web_search_requests"
        )
        lines["managed_usage" if adjusts is None else "adjustment", model, adjusts] = quantity, cents(usd)
        if missing:
            unpriced[model, adjusts] = missing
    total = cents(sum((Decimal(amount) for _, amount in lines.values()), Decimal(0)))
    return {"lines": lines, "total": total, "byo": byo, "unpriced": unpriced}


def _by_month_mode_and_model(
    rows: Sequence[Row], month: str, closed: Mapping[str, datetime]
) -> Mapping[tuple[str, str, str], list[Row]]:
    found: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        own = month_of(row.started_at)
        billed_in = own
        if own in closed and row.ingested_at >= closed[own]:
            while billed_in in closed:
                billed_in = _after(billed_in)
        if billed_in == month:
            found[own, row.usage_mode, row.model].append(row)
    return found


def _after(month: str) -> str:
    return (date.fromisoformat(f"{month}-01") + timedelta(days=31)).strftime("%Y-%m")


def _informational(members: Sequence[Row]) -> tuple[int, ...]:
    def total(*names: str) -> int:
        return sum(row.tokens[name] for row in members for name in names)

    return (
        sum(row.requests for row in members),
        total("uncached_input"),
        total("cache_write_5m", "cache_write_1h"),
        total("cache_read"),
        total("output"),
        total("web_search_requests"),
        sum(row.cost or 0 for row in members),
        sum(row.unpriced for row in members),
    )


def parse_statement(body: Mapping[str, Any]) -> dict[str, Any]:
    """Parse a response into the same form. Fails if BYO usage is billed or a line is repeated."""
    lines = {
        (it["type"], it["model"], it["adjusts_month"]): (it["quantity"], it["amount"]["amount"])
        for it in body["lines"]
    }
    byo = {}
    for it in body["informational"]["byo"]:
        assert it["billed_cost"]["amount"] == "0.00"
        byo[it["model"], it["adjusts_month"]] = (
            it["requests"],
            *(it[name] for name in ("uncached_input_tokens", "cache_creation_input_tokens")),
            *(it[name] for name in ("cache_read_input_tokens", "output_tokens", "web_search_requests")),
            pico(it["estimated_cost"]),
            it["unpriced_requests"],
        )
    unpriced = {
        (it["model"], it["adjusts_month"]): it["requests"] for it in body["informational"]["unpriced_managed"]
    }
    assert (len(lines), len(byo)) == (len(body["lines"]), len(body["informational"]["byo"]))
    return {"lines": lines, "total": body["total"]["amount"], "byo": byo, "unpriced": unpriced}
