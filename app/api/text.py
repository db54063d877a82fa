"""Text that clients choose: display names, and the dimensions by which spend is reported."""

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from app.core import visible_text
from app.core.keys.key_lookalike import looks_like_key

# Control and format characters, surrogates, line and paragraph separators: they can hide or reorder other characters.
_CONTROLS = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Format characters that Persian, the Indic scripts and combined emoji require.
_JOINERS = "\u200c\u200d"


def has_controls(text: str) -> bool:
    """Whether the text contains characters that are invisible or that reorder others."""
    return any(
        unicodedata.category(character) in _CONTROLS and character not in _JOINERS for character in text
    )


def is_blank(text: str) -> bool:
    """Whether the text has no visible character."""
    return visible_text.is_blank(text)


def require_plain(text: str) -> str:
    """Validate a display name: visible characters only, and no key."""
    if has_controls(text):
        raise PydanticCustomError("text_has_controls", "The text contains control or invisible characters.")
    if is_blank(text):
        raise PydanticCustomError("text_blank", "The text is blank.")
    return require_no_key(text)


def require_no_key(text: str) -> str:
    """Reject text that contains a key: this field is stored in plain text and shown to others."""
    if looks_like_key(text):
        raise PydanticCustomError("looks_like_key", "The field contains a key.")
    return text


Name = Annotated[
    str,
    Field(min_length=1, max_length=80, description="A display name.", examples=["Monthly budget"]),
    AfterValidator(require_plain),
]
