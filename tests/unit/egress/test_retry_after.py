"""How `Retry-After` is read."""

from datetime import UTC, datetime, timedelta

import pytest

from app.egress.retry_after import LONGEST_RETRY_AFTER, retry_after

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def read(**headers: str) -> timedelta | None:
    return retry_after({name.replace("_", "-"): value for name, value in headers.items()}, now=NOW)


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("7", timedelta(seconds=7)),
            (" 7 ", timedelta(seconds=7)),
            ("1.5", timedelta(seconds=1.5)),
            ("Mon, 23 Nov 2026 12:10:00 GMT", timedelta(minutes=10)),
            ("Mon, 23 Nov 2026 13:10:00 +0100", timedelta(minutes=10)),
            ("Mon, 23 Nov 2026 12:10:00", timedelta(minutes=10)),
        ],
    )
    def test_reads_seconds_and_dates(self, value: str, expected: timedelta) -> None:
        assert read(retry_after=value) == expected

    def test_milliseconds_come_first(self) -> None:
        assert read(retry_after_ms="1500", retry_after="7") == timedelta(seconds=1.5)

    @pytest.mark.parametrize("value", ["3601", "9" * 400, "Mon, 23 Nov 2026 18:00:00 GMT"])
    def test_is_at_most_an_hour(self, value: str) -> None:
        assert read(retry_after=value) == LONGEST_RETRY_AFTER

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "0",
            "-5",
            "soon",
            "inf",
            "nan",
            "1e3",
            "Mon, 23 Nov 2026 11:00:00 GMT",
            "Mon, 99 Nov 2026",
            "99999999 Nov",
        ],
    )
    def test_ignores_the_past_and_what_it_cannot_read(self, value: str) -> None:
        assert read(retry_after=value) is None

    def test_missing_header_is_no_pause(self) -> None:
        assert read() is None
