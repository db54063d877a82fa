"""Texts that a client chooses: names that people read, and dimensions that spend is told apart by."""

import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

_ANTHROPIC_SECRET = re.compile(r"sk-ant-[A-Za-z0-9]+-[A-Za-z0-9_-]{8,}")


# Controls, format characters, surrogates, line and paragraph separators: they hide or turn what is read.
_CONTROLS = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Format characters without which Persian, the Indic scripts and joined emoji cannot be written.
_JOINERS = "\u200c\u200d"


def has_controls(text: str) -> bool:
    """Whether a text holds characters that people do not see, or that turn others around."""
    return any(
        unicodedata.category(character) in _CONTROLS and character not in _JOINERS for character in text
    )


def is_blank(text: str) -> bool:
    """Whether there is nothing to see."""
    return not text.strip().strip(_JOINERS)


def is_plain(text: str) -> str:
    if has_controls(text):
        raise PydanticCustomError("text_has_controls", "The text holds control or invisible characters.")
    if is_blank(text):
        raise PydanticCustomError("text_blank", "The text is blank.")
    return holds_no_key(text)


def holds_no_key(text: str) -> str:
    """The text, unless a key was pasted where it would be kept in clear and shown to others."""
    if _ANTHROPIC_SECRET.search(text):
        raise PydanticCustomError("looks_like_key", "This field holds a key.")
    return text


Name = Annotated[
    str,
    Field(min_length=1, max_length=80, description="For people.", examples=["Monthly budget"]),
    AfterValidator(is_plain),
]
