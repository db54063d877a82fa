"""Structured logs: one JSON object per line, with the ids of the request, redacted as the last step.

Code must not pass secrets to the log. The redaction in the formatter is the second line of defence. It covers every
logger, and exceptions with their causes.
"""

import logging
import re
import sys
from typing import Any

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from app.core.keys.key_lookalike import redact_keys
from app.observability.log_handler import UnblockedHandler

REDACTED = "[redacted]"
# Signing secrets of webhooks, and bearer tokens: three base64url parts.
_OTHER_SECRETS = re.compile(r"whsec_[A-Za-z0-9+/=]{4,}|eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
# Some of these libraries log headers or frames, and with them secrets of any shape; the others only log a lot.
_LIMITED_TO_WARNINGS = (
    "hpack",
    "httpcore",
    "httpx",
    "h11",
    "hvac",
    "urllib3",
    "alembic",
)


def redact(text: str) -> str:
    """Replace keys, signing secrets and bearer tokens in a text."""
    return _OTHER_SECRETS.sub(REDACTED, redact_keys(text, REDACTED))


_SHARED_PROCESSORS: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


class _RedactingFormatter(structlog.stdlib.ProcessorFormatter):
    """Redacts the finished line, so that no field and no traceback is missed."""

    def __init__(self, render: Processor) -> None:
        self._render: tuple[Processor, ...] = (structlog.processors.format_exc_info, render)
        super().__init__(
            foreign_pre_chain=[*_SHARED_PROCESSORS, structlog.stdlib.PositionalArgumentsFormatter()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *self._render],
        )

    def format(self, record: logging.LogRecord) -> str:
        if not isinstance(record.msg, dict):
            return redact(super().format(record))
        # An event of structlog has been processed already: the copies that the base class makes take half of the time
        # of a line.
        event: Any = {**record.msg}
        for process in self._render:
            event = process(None, "", event)
        return redact(event)


def configure_logging(*, level: str, log_format: str) -> None:
    """Send the logs of the service and of its libraries through one redacting handler to standard error.

    Args:
        level: the lowest level that is logged, such as `info`.
        log_format: `console` for people; with any other value each line is a JSON object.
    """
    # No log line uses these fields, and each record would ask the operating system for them, and walk the stack.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001  # documented in Python's logging HOWTO, "Optimization"
    _configure_structlog()
    handler = UnblockedHandler(sys.stderr)
    handler.setFormatter(_formatter(log_format))
    is_console = log_format == "console"
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    _configure_libraries(
        root.level, uvicorn_level=max(root.level, logging.WARNING) if is_console else root.level
    )


def _configure_structlog() -> None:
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED_PROCESSORS,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _formatter(log_format: str) -> logging.Formatter:
    return _RedactingFormatter(
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if log_format == "console" else _render_json
    )


def _configure_libraries(level: int, *, uvicorn_level: int) -> None:
    for name in _LIMITED_TO_WARNINGS:
        logging.getLogger(name).setLevel(max(logging.WARNING, level))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        # On a terminal, the lines of the commands say the same as the start-up lines of uvicorn.
        logger.setLevel(uvicorn_level)


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return orjson.dumps(event, default=_type_name).decode()


def _type_name(value: Any) -> str:
    """Log only an object's type, because its text may contain a secret."""
    return f"<{type(value).__name__}>"
