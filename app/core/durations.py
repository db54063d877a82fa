"""Durations as people write them in settings and on the command line: 30s, 15m, 72h, 7d."""

import re
from datetime import timedelta

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DURATION = re.compile(r"(\d{1,9})([smhd])")


def parse_duration(text: str) -> timedelta:
    """`72h` is 72 hours.

    Raises:
        ValueError: anything but digits and one of s, m, h, d.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError("a duration is a number and a unit: 30s, 15m, 72h or 7d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
