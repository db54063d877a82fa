"""Domain errors in Anthropic's vocabulary of errors."""

from dataclasses import replace

from app.core import errors as e
from app.relay.errors import (
    CONCURRENCY_EXCEEDED,
    DATABASE_UNAVAILABLE,
    NOT_READY,
    SECRET_STORE_UNAVAILABLE,
    SPEND_LIMIT_EXCEEDED,
    UNAUTHENTICATED,
    ErrorKind,
    RelayError,
)


def relay_error(error: e.ByokError) -> RelayError:
    """The error that the relay responds with. All other errors are temporary: the client may repeat the request."""
    match error:
        case e.Unauthenticated():
            found = RelayError(UNAUTHENTICATED)
        case e.NotReady():
            found = RelayError(NOT_READY, details={"blockers": list(error.blockers)})
        case e.SpendLimitExceeded():
            limit = {"limit_id": str(error.limit_id), "limit_name": error.limit_name}
            found = RelayError(SPEND_LIMIT_EXCEEDED, details={**limit, "reason": error.reason})
        case e.ConcurrencyLimited():
            found = RelayError(CONCURRENCY_EXCEEDED)
        case e.SecretStoreUnavailable():
            found = RelayError(_temporary(SECRET_STORE_UNAVAILABLE, error))
        case _:
            found = RelayError(_temporary(DATABASE_UNAVAILABLE, error))
    return found


def _temporary(kind: ErrorKind, error: e.ByokError) -> ErrorKind:
    """The kind with the code and the message of the error, which are constants."""
    return replace(
        kind,
        code=error.code,
        message=error.detail,
        retry_after_seconds=getattr(error, "retry_after_seconds", kind.retry_after_seconds),
    )
