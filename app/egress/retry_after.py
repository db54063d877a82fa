"""How long a provider asks to wait before the next request."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

# A longer wait is cut to this: a misconfigured gateway must not stop validation for days.
LONGEST_RETRY_AFTER = timedelta(hours=1)


def retry_after(headers: Mapping[str, str], *, now: datetime) -> timedelta | None:
    """The pause that `Retry-After` (seconds or a date) or `retry-after-ms` asks for. At most one hour.

    None without a header, for a header that cannot be read, and for a time in the past.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _bounded(milliseconds / 1000)
    text = headers.get("retry-after", "").strip()
    seconds = _number(text)
    if seconds is None:
        seconds = _seconds_until(text, now)
    return None if seconds is None else _bounded(seconds)


def _number(text: str | None) -> float | None:
    """A decimal number as a header may have it. Other forms that `float` accepts, such as `inf`, are refused."""
    if text is None or not text.strip().replace(".", "", 1).isdecimal():
        return None
    return float(text)


def _seconds_until(text: str, now: datetime) -> float | None:
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError, TypeError, IndexError):  # the parser's errors for malformed dates
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return (at - now).total_seconds()


def _bounded(seconds: float) -> timedelta | None:
    if seconds <= 0:
        return None
    return timedelta(seconds=min(seconds, LONGEST_RETRY_AFTER.total_seconds()))
