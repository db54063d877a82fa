"""The look-alike test: what looks like a key, in any case and encoding, and what holds a part of a given key."""

import json
import sys
import time
import unicodedata
from urllib.parse import quote

import pytest

from app.core.keys.key_lookalike import (
    contains_part_of,
    looks_like_key,
    may_contain_part,
    may_look_like_key,
    redact_keys,
)
from tests.support.request_cost import without_collection

KEY = "sk-ant-api03-R2DxxSECRETSECRETSECRETSECRETSECRETigAA"
OPAQUE = "dapi0123456789abcdefFEDCBA9876543210"


class TestLooksLikeKey:
    @pytest.mark.parametrize(
        "text",
        [
            KEY,
            f"my key {KEY} is good",
            KEY.upper(),
            KEY.capitalize(),
            KEY[:20],
            "sk-ant-admin01-xxxxxxxx",
            "sk-ant-abcd",
            f"https://gw.example.com/{KEY}",
            KEY.replace("-", "%2D"),
            KEY.replace("-", "%2d").title(),
            KEY.replace("-", "%252D"),
            KEY.replace("-", "\\u002d"),
            KEY.replace("-", "\u2011"),
            KEY.replace("-", "\u2013"),
        ],
    )
    def test_finds_and_redacts_secrets_of_anthropic(self, text: str) -> None:
        assert looks_like_key(text)
        assert "SECRET" not in redact_keys(text, "***").upper()
        assert may_look_like_key(text.encode()) or "\\" in text

    @pytest.mark.parametrize(
        "text",
        [
            "sk-\u200dant-api03-R2DxxSECRET",
            "\uff53\uff4b\uff0d\uff41\uff4e\uff54\uff0dapi03-R2DxxSECRET",
            "".join(f"%{ord(c):02x}" for c in KEY),
            quote(quote(KEY.replace("-", "\u2011"))),
            "".join(f"%252525{ord(c):02x}" for c in KEY),
            "%%37%33k%%32%64ant%%32%64api03-R2DxxSECRET",
        ],
    )
    def test_finds_hidden_ones(self, text: str) -> None:
        assert looks_like_key(text)
        assert may_look_like_key(text.encode())

    def test_finds_one_with_any_invisible_character_inside(self) -> None:
        characters = [chr(number) for number in range(sys.maxunicode + 1)]
        invisible = [character for character in characters if unicodedata.category(character) == "Cf"]

        assert len(invisible) > 100
        assert [c for c in invisible if not looks_like_key(f"sk-{c}ant-api03-R2D")] == []

    @pytest.mark.parametrize(
        "text", ["sk-ant", "sk-ant-", "sk-ant-abc", "a task-antenna", "org_acme", "100 %", "%zz"]
    )
    def test_ignores_other_text(self, text: str) -> None:
        assert not looks_like_key(text)
        assert redact_keys(text, "***") == text

    @pytest.mark.parametrize("unit", ["%25", "%", "sk%25", "%41", "%2525", "sk-ant-", "\u2011"])
    def test_takes_time_in_proportion_to_the_text(self, unit: str) -> None:
        with without_collection():
            started = time.thread_time()
            looks_like_key(unit * (60_000 // len(unit)))
            seconds = time.thread_time() - started

        assert seconds < 0.1

    def test_cheap_test_lets_ordinary_events_pass(self) -> None:
        assert not may_look_like_key(
            json.dumps({"feature": "assistant", "model": "claude-opus-4-8"}).encode()
        )


class TestKeyWithoutPrefix:
    WHOLE = "R2Dxx-SECRET_0" + "a1B" * 26 + "0AA"

    def test_is_found_if_it_is_the_whole_text(self) -> None:
        assert len(self.WHOLE) == 95
        for text in (self.WHOLE, self.WHOLE.replace("-", "%2D")):
            assert looks_like_key(text)
            assert may_look_like_key(f'{{"session_id":"{text}"}}'.encode())

    @pytest.mark.parametrize(
        "text",
        [
            WHOLE[:64],
            WHOLE[1:],
            f"{WHOLE}A",
            WHOLE[:-2] + "AB",
            WHOLE.lower().replace("aa", "AA"),
            f"trace {WHOLE}",
            "0" * 93 + "AA",
        ],
    )
    def test_is_not_found_in_the_ids_of_clients(self, text: str) -> None:
        assert not looks_like_key(text)


class TestContainsPartOf:
    @pytest.mark.parametrize("secret", [KEY, OPAQUE])
    def test_finds_every_part_of_12_characters(self, secret: str) -> None:
        for start in range(len(secret) - 11):
            part = secret[start : start + 12]
            assert contains_part_of(secret, f"a {part} b")
            assert contains_part_of(secret, f"https://gw.example.com/{part.upper()}")
            assert contains_part_of(secret, "".join(f"%{ord(c):02X}" for c in part))
            assert may_contain_part(f"a {part} b")

    @pytest.mark.parametrize("secret", [KEY, OPAQUE])
    def test_ignores_shorter_parts(self, secret: str) -> None:
        for start in range(len(secret) - 10):
            assert not contains_part_of(secret, f"a {secret[start : start + 11]} b")

    def test_finds_a_short_key_only_as_a_whole(self) -> None:
        assert contains_part_of("gw-42-valid", "use gw-42-valid here")
        assert not contains_part_of("gw-42-valid", "use gw-42-vali here")
        assert not contains_part_of("prod", "Acme production")

    def test_ordinary_labels_need_no_comparison(self) -> None:
        assert not may_contain_part("Acme production")
        assert not may_contain_part("")
