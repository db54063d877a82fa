"""Durations in settings and on the command line: 30s, 15m, 72h, 7d."""

import re
from datetime import timedelta

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DURATION = re.compile(r"(\d{1,9})([smhd])")


def parse_duration(text: str) -> timedelta:
    """Parse a whole number and a unit; `72h` is 72 hours.

    Raises:
        ValueError: the text is not a number of up to nine digits followed by s, m, h or d.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError("must be a number and a unit, such as 30s, 15m, 72h or 7d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
