"""CSV (RFC 4180) that a spreadsheet opens without running anything in it."""

from collections.abc import Iterable
from decimal import Decimal

from fastapi import Request

MEDIA_TYPE = "text/csv"

# What makes a spreadsheet take a cell for a formula, wherever it stands at its beginning.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_QUOTED = frozenset('",\r\n')

Cell = str | int | Decimal | None


def csv_row(cells: Iterable[Cell]) -> str:
    """One line, its end included. Texts are guarded; numbers are numbers."""
    return ",".join(map(_cell, cells)) + "\r\n"


def wants_csv(request: Request) -> bool:
    """Whether the client asks for CSV, and not for JSON before it."""
    for accepted in request.headers.get("accept", "").split(","):
        media_type = accepted.partition(";")[0].strip().lower()
        if media_type in {MEDIA_TYPE, "application/json", "*/*"}:
            return media_type == MEDIA_TYPE
    return False


def _cell(value: Cell) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        return f"{value:f}" if isinstance(value, Decimal) else str(value)
    text = f"'{value}" if value.startswith(_FORMULA_STARTS) else value
    if _QUOTED.isdisjoint(text):
        return text
    escaped = text.replace('"', '""')
    return f'"{escaped}"'
