"""The URL policy: scheme, host, port and path. Pure; `address_policy` classifies addresses.

Parsers disagree about unusual URLs, and each disagreement can bypass a check. So this module does
not repair, trim or guess: one strict rule splits the text, the URL is rebuilt from the parts, and
only the rebuilt URL is stored or called. All parsers read the rebuilt URL in the same way.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from app.core.url_errors import UrlReason, UrlRefused
from app.provider_url.host_name import validate_host

MAX_URL_LENGTH: Final = 2048
_ONLY_PORT: Final = "443"

_FORBIDDEN_ASCII = re.compile(r"""[\x00-\x20\x7f"<>\\^`{|}]""")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_PARTS = re.compile(r"//(?P<authority>[^/?#]+)(?P<path>[^?#]*)(?P<query>\?[^#]*)?(?P<fragment>#.*)?")

_DOT_SEGMENT = re.compile(r"/\.\.?(?:/|\Z)")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# Controls (C0, DEL and, as UTF-8, C1), dot, slash, backslash.
_FORBIDDEN_ESCAPE = re.compile(r"%(?:[01][0-9a-f]|7f|c2%[89][0-9a-f]|2e|2f|5c)", re.IGNORECASE)
_PRINTABLE_ASCII = "".join(map(chr, range(0x21, 0x7F)))


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundUrl:
    """A URL that passed the policy. `host` is in lower-case A-labels; `path` is empty or starts with a slash."""

    host: str
    path: str

    def __str__(self) -> str:
        return f"https://{self.host}{self.path}"


def parse_outbound_url(text: str, *, field: str) -> OutboundUrl:
    """Parse a URL and check it against the policy.

    Args:
        text: exactly as entered.
        field: the field name for the error.

    Raises:
        UrlRefused
    """
    url = validate_url(text)
    if isinstance(url, UrlReason):
        raise UrlRefused(url, field=field)
    return url


def validate_url(text: str) -> OutboundUrl | UrlReason:  # noqa: C901, PLR0911  # one rule per line, in order of precedence
    """Return the URL, or the reason with the highest precedence why it is not allowed."""
    if len(text) > MAX_URL_LENGTH or has_forbidden_characters(text):
        return UrlReason.MALFORMED
    scheme = _SCHEME.match(text)
    if scheme is None:
        return UrlReason.MALFORMED
    if scheme[0].lower() != "https:":
        return UrlReason.SCHEME_NOT_HTTPS
    parts = _PARTS.fullmatch(text, scheme.end())
    if parts is None:
        return UrlReason.MALFORMED
    authority, path, query, fragment = parts.group("authority", "path", "query", "fragment")
    if "@" in authority:
        return UrlReason.USERINFO_PRESENT
    host_text, port = _split_authority(authority)
    if not host_text:
        return UrlReason.MALFORMED
    if port not in {None, _ONLY_PORT}:
        return UrlReason.PORT_NOT_ALLOWED
    if query is not None:
        return UrlReason.QUERY_PRESENT
    if fragment is not None:
        return UrlReason.FRAGMENT_PRESENT
    host = validate_host(host_text)
    if isinstance(host, UrlReason):
        return host
    if not _is_path_allowed(path):
        return UrlReason.PATH_NOT_ALLOWED
    path = quote_path(path)
    # A-labels and percent escapes are longer than the text that was entered.
    if len("https://") + len(host) + len(path) > MAX_URL_LENGTH:
        return UrlReason.MALFORMED
    return OutboundUrl(host=host, path=path)


def has_forbidden_characters(text: str) -> bool:
    """Whether a URL has white space, a control, an invisible character or one that must be percent-encoded."""
    if _FORBIDDEN_ASCII.search(text):
        return True
    if text.isascii():
        return False
    # C: controls, format characters, surrogates, private use, unassigned. Z: separators.
    return any(unicodedata.category(character)[0] in "CZ" for character in _BEYOND_ASCII.findall(text))


def _split_authority(authority: str) -> tuple[str, str | None]:
    """Split into host and port. Unbalanced brackets stay in the host, which is then rejected."""
    if authority.startswith("["):
        literal, bracket, rest = authority.partition("]")
        if not rest:
            return authority, None
        return (literal + bracket, rest[1:]) if rest.startswith(":") else (authority, None)
    host, colon, port = authority.partition(":")
    return host, port if colon else None


def quote_path(path: str) -> str:
    """The path with its non-ASCII characters percent-encoded."""
    return path if path.isascii() else quote(path, safe=_PRINTABLE_ASCII)


def _is_path_allowed(path: str) -> bool:
    if _DOT_SEGMENT.search(path):
        return False
    if "%" not in path:
        return True
    if _BROKEN_ESCAPE.search(path) or _FORBIDDEN_ESCAPE.search(path):
        return False
    try:
        unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        return False  # includes overlong forms: a lax server decodes %c0%ae as a dot
    return True
