"""Lines of CSV: quoted as RFC 4180 says, and nothing that a spreadsheet would run."""

import csv
import io
from decimal import Decimal

import pytest

from app.api.csv_export import Cell, csv_row


class TestRow:
    @pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1"])
    def test_takes_the_power_from_formulas(self, text: str) -> None:
        assert list(csv.reader(io.StringIO(csv_row([text]), newline=""))) == [[f"'{text}"]]

    @pytest.mark.parametrize("text", ["", "a", " =1", "a,b", 'say "x"', "two\r\nlines", "ü", "'=1"])
    def test_keeps_other_texts(self, text: str) -> None:
        assert list(csv.reader(io.StringIO(csv_row([text, "x"]), newline=""))) == [[text, "x"]]

    @pytest.mark.parametrize(
        ("number", "text"),
        [(-5, "-5"), (Decimal("-0.01"), "-0.01"), (Decimal("1E-12"), "0.000000000001"), (None, "")],
    )
    def test_leaves_numbers_as_they_are(self, number: Cell, text: str) -> None:
        assert csv_row([number, number]) == f"{text},{text}\r\n"
