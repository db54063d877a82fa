"""CSV rows: quoted as in RFC 4180, without text that a spreadsheet would execute as a formula."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from contextlib import nullcontext
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from app.api.csv_export import Cell, csv_response, csv_row
from app.core.event_loop import SLICE_SECONDS, line_of

# What a spreadsheet may not show before a sign.
INVISIBLE = [
    *(
        "",
        " ",
        "   ",
        "\t",
        "\r",
        "\n",
        "\r\n",
        "\x0b",
        "\x0c",
        "\x00",
        "\x01",
        "\x1b",
        "\x7f",
        "\x85",
        "\xa0",
    ),
    *(
        "\xad",
        "\u034f",
        "\u061c",
        "\u115f",
        "\u1680",
        "\u180e",
        "\u2000",
        "\u2003",
        "\u2009",
        "\u200b",
    ),
    *(
        "\u200c",
        "\u200d",
        "\u200e",
        "\u200f",
        "\u2028",
        "\u2029",
        "\u202a",
        "\u202e",
        "\u202f",
        "\u205f",
    ),
    *("\u2060", "\u2066", "\u2800", "\u3000", "\u3164", "\ufe0f", "\ufeff", "\uffa0", "\U000e0020"),
    *(" \t\u200b\xa0", "\ufeff\u3000\x0b "),
]


class TestRow:
    @pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "\tx", "\rx", "\nx"])
    def test_prefixes_formulas_with_an_apostrophe(self, text: str) -> None:
        assert list(csv.reader(io.StringIO(csv_row([text]), newline=""))) == [[f"'{text}"]]

    @pytest.mark.parametrize(
        "sign", "=+-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212\u207a\u208a\u207b", ids=ascii
    )
    def test_prefixes_every_form_of_a_sign_behind_every_invisible_character(self, sign: str) -> None:
        for hidden in INVISIBLE:
            text = f"{hidden}{sign}cmd|' /C calc'!A0"

            assert list(csv.reader(io.StringIO(csv_row([text, 1]), newline=""))) == [[f"'{text}", "1"]], (
                hidden
            )

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "a",
            " a",
            "\u200bx",
            "\xa01",
            "1-1",
            "a=1",
            "\u2013",
            "•",
            "\uff41",
            "a,b",
            'say "x"',
            "two\r\nlines",
            "ü",
            "'=1",
        ],
    )
    def test_keeps_other_text(self, text: str) -> None:
        assert list(csv.reader(io.StringIO(csv_row([text, "x"]), newline=""))) == [[text, "x"]]

    @pytest.mark.parametrize(
        ("number", "text"),
        [(-5, "-5"), (Decimal("-0.01"), "-0.01"), (Decimal("1E-12"), "0.000000000001"), (None, "")],
    )
    def test_does_not_change_numbers(self, number: Cell, text: str) -> None:
        assert csv_row([number, number]) == f"{text},{text}\r\n"


class TestResponse:
    async def test_waiting_for_the_client_or_the_next_page_does_not_count(self) -> None:
        sent: list[str] = []

        async def pages() -> AsyncIterator[list[str]]:
            for number in range(3):
                await asyncio.sleep(2 * SLICE_SECONDS)
                yield [f"{number}\r\n"] * 250

        response = csv_response(
            pages(), slot=nullcontext(), header=["n"], name="numbers.csv", as_of=datetime.now(UTC)
        )
        async with line_of(asyncio.get_running_loop()), asyncio.timeout(10):
            async for piece in response.body_iterator:
                sent.append(str(piece))
                await asyncio.sleep(2 * SLICE_SECONDS)

        assert "".join(sent) == "n\r\n" + "".join(f"{number}\r\n" * 250 for number in range(3))
