"""A provider key in memory: parsed once, never printed, revealed only by the secret store and egress."""

import re
from typing import ClassVar, NoReturn

from app.core.errors import KeyRefused

MAX_LENGTH = 512
MIN_LENGTH_FOR_HINT = 40

# Anthropic documents neither length nor tail of its keys, so neither is enforced; validation decides.
_ANTHROPIC_KEY = re.compile(r"sk-ant-api\d{2}-[A-Za-z0-9_-]{20,}")
_ANTHROPIC_PREFIX = re.compile(r"sk-ant-api\d{2}-")

_ANTHROPIC_SECRET = re.compile(r"sk-ant-[A-Za-z0-9]+-[A-Za-z0-9_-]{8,}", re.IGNORECASE)

# Control characters that Python counts as white space.
_SEPARATORS = "\x1c\x1d\x1e\x1f\x85"

# Kinds of Anthropic secrets that must never be used as a provider key, and what to tell the admin.
_REFUSED_KINDS: tuple[tuple[str, str, str], ...] = (
    (
        "sk-ant-admin",
        "admin_key",
        "This is an Admin API key: it manages the whole organization. Create a Claude API key instead.",
    ),
    (
        "sk-ant-oat",
        "oauth_token",
        "This is an OAuth access token: it expires and is not for other products. Create a Claude API key instead.",
    ),
    ("sk-ant-ort", "oauth_token", "This is an OAuth refresh token. Create a Claude API key instead."),
    (
        "sk-ant-sid",
        "session_key",
        "This is a claude.ai session cookie: a personal log-in. Create a Claude API key instead.",
    ),
)


def looks_like_key(text: str) -> bool:
    """Whether a text holds what looks like a secret of Anthropic's, wherever it was pasted."""
    return _ANTHROPIC_SECRET.search(text) is not None


class ApiKey:
    """A key that may reach a provider. Text forms are masked; pickling and copying into dicts are refused."""

    __slots__ = ("_text",)
    _text: str
    _MASK: ClassVar[str] = "ApiKey(***)"

    def __init__(self, text: str) -> None:
        object.__setattr__(self, "_text", text)

    @classmethod
    def parse(cls, text: str, *, custom_destination: bool = False) -> "ApiKey":
        """Accept what can be a key.

        Args:
            text: what the admin pasted, exactly; nothing is stripped.
            custom_destination: the key goes to a compatible provider, whose keys have any shape.

        Raises:
            KeyRefused: with code key_empty, key_too_long, key_has_whitespace, key_malformed,
                admin_key, oauth_token or session_key.
        """
        if not text:
            raise KeyRefused("key_empty", "The key is empty.")
        if len(text) > MAX_LENGTH:
            raise KeyRefused("key_too_long", "The key is longer than 512 characters.")
        if any(character.isspace() and character not in _SEPARATORS for character in text):
            raise KeyRefused(
                "key_has_whitespace", "The key holds white space. Paste it without spaces or line breaks."
            )
        lowered = text.lower()
        for prefix, code, message in _REFUSED_KINDS:
            if lowered.startswith(prefix):
                raise KeyRefused(code, message)
        if not text.isascii() or not text.isprintable():
            raise KeyRefused(
                "key_malformed", "The key holds characters that no key has. Copy it again from the console."
            )
        if not custom_destination and not _ANTHROPIC_KEY.fullmatch(text):
            raise KeyRefused("key_malformed", "This is not a Claude API key: those start with sk-ant-api03-.")
        return cls(text)

    @property
    def hint(self) -> str | None:
        """`sk-ant-api03-R2D...igAA`, the shape of Anthropic's own console; None for keys under 40 characters.

        Reveals five secret characters: Anthropic's keys all end in AA.
        """
        if len(self._text) < MIN_LENGTH_FOR_HINT:
            return None
        prefix = _ANTHROPIC_PREFIX.match(self._text)
        if prefix is None:
            return f"...{self._text[-4:]}"
        end = prefix.end()
        return f"{self._text[: end + 3]}...{self._text[-4:]}"

    def reveal(self) -> str:
        """The key itself. Called in `app.secret_store` and `app.egress` only; a test counts the calls."""
        return self._text

    def __repr__(self) -> str:
        return self._MASK

    __str__ = __repr__

    def __format__(self, _spec: str) -> str:
        return self._MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ApiKey) and self._text == other._text

    def __hash__(self) -> NoReturn:
        raise TypeError("an ApiKey is no dictionary key")

    def __setattr__(self, _name: str, _value: object) -> NoReturn:
        raise AttributeError("an ApiKey does not change")

    def __reduce__(self) -> NoReturn:
        raise TypeError("an ApiKey cannot be pickled or copied")
