"""Invisible characters, and the spelling in which dimensions are stored and compared."""

import random
import unicodedata

import pytest

from app.core.visible_text import is_blank, normalize, spellings

# The four flags with regions and emoji with a variation selector end with characters that change how they look.
KEPT = [
    "\u2764\ufe0f",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "\U0001f469\u200d\U0001f4bb",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    *("a b", "=1", "-", "\u0660"),
]
INVISIBLE = [
    *(" ", "\t", "\r", "\n", "\x0b", "\x0c", "\x85", "\xa0", "\xad", "\u034f", "\u061c", "\u115f", "\u1160"),
    *("\u1680", "\u17b4", "\u180b", "\u180e", "\u2003", "\u2009", "\u200b", "\u200c", "\u200d", "\u200e"),
    *("\u2028", "\u2029", "\u202e", "\u202f", "\u205f", "\u2060", "\u2063", "\u2800", "\u3000", "\u3164"),
    *("\ufe0f", "\ufeff", "\uffa0", "\U000e0001", "\U000e0100"),
]


class TestIsBlank:
    @pytest.mark.parametrize("character", INVISIBLE, ids=ascii)
    def test_knows_invisible_characters(self, character: str) -> None:
        assert is_blank(character * 3)
        assert is_blank(f" {character}\u200b")
        assert not is_blank(f"{character}a")

    def test_agrees_with_unicode_about_white_space(self) -> None:
        spaces = [
            chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in {"Zs", "Zl", "Zp"}
        ]

        assert [ascii(it) for it in spaces if not is_blank(it)] == []


class TestNormalize:
    @pytest.mark.parametrize("character", INVISIBLE, ids=ascii)
    def test_removes_invisible_characters_at_the_start(self, character: str) -> None:
        assert normalize(f"{character}{character}chat") == "chat"

    @pytest.mark.parametrize(
        "character", [it for it in INVISIBLE if it not in "\u180b\ufe0f\U000e0100"], ids=ascii
    )
    def test_removes_invisible_characters_at_the_end(self, character: str) -> None:
        assert normalize(f"chat{character}{character}") == "chat"

    @pytest.mark.parametrize("text", KEPT, ids=ascii)
    def test_keeps_what_changes_how_a_text_looks(self, text: str) -> None:
        assert normalize(text) is text

    @pytest.mark.parametrize(
        ("decomposed", "composed"),
        [
            ("Cafe\u0301", "Café"),
            ("\u212b", "Å"),
            ("\u1112\u1161\u11ab", "\ud55c"),
            ("q\u0307\u0323", "q\u0323\u0307"),
        ],
        ids=ascii,
    )
    def test_composes(self, decomposed: str, composed: str) -> None:
        assert normalize(f" {decomposed}\u200b") == normalize(composed) == composed

    @pytest.mark.parametrize("control", ["\0", "\x1b", "\x1c", "\x1f", "\x7f"], ids=ascii)
    def test_leaves_control_characters_to_be_rejected(self, control: str) -> None:
        assert normalize(f"{control}a{control}") == f"{control}a{control}"

    @pytest.mark.parametrize("seed", range(5))
    def test_is_stable(self, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(2000):
            characters = [chr(chance.randrange(0x20, 0xD800)) for _ in range(3)] + chance.sample(INVISIBLE, 3)
            text = "".join(chance.sample(characters, 6))
            assert normalize(normalize(text)) == normalize(text)


class TestSpellings:
    def test_has_the_normalized_the_sent_and_the_decomposed_text(self) -> None:
        assert spellings(" Cafe\u0301") == ["Café", " Cafe\u0301", "Cafe\u0301"]
        assert spellings("Café") == ["Café", "Cafe\u0301"]
        assert spellings("chat") == ["chat"]
