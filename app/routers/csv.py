"""Rows of CSV, safe to open in a spreadsheet."""

from collections.abc import Iterable
from decimal import Decimal

# A cell that begins so would be a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_QUOTED = frozenset(',"\r\n')


def csv_row(cells: Iterable[str | int | Decimal | None]) -> str:
    """One line (RFC 4180). Texts that a spreadsheet would run get a leading apostrophe; numbers stay as they are."""
    return ",".join(map(_cell, cells)) + "\r\n"


def _cell(value: str | int | Decimal | None) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        return str(value)
    text = f"'{value}" if value.startswith(_FORMULA) else value
    if _QUOTED.isdisjoint(text):
        return text
    return '"' + text.replace('"', '""') + '"'
