"""Statements worked out a second time, from the rows of tests/usage_oracle.py."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from tests.usage_oracle import PICO, Row
from tests.usage_oracle_sums import pico


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
    """Closed months hold what was taken in before they were closed; the rest adjusts the first month left open.

    Args:
        rows: all of the organization.
        month: which.
        terms: as they were when it was closed; as they are, where it is open.
        peak: the most endpoints on a day of it.
        closed: when each closed month was closed.
    """
    lines: dict[tuple[str, str | None, str | None], tuple[int, str]] = {}
    if terms is not None:
        lines["subscription", None, None] = 1, cents(terms.fee)
        over = peak - terms.included
        if over > 0:
            lines["endpoint_overage", None, None] = over, cents(over * terms.overage)
    byo, unpriced = {}, {}
    for (of_month, mode, model), members in _by_month_mode_and_model(rows, month, closed).items():
        adjusts = None if of_month == month else of_month
        missing = sum(row.cost is None for row in members)
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
        len(members),
        total("uncached_input"),
        total("cache_write_5m", "cache_write_1h"),
        total("cache_read"),
        total("output"),
        total("web_search_requests"),
        sum(row.cost or 0 for row in members),
        sum(row.cost is None for row in members),
    )


def told_statement(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The same of an answer. Fails where something that is not billed has a price, or a line stands there twice."""
    lines = {
        (it["type"], it["model"], it["adjusts_month"]): (it["quantity"], it["amount"]["amount"])
        for it in answer["lines"]
    }
    byo = {}
    for it in answer["informational"]["byo"]:
        assert it["billed_cost"]["amount"] == "0.00"
        byo[it["model"], it["adjusts_month"]] = (
            it["requests"],
            *(it[name] for name in ("uncached_input_tokens", "cache_creation_input_tokens")),
            *(it[name] for name in ("cache_read_input_tokens", "output_tokens", "web_search_requests")),
            pico(it["estimated_cost"]),
            it["unpriced_requests"],
        )
    unpriced = {
        (it["model"], it["adjusts_month"]): it["requests"]
        for it in answer["informational"]["unpriced_managed"]
    }
    assert (len(lines), len(byo)) == (len(answer["lines"]), len(answer["informational"]["byo"]))
    return {"lines": lines, "total": answer["total"]["amount"], "byo": byo, "unpriced": unpriced}
