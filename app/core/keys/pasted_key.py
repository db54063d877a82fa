"""Decides, without a network call, whether a pasted text can be a provider key. `KEY_CHECKS` is the whole decision."""

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from app.core.errors import KeyRefused
from app.core.keys.key_lookalike import HYPHEN, forms_of

# Anthropic's keys have 108 characters. Other providers also issue JSON Web Tokens, which have 900 and more.
MAX_LENGTH: Final = 512
MAX_CUSTOM_LENGTH: Final = 4096

# Anthropic documents neither the length nor the ending of its keys, so neither is enforced; validation decides.
_ANTHROPIC_KEY = re.compile(r"sk-ant-api\d{2}-[A-Za-z0-9_-]{20,}", re.ASCII)

_URL = re.compile(
    r"[\s\"'`(<]*(?:[a-z][a-z0-9+.-]{1,20}://|www\.|(?:api|console|platform)\.(?:anthropic|claude)\.com(?:/|\Z))",
    re.IGNORECASE,
)
# Two consecutive dots are not a mask: an encrypted JSON Web Token has them.
_MASK = re.compile(
    "\\.{3}|\u2026|\\*{3}|[\u2022\u25cf\u2219\u00b7\u22c5\u25e6\u25a0\u25aa\u2588\u2b24\uff0a]{2}"
)
# A name, an equals sign and a value. Equals signs at the end of a text belong to base64.
_ASSIGNMENT = re.compile(
    r"[\s\"'`]*(?:(?:export|set|env|let|const|var|declare)\s+(?:-x\s+)?)?(?:\$env:|\$|--?)?"
    r"[A-Za-z_][A-Za-z0-9_.-]{0,63}[\"']?\s*:?=(?==*\s*[^=\s])",
    re.IGNORECASE,
)
_QUOTE = re.compile("[\"'`\u00b4\u00ab\u00bb\u2018-\u201f\u2032\u2033\u2039\u203a\uff02\uff07]")

# Control characters that `str.isspace` counts as white space.
_SEPARATORS: Final = "\x1c\x1d\x1e\x1f\x85"


# Longer texts are refused unread, so that the checks take milliseconds.
_MAX_SEARCHED_LENGTH: Final = 64 * 1024
_TOO_LONG: Final = "The key is longer than 4,096 characters. Paste only the key."


class KeyCheck(NamedTuple):
    """One reason to refuse a text: the error's code, a constant message, and the test of text and endpoint."""

    code: str
    message: str
    refuses: Callable[[str, bool], bool]


def _contains_kind(prefix: str) -> Callable[[str, bool], bool]:
    pattern = re.compile(rf"sk{HYPHEN}ant{HYPHEN}{prefix}", re.IGNORECASE)
    return lambda text, _is_custom: any(pattern.search(form) for form in forms_of(text))


def _has_whitespace(text: str, _is_custom: bool) -> bool:  # noqa: FBT001  # the signature of every check
    return any(character.isspace() and character not in _SEPARATORS for character in text)


# Read from top to bottom: the first check that refuses the text decides the code. First come texts that must never be
# sent anywhere, whatever is around them. Then texts that contain no usable key. Then wrappers, the outermost first,
# because what is left after removing one is judged again. Characters and the format come last.
KEY_CHECKS: Final = (
    KeyCheck("key_empty", "The key is empty.", lambda text, _: not text),
    KeyCheck("key_too_long", _TOO_LONG, lambda text, _: len(text) > _MAX_SEARCHED_LENGTH),
    KeyCheck(
        "admin_key",
        "This contains an Admin API key, which manages the whole organization. Create a Claude API key instead.",
        _contains_kind("admin"),
    ),
    KeyCheck(
        "oauth_token",
        "This contains an OAuth access token, which expires and is not for other products. Create a Claude API key"
        " instead.",
        _contains_kind("oat"),
    ),
    KeyCheck(
        "oauth_token",
        "This contains an OAuth refresh token. Create a Claude API key instead.",
        _contains_kind("ort"),
    ),
    KeyCheck(
        "session_key",
        "This contains the session cookie of a personal claude.ai login. Create a Claude API key instead.",
        _contains_kind("sid"),
    ),
    KeyCheck(
        "key_too_long",
        "The key is longer than 512 characters. Paste only the key. A key of another provider also needs `base_url`.",
        lambda text, is_custom: not is_custom and len(text) > MAX_LENGTH,
    ),
    KeyCheck("key_too_long", _TOO_LONG, lambda text, _: len(text) > MAX_CUSTOM_LENGTH),
    KeyCheck(
        "key_is_url",
        "This is a URL. Paste the key here, and the URL of a custom provider into `base_url`.",
        lambda text, _: _URL.match(text) is not None,
    ),
    KeyCheck(
        "key_is_masked",
        "This is a masked or shortened key. Copy the whole key from where it was created; a key that is shown only"
        " in part must be created again.",
        lambda text, _: _MASK.search(text) is not None,
    ),
    KeyCheck(
        "key_is_assignment",
        "This is an assignment. Remove the name, the equals sign and any quotes, and paste only the value.",
        lambda text, _: _ASSIGNMENT.match(text) is not None,
    ),
    KeyCheck(
        "key_has_quotes",
        "The key contains quotes. Remove them and everything outside them, and paste only the key.",
        lambda text, _: _QUOTE.search(text) is not None,
    ),
    KeyCheck(
        "key_has_whitespace",
        "The key contains white space. Remove spaces, line breaks and words such as Bearer, and paste only the key.",
        _has_whitespace,
    ),
    KeyCheck(
        "key_malformed",
        "The key contains characters that keys do not have. Copy it again from the console.",
        lambda text, _: not text.isascii() or not text.isprintable(),
    ),
    KeyCheck(
        "key_malformed",
        "This is not a Claude API key. Those start with sk-ant-api03-. A key of another provider also needs"
        " `base_url`.",
        lambda text, is_custom: not is_custom and _ANTHROPIC_KEY.fullmatch(text) is None,
    ),
)

KEY_REFUSALS: Final = tuple(dict.fromkeys(check.code for check in KEY_CHECKS))


def require_key(text: str, *, is_custom_endpoint: bool) -> None:
    """Refuse a text that cannot be a provider key. If several checks apply, the first of `KEY_CHECKS` decides.

    Raises:
        KeyRefused
    """
    for check in KEY_CHECKS:
        if check.refuses(text, is_custom_endpoint):
            raise KeyRefused(check.code, check.message)
