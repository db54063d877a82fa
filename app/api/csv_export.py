"""CSV responses: whether the client accepts them, how many run at once, and rows that spreadsheets do not execute."""

import csv
import string
import unicodedata
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import Depends, Header
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.api.middleware import ResponseTruncated
from app.api.responses import response_headers
from app.core.admission import AdmissionQueue
from app.core.errors import ByokError
from app.core.event_loop import TimeSlice
from app.core.visible_text import strip_invisible_start

MEDIA_TYPE = "text/csv"
# Rows to format before they are sent.
_ROWS_AT_ONCE = 100

# A spreadsheet treats a cell that begins with one of these as a formula. Some accept the full-width forms of East Asian
# keyboards or the mathematical minus, and some ignore invisible characters before it.
_FORMULA_SIGNS = frozenset("=+-@\u2212")
_PLAIN_STARTS = frozenset(string.ascii_letters + string.digits)

Cell = str | int | Decimal | datetime | None


def csv_response(
    pages: AsyncIterable[Iterable[str]],
    *,
    slot: AbstractAsyncContextManager[None],
    header: Iterable[str],
    name: str,
    as_of: datetime,
    media_type: str = MEDIA_TYPE,
) -> "ExportResponse":
    """A CSV file that is sent while its pages are read. An error of a later page truncates the response.

    Args:
        pages: the lines of each page.
        slot: held until the last byte is sent.
        header: the names of the columns.
        name: the name under which a browser saves the file.
        as_of: the file includes all events that were accepted before.
        media_type: the media type, with its parameters.
    """

    async def pieces() -> AsyncIterator[str]:
        yield csv_row(header)
        try:
            async for piece in _in_pieces(pages):
                yield piece
        except ByokError as error:
            raise ResponseTruncated(error.code) from None

    return ExportResponse(
        pieces(),
        slot=slot,
        media_type=media_type,
        headers=file_headers(name, as_of=as_of),
    )


async def _in_pieces(pages: AsyncIterable[Iterable[str]]) -> AsyncIterator[str]:
    """Join the lines. Waiting for the client or for the next page does not count as use of the event loop."""
    time_slice = TimeSlice(gives_way=True)
    time_slice.suspend()
    async for lines in pages:
        time_slice.resume()
        piece: list[str] = []
        for line in lines:
            piece.append(line)
            if len(piece) == _ROWS_AT_ONCE:
                time_slice.suspend()
                yield "".join(piece)
                time_slice.resume()
                piece.clear()
            await time_slice.pause_if_used()
        time_slice.suspend()
        if piece:
            yield "".join(piece)


def file_headers(name: str, *, as_of: datetime) -> dict[str, str]:
    """The headers of a response that a browser saves under this name. It includes all events accepted before `as_of`."""
    return {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Data-As-Of": as_of.astimezone(UTC).isoformat().replace("+00:00", "Z"),
    }


def csv_document(header: Iterable[str]) -> dict[int | str, dict[str, Any]]:
    """Document a CSV response, for a route's `responses`."""
    example = {"default": {"value": csv_row(header)}}
    content = {"content": {MEDIA_TYPE: {"schema": {"type": "string"}, "examples": example}}}
    return {200: content | response_headers("Content-Disposition", "Data-As-Of")[200]}


def csv_row(cells: Iterable[object]) -> str:
    """One line of CSV (RFC 4180). Text that begins like a formula is prefixed with an apostrophe; numbers are not."""
    line: str = _write_row([it if it.__class__ in _PLAIN else _cell(it) for it in cells])
    return line


class Number(str):
    """A number that is formatted already. Its sign is not the start of a formula."""

    __slots__ = ()


# Classes that the writer of the standard library formats as they should be. None is an empty cell.
_PLAIN = frozenset({int, type(None), Number})


class _Line:
    """What the writer of the standard library writes a line to. The writer returns what `write` does."""

    @staticmethod
    def write(line: str) -> str:
        return line


_write_row = csv.writer(_Line()).writerow


def _cell(value: object) -> str:
    if value.__class__ is str and value[:1] in _PLAIN_STARTS:
        return value
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    text = value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)
    return f"'{text}" if _may_be_formula(text) else text


def _may_be_formula(text: str) -> bool:
    """Whether a spreadsheet may execute the text: a sign is its first visible character, in any of its forms.

    Text that begins with a control character, such as a tab, is treated alike: some spreadsheets drop it.
    """
    if text[:1].isascii() and text[:1].isalnum():
        return False
    first = unicodedata.normalize("NFKC", strip_invisible_start(text)[:1])
    return not _FORMULA_SIGNS.isdisjoint(first) or text[:1] in {"\t", "\r", "\n"}


class ExportQueue(AdmissionQueue):
    """Limits the exports of an organization that are being sent. Each lasts as long as its client takes to read it."""


class ExportResponse(StreamingResponse):
    """A streamed export that holds a slot until its last byte is sent or the client disconnects."""

    def __init__(
        self,
        lines: AsyncIterable[str],
        *,
        slot: AbstractAsyncContextManager[None],
        media_type: str,
        headers: dict[str, str],
    ) -> None:
        super().__init__(lines, media_type=media_type, headers=headers)
        self._slot = slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the export. Before it starts, ConcurrencyLimited may be raised, which becomes the response."""
        async with self._slot:
            await super().__call__(scope, receive, send)


async def _wants_csv(
    accept: Annotated[
        str | None,
        Header(alias="Accept", max_length=1000, include_in_schema=False),
    ] = None,
) -> bool:
    """Whether the Accept header prefers CSV over JSON: by weight, then by order."""
    weights = {"application/json": 0.0, MEDIA_TYPE: 0.0}
    for position, part in enumerate((accept or "").split(",")):
        media_type, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if media_type in weights and not weights[media_type]:
            weights[media_type] = _weight(parameters) - position / 10**6
    return weights[MEDIA_TYPE] > max(weights["application/json"], 0.0)


def _weight(parameters: list[str]) -> float:
    weight = next((it[2:] for it in parameters if it.startswith("q=")), "1")
    try:
        return min(max(float(weight), 0.0), 1.0)
    except ValueError:
        return 0.0


WantsCsv = Annotated[bool, Depends(_wants_csv)]
