"""A provider key in memory: parsed once, never printed, revealed only to the secret store and to egress."""

import re

from app.core.keys.key_lookalike import contains_part_of
from app.core.keys.masked import Masked
from app.core.keys.pasted_key import require_key

MIN_LENGTH_FOR_HINT = 40

_ANTHROPIC_PREFIX = re.compile(r"sk-ant-api\d{2}-")


class ApiKey(Masked):
    """A key that may be sent to a provider."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str, *, is_custom_endpoint: bool = False) -> "ApiKey":
        """Check the shape of a key, without a network call.

        Args:
            text: exactly what the admin pasted; nothing is stripped.
            is_custom_endpoint: the key is for a compatible provider, whose keys may have any shape.

        Raises:
            KeyRefused: the code is that of the first check of `app.core.keys.pasted_key.KEY_CHECKS` that applies.
        """
        require_key(text, is_custom_endpoint=is_custom_endpoint)
        return cls(text)

    @property
    def hint(self) -> str | None:
        """The masked key as Anthropic's console shows it, `sk-ant-api03-R2D...igAA`; None below 40 characters.

        A key of another provider shows only its last four characters. The hint reveals five secret characters of an
        Anthropic key, because those keys all end in AA.
        """
        if len(self._text) < MIN_LENGTH_FOR_HINT:
            return None
        prefix = _ANTHROPIC_PREFIX.match(self._text)
        if prefix is None:
            return f"...{self._text[-4:]}"
        end = prefix.end()
        return f"{self._text[: end + 3]}...{self._text[-4:]}"

    def is_found_in(self, text: str) -> bool:
        """Whether a text contains this key or 12 consecutive characters of it."""
        return contains_part_of(self._text, text)

    def reveal(self) -> str:
        """The key in clear text. Only `app.secret_store` and `app.egress` call this; a test counts the calls."""
        return self._text
