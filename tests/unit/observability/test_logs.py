"""Each log line is one JSON object without secrets, regardless of the logger."""

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from app.observability.logs import REDACTED, redact
from tests.support.canary import Detector, make_canary
from tests.support.output_sinks import log_lines
from tests.support.tenant import MakeToken

KEY = make_canary()
ADMIN_KEY = KEY.replace("api03", "admin01")

Written = Callable[[], str]
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def written() -> Iterator[Written]:
    """A function that returns the lines logged since its last call."""
    with log_lines() as written:
        yield written
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def lines(written: Written) -> Lines:
    return lambda: [json.loads(line) for line in written().split("\n") if line]


def fail(secret: str) -> None:
    """Raise an error whose text, cause and local variables contain the secret."""
    try:
        int(secret)  # the message of this error contains the value
    except ValueError as cause:
        raise RuntimeError(f"with {secret}") from cause  # noqa: EM102  # the mistake that redaction must catch


class TestLines:
    def test_contain_event_logger_level_and_time(self, lines: Lines) -> None:
        structlog.get_logger("byok.test").info("happened", count=3)

        (line,) = lines()
        assert line.pop("timestamp").endswith("Z")
        assert line == {"event": "happened", "count": 3, "logger": "byok.test", "level": "info"}

    def test_have_the_same_format_for_libraries(self, lines: Lines) -> None:
        logging.getLogger("some.library").warning("%s of %d", "one", 2)

        (line,) = lines()
        assert (line["event"], line["logger"], line["level"]) == ("one of 2", "some.library", "warning")

    def test_contain_the_ids_of_the_request(self, lines: Lines) -> None:
        structlog.contextvars.bind_contextvars(request_id="req_1", organization_id="org_1")

        structlog.get_logger("byok.test").info("ours")
        logging.getLogger("some.library").info("theirs")

        assert [(line["request_id"], line["organization_id"]) for line in lines()] == [("req_1", "org_1")] * 2

    def test_escape_line_breaks(self, lines: Lines) -> None:
        structlog.get_logger("byok.test").info("two\nlines\r\n\x1b[31m\u2028")

        assert [line["event"] for line in lines()] == ["two\nlines\r\n\x1b[31m\u2028"]

    def test_show_only_the_type_of_objects(self, lines: Lines) -> None:
        structlog.get_logger("byok.test").info("object", it=ValueError(KEY))

        assert [line["it"] for line in lines()] == ["<ValueError>"]

    @pytest.mark.parametrize("library", ["httpx", "httpcore", "h11", "hpack", "hvac", "urllib3"])
    def test_omit_info_and_debug_of_libraries_that_log_requests(self, lines: Lines, library: str) -> None:
        logging.getLogger(library).info("request")
        logging.getLogger(f"{library}.child").debug("header")

        assert lines() == []


class TestRedaction:
    @pytest.fixture
    def detector(self) -> Detector:
        return Detector({"key": KEY, "admin key": ADMIN_KEY})

    @pytest.mark.parametrize("key", [KEY, ADMIN_KEY], ids=["key", "admin key"])
    @pytest.mark.parametrize(
        "write",
        [
            lambda log, key: log.info("text %s text", key),
            lambda log, key: log.info(key),
            lambda log, key: log.info("%s", {"api_key": key}),
            lambda log, key: log.info("%r", key.encode()),
            lambda log, key: log.info('{"api_key": "%s"}', key),
            lambda log, key: log.info("https://example.com/?key=%s&more", key),
        ],
        ids=["argument", "message", "mapping", "bytes", "JSON", "URL"],
    )
    def test_removes_keys_from_any_record(
        self,
        written: Written,
        detector: Detector,
        write: Callable[[logging.Logger, str], None],
        key: str,
    ) -> None:
        write(logging.getLogger("some.library.child"), key)

        log = written()
        assert REDACTED in log
        assert detector.search("log", log) == []

    @pytest.mark.parametrize("name", ["root", "some.library", "some.library.child"])
    def test_removes_keys_from_tracebacks_and_their_causes(
        self, written: Written, detector: Detector, name: str
    ) -> None:
        try:
            fail(KEY)
        except RuntimeError:
            logging.getLogger(name).exception("failed")

        log = written()
        assert "RuntimeError" in log
        assert log.count(REDACTED) >= 2
        assert detector.search("log", log) == []

    def test_removes_keys_from_values_and_names_of_events(self, written: Written, detector: Detector) -> None:
        structlog.get_logger("byok.test").info("event", value=KEY, nested={"deep": [KEY]}, **{KEY: 1})

        log = written()
        assert log.count(REDACTED) == 3
        assert detector.search("log", log) == []

    def test_removes_bearer_tokens(self, make_token: MakeToken) -> None:
        token = make_token()

        assert redact(f"Authorization: Bearer {token}") == f"Authorization: Bearer {REDACTED}"

    @pytest.mark.parametrize("text", ["sk-ant", "a task-antenna", "eyJ", "org_acme", "v1:9f2c61d0"])
    def test_keeps_other_text(self, text: str) -> None:
        assert redact(text) == text

    def test_applies_to_the_console_format(self, detector: Detector) -> None:
        with log_lines(log_format="console") as written:
            structlog.get_logger("byok.test").info("event", value=KEY)
            log = written()

        assert REDACTED in log
        assert detector.search("log", log) == []
