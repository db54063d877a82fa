"""Lines of CSV that a spreadsheet opens without running anything."""

import csv
import io

import pytest

from app.routers.csv import csv_row


class TestRow:
    @pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx", '=cmd|"/c calc"!A1'])
    def test_gives_what_would_be_a_formula_an_apostrophe(self, text: str) -> None:
        (read,) = csv.reader(io.StringIO(csv_row([text, "b"]), newline=""))

        assert read == [f"'{text}", "b"]

    @pytest.mark.parametrize("text", ["", "plain", "a,b", 'say "x"', "two\nlines", "ü"])
    def test_is_read_back_as_it_was(self, text: str) -> None:
        (read,) = csv.reader(io.StringIO(csv_row(["a", text]), newline=""))

        assert read == ["a", text]

    def test_leaves_numbers_as_they_are(self) -> None:
        assert csv_row([-5, None, 0]) == "-5,,0\r\n"
