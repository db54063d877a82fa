"""Finds the types, codes and sentences of an error, wherever providers put them."""

import re

from app.validation.provider_response import MAX_PROSE_CHARACTERS, JsonObject, ProviderResponse

_MAX_PARTS = 12
_SPACE = re.compile(r"\s")
_PROSE_NAMES = frozenset(
    {"message", "Message", "msg", "status_msg", "detail", "title", "error", "error_msg", "error_message", "errorMessage"}
)  # fmt: skip
_CODE_NAMES = frozenset({"type", "code", "status", "reason", "error_code", "status_code"})
_NESTED_NAMES = frozenset({"error", "errors", "base_resp", "details", "innererror"})


def words_of(response: ProviderResponse) -> tuple[frozenset[str], tuple[str, ...]]:
    """Types and codes of the error in lower case, and its sentences. Messages and Cloudflare's own errors have none."""
    body = response.body
    if not body or body.get("type") == "message" or body.get("cloudflare_error"):
        return frozenset(), ()
    codes: set[str] = set()
    prose: list[str] = []
    parts = [body]
    for part in parts:  # grows while it is read, up to the limit
        for name, value in part.items():
            if isinstance(value, str):
                if name in _PROSE_NAMES:
                    prose.append(plain(value))
                # As a single word, `error` is a code, as in OAuth 2.0 (RFC 6749).
                if name in _CODE_NAMES or (name == "error" and not _SPACE.search(value)):
                    codes.add(value[:100].strip().casefold())
            elif type(value) is int:
                if name in _CODE_NAMES:
                    codes.add(str(value))
            elif name in _NESTED_NAMES and len(parts) < _MAX_PARTS:
                parts += _members(value)
    return frozenset(codes), tuple(prose)


def plain(text: str) -> str:
    """The beginning of a sentence, with plain apostrophes."""
    return text[:MAX_PROSE_CHARACTERS].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")


def _members(value: object) -> list[JsonObject]:
    """The objects where providers put errors: in `error` (an object or a list), `errors`, `base_resp` or `details`."""
    if isinstance(value, dict):
        return [value]
    return [member for member in value[:4] if isinstance(member, dict)] if isinstance(value, list) else []
