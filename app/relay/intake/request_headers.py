"""The dimensions of a request, from headers that only the relay reads. They have the rules of the usage ledger."""

from collections.abc import Iterable
from typing import Final

from app.api.text import has_controls, is_blank
from app.core.keys.key_lookalike import looks_like_key
from app.relay.errors import DIMENSION_INVALID, RelayError
from app.relay.records import Dimensions
from app.usage_events.events import MAX_DIMENSION_LENGTH

_FIELDS: Final = {
    b"x-byok-endpoint": "endpoint_id",
    b"x-byok-feature": "feature",
    b"x-byok-session": "session_id",
    b"x-byok-prompt": "prompt_id",
}
# Claude Code sends it with each request. It is the session if `X-Byok-Session` is absent.
_CLAUDE_CODE_SESSION: Final = b"x-claude-code-session-id"


def dimensions_of(headers: Iterable[tuple[bytes, bytes]]) -> Dimensions:
    """Read the dimensions.

    Raises:
        RelayError: one is sent twice, is empty or too long, or has characters that the ledger does not accept.
    """
    found: dict[str, str] = {}
    headers = list(headers)
    has_session = any(name == b"x-byok-session" for name, _ in headers)
    for name, value in headers:
        is_fallback = name == _CLAUDE_CODE_SESSION and not has_session
        field = "session_id" if is_fallback else _FIELDS.get(name)
        if field is not None:
            if field in found:
                raise RelayError(DIMENSION_INVALID)
            found[field] = _text(value)
    return Dimensions(**found)


def _text(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise RelayError(DIMENSION_INVALID) from None
    if not is_storable(text):
        raise RelayError(DIMENSION_INVALID)
    return text


def is_storable(text: str) -> bool:
    """Whether the ledger accepts this text: short, visible, and without a key."""
    return (
        len(text) <= MAX_DIMENSION_LENGTH
        and not is_blank(text)
        and not has_controls(text)
        and not looks_like_key(text)
    )
