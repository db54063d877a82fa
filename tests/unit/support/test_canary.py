"""The canary detector finds a key in every encoding, and reports no leak in other texts."""

import base64
import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest

from app.core.keys.api_key import ApiKey
from tests.support.canary import PREFIX, PUBLISHED, WINDOW, Detector, make_canary, variants

KEY = make_canary()
VARIANTS = variants(KEY)

ENCODINGS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "in lower case": str.lower,
    "in capitals": str.upper,
    "URL-quoted": lambda text: quote(text, safe=""),
    "form-quoted": lambda text: quote_plus(text, safe=""),
    "URL-quoted in lower case": lambda text: quote(text, safe="").replace("%E2%80%91", "%e2%80%91"),
    "percent-encoded throughout": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "JSON-escaped": json.dumps,
    "JSON": lambda text: json.dumps(text, ensure_ascii=False),
    "repr": repr,
    "repr of bytes": lambda text: repr(text.encode()) if text.isascii() else repr(text),
    "hex": lambda text: text.encode().hex(),
    "hex in capitals": lambda text: text.encode().hex().upper(),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64, one byte on": lambda text: base64.b64encode(b"a" + text.encode()).decode(),
    "base64, two bytes on": lambda text: base64.b64encode(b"ab" + text.encode()).decode(),
    "base64url": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "basic credentials": lambda text: base64.b64encode(f"user:{text}".encode()).decode(),
}


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(VARIANTS)


class TestFinds:
    @pytest.mark.parametrize("variant", VARIANTS)
    @pytest.mark.parametrize("encoding", ENCODINGS)
    def test_every_variant_in_every_form(self, detector: Detector, encoding: str, variant: str) -> None:
        text = ENCODINGS[encoding](VARIANTS[variant])

        assert detector.search("log", f"before {text} after")

    @pytest.mark.parametrize("encoding", ENCODINGS)
    def test_any_single_window_after_the_hint(self, detector: Detector, encoding: str) -> None:
        ends = range(PUBLISHED + 1, len(KEY) + 1)

        missed = [
            end for end in ends if not detector.search("log", ENCODINGS[encoding](KEY[end - WINDOW : end]))
        ]

        assert missed == []

    @pytest.mark.parametrize("around", [b"\x00", b"\xff\xfe", b'"', b"", b"x"])
    def test_a_window_among_other_bytes(self, detector: Detector, around: bytes) -> None:
        found = detector.search("file", around * 100 + KEY[40:48].encode() + around * 100)

        assert ("file", "raw", 40) in {(leak.sink, leak.form, leak.at) for leak in found}

    def test_windows_with_the_replaced_hyphen(self, detector: Detector) -> None:
        text = VARIANTS["U+2011"]
        at = text.index("\N{NON-BREAKING HYPHEN}") - 4
        window = text[at : at + WINDOW]

        found = [
            detector.search("log", form) for form in (window, json.dumps(window), quote(window), repr(window))
        ]

        assert all(found)


class TestFindsNothing:
    def test_in_the_published_hint(self, detector: Detector) -> None:
        hint = ApiKey.parse(KEY).hint

        assert hint is not None
        assert hint.startswith(KEY[:PUBLISHED])
        assert detector.search("body", json.dumps({"key_hint": hint, "label": f"key {PREFIX}"})) == []

    def test_in_another_key(self, detector: Detector) -> None:
        other = make_canary()

        found = [detector.search("body", encode(other)) for encode in ENCODINGS.values()]

        assert not any(found)

    def test_in_seven_characters(self, detector: Detector) -> None:
        assert detector.search("body", f"{KEY[20:27]} {KEY[-7:]}") == []


def test_a_leak_does_not_contain_the_key(detector: Detector) -> None:
    leaks = detector.search("log", KEY)

    assert detector.search("report", repr(leaks)) == []
