"""Which characters a reader cannot see, and the one spelling of a text that is compared and stored.

Unicode has many characters without a shape. The list is `Default_Ignorable_Code_Point` of Unicode 16, white space, and a
few characters that only look empty.
"""

import unicodedata
from collections.abc import Iterator

_ASCII_WHITE_SPACE = " \t\n\v\f\r"
_WHITE_SPACE = (
    _ASCII_WHITE_SPACE + "\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
_BLANK_BRAILLE = "\u2800"
_IGNORABLE = (
    (0x00AD, 0x00AD),
    (0x034F, 0x034F),
    (0x061C, 0x061C),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFFB),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
)
# At the end of a text these change how the character before them looks: emoji, Mongolian letters, flags of regions.
_MODIFIERS = ((0x180B, 0x180D), (0x180F, 0x180F), (0xFE00, 0xFE0F), (0xE0020, 0xE007F), (0xE0100, 0xE01EF))


def _characters(*ranges: tuple[int, int]) -> Iterator[str]:
    for first, last in ranges:
        yield from map(chr, range(first, last + 1))


_INVISIBLE = frozenset((*_WHITE_SPACE, _BLANK_BRAILLE, *_characters(*_IGNORABLE)))
_LEADING = "".join(sorted(_INVISIBLE))
_TRAILING = "".join(sorted(_INVISIBLE.difference(_characters(*_MODIFIERS))))


def is_invisible(character: str) -> bool:
    """Whether the character has no shape: white space, a control character, or one that renderers ignore."""
    return character in _INVISIBLE or unicodedata.category(character) == "Cc"


def is_blank(text: str) -> bool:
    """Whether the text has no visible character."""
    return all(map(is_invisible, text))


def strip_invisible_start(text: str) -> str:
    """Remove the characters before the first visible one."""
    for position, character in enumerate(text):
        if not is_invisible(character):
            return text[position:]
    return ""


def normalize(text: str) -> str:
    """Return the spelling of a text that is stored and compared: Unicode's NFC, without invisible characters at the ends.

    Returns the same object if nothing changes. Control characters other than white space stay, so that they are rejected.
    """
    if text.isascii():
        return text.strip(_ASCII_WHITE_SPACE)
    composed = text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)
    return composed.lstrip(_LEADING).rstrip(_TRAILING)


def spellings(text: str) -> list[str]:
    """Return the spellings under which a text may be stored: normalized, and as releases before 0.2 stored what was sent.

    These stored a text unchanged: as it is here, or with its accents decomposed, as macOS does.
    """
    normalized = normalize(text)
    return list(dict.fromkeys((normalized, text, unicodedata.normalize("NFD", normalized))))
