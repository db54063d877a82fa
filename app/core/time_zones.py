"""Time zones of the IANA database, and the times at which their days begin."""

from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo, available_timezones

# Entries of a server's zone files that are not time zones: its own setting, and a placeholder for one that was not set.
_NOT_ZONES = frozenset({"localtime", "Factory", "posixrules"})
_ZONES = frozenset(available_timezones()) - _NOT_ZONES


def parse_time_zone(name: str) -> ZoneInfo:
    """Raises ValueError if the IANA database does not contain the name."""
    if name not in _ZONES:
        raise ValueError("unknown time zone")
    return ZoneInfo(name)


def start_of_day(day: date, zone: ZoneInfo) -> datetime:
    """Return the time at which a day begins, in UTC.

    If the clock skips midnight, it is the time of the skip. If midnight occurs twice, it is the first one.
    """
    return datetime.combine(day, time(), tzinfo=zone).astimezone(UTC)
