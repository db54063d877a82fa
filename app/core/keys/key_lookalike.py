"""Finds keys in text: the one test for every field that is stored in clear text, and for log lines."""

import re
import unicodedata
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote

# A hyphen, also as another dash or encoded for a URL (once or twice) or for JSON.
HYPHEN: Final = r"(?:[-\u2010-\u2015\u2212\ufe58\ufe63\uff0d]|%(?:25)*2d|\\u002d)"

# Deliberately wide: text that merely resembles a key is cheaper to refuse or to redact than a key is to leak.
_ANTHROPIC_SECRET = re.compile(rf"sk{HYPHEN}ant{HYPHEN}(?:[^\s\"'<>\\]|\\u002d){{4,}}", re.IGNORECASE)

# A whole key of Anthropic without its prefix, as secret scanners know it: 93 characters and `AA`. A shorter part looks the
# same as the ids that clients choose, such as a SHA-256 in base64 (43 characters).
_KEY_WITHOUT_PREFIX = re.compile(r"(?=.{0,92}[a-z])(?=.{0,92}[A-Z])(?=.{0,92}[0-9])[A-Za-z0-9_-]{93}AA")
_END_OF_KEY: Final = b"AA"

# The format characters (Cf) of Unicode. A test per character would be too slow for dimensions of usage events.
_INVISIBLE = re.compile(
    "[\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f"
    "\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001"
    "\U000e0020-\U000e007f]"
)

# A shorter part of a key may be in another text by chance. So may a whole key that is as short as a word.
_PART_LENGTH: Final = 12
_MIN_RECOGNIZABLE_LENGTH: Final = 8
_MAX_PERCENT_DECODINGS: Final = 3
_PERCENT: Final = ord("%")
# A percent sign that was encoded any number of times. Decoding it step by step would take time for each step.
_ENCODED_PERCENT = re.compile("%(?:25)+")
_ESCAPE = re.compile("%[0-9a-f]{2}", re.IGNORECASE)


def looks_like_key(text: str) -> bool:
    """Whether a text contains what looks like a key or another secret from Anthropic, in any case or encoding.

    A key without its prefix is found only if it is the whole text.
    """
    return any(
        _ANTHROPIC_SECRET.search(form) or _KEY_WITHOUT_PREFIX.fullmatch(form) for form in forms_of(text)
    )


def may_look_like_key(raw: bytes) -> bool:
    """A cheap test of UTF-8 without escapes: False only if `looks_like_key` is False for every part of the text."""
    # `find` and a number on the left of `in` are ten times faster than bytes on the left.
    return (
        not raw.isascii()
        or _PERCENT in raw
        or raw.find(_END_OF_KEY) >= 0
        or raw.lower().find(b"sk-ant-") >= 0
    )


def redact_keys(text: str, replacement: str) -> str:
    """Replace what looks like a key in a text."""
    return _ANTHROPIC_SECRET.sub(replacement, text)


def contains_part_of(secret: str, text: str) -> bool:
    """Whether a text contains this secret or 12 consecutive characters of it, in any case or percent-encoded."""
    if len(secret) < _MIN_RECOGNIZABLE_LENGTH:
        return False
    length = min(len(secret), _PART_LENGTH)
    secret_parts = set(_parts(secret.lower(), length))
    return any(part in secret_parts for form in forms_of(text) for part in _parts(form.lower(), length))


def may_contain_part(text: str) -> bool:
    """A cheap test without the secret: whether the text has a word that is long enough for a part of a key."""
    return any(len(word) >= _PART_LENGTH for form in forms_of(text) for word in form.split())


def _parts(text: str, length: int) -> Iterator[str]:
    return (text[start : start + length] for start in range(len(text) - length + 1))


def forms_of(text: str) -> Iterator[str]:
    """The text as it is, percent-decoded, and as readers see it: without invisible or full-width characters."""
    yield text
    if not text.isascii():
        yield unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))
    for _ in range(_MAX_PERCENT_DECODINGS):
        text = _ENCODED_PERCENT.sub("%", text)
        if _ESCAPE.search(text) is None:
            return
        text = unquote(text)
        yield text
