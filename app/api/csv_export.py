"""CSV: whether it is asked for, and rows that no spreadsheet takes for formulas."""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Annotated

from fastapi import Depends, Header

MEDIA_TYPE = "text/csv"

# What spreadsheets take for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_QUOTED = frozenset('",\r\n')

Cell = str | int | Decimal | datetime | None


def csv_row(cells: Iterable[object]) -> str:
    """One line (RFC 4180). A text that begins like a formula gets an apostrophe before it; numbers are let be."""
    return ",".join(_cell(cell) for cell in cells) + "\r\n"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    text = value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)
    if text.startswith(_FORMULA):
        text = f"'{text}"
    if _QUOTED.isdisjoint(text):
        return text
    return '"' + text.replace('"', '""') + '"'


async def _wants_csv(
    accept: Annotated[
        str | None,
        Header(alias="Accept", max_length=1000, include_in_schema=False),
    ] = None,
) -> bool:
    """Whether CSV is named, and JSON neither before it nor with a higher weight."""
    weights = {"application/json": 0.0, MEDIA_TYPE: 0.0}
    for place, part in enumerate((accept or "").split(",")):
        media_type, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if media_type in weights and not weights[media_type]:
            weights[media_type] = _weight(parameters) - place / 10**6
    return weights[MEDIA_TYPE] > max(weights["application/json"], 0.0)


def _weight(parameters: list[str]) -> float:
    named = next((it[2:] for it in parameters if it.startswith("q=")), "1")
    try:
        return min(max(float(named), 0.0), 1.0)
    except ValueError:
        return 0.0


WantsCsv = Annotated[bool, Depends(_wants_csv)]
