"""Cursor pagination. A cursor encodes the position after which the next page begins; it contains no secret."""

import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar
from uuid import UUID

from fastapi import Depends, Query, Response

from app.api.responses import respond
from app.api.schemas import Page, ResponseModel
from app.core.errors import InvalidInput

Record = TypeVar("Record")
Position = TypeVar("Position")
Model = TypeVar("Model", bound=ResponseModel)

_LARGEST_INTEGER = 2**31 - 1
_NUMBER_BYTES = 8
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(9999, 1, 1, tzinfo=UTC)


class PageQuery:
    """The query parameters `limit` and `page` of a request."""

    def __init__(self, limit: int, page: str | None) -> None:
        self.limit = limit
        self._page = page

    @property
    def at_most(self) -> int:
        """How many records to read: one more than the page has, to find out whether there are more."""
        return self.limit + 1

    def before_id(self) -> UUID | None:
        """The cursor of a list that is ordered by id, descending. None: the first page.

        Raises:
            InvalidInput: the cursor is invalid.
        """
        if self._page is None:
            return None
        content = decode_cursor(self._page)
        if len(content) != 16:  # noqa: PLR2004  # the bytes of a UUID
            raise _invalid_cursor()
        return UUID(bytes=content)

    def before_number(self) -> int:
        """The cursor of a list that is ordered by a number, descending. The largest integer: the first page.

        Raises:
            InvalidInput: the cursor is invalid.
        """
        if self._page is None:
            return _LARGEST_INTEGER
        number = _number(self._page)
        if not 0 < number <= _LARGEST_INTEGER:
            raise _invalid_cursor()
        return number

    def before_instant(self) -> datetime:
        """The cursor of a list that is ordered by time, descending. The year 9999: the first page.

        Raises:
            InvalidInput: the cursor is invalid.
        """
        if self._page is None:
            return _LATEST
        microseconds = _number(self._page)
        if not 0 < microseconds < (_LATEST - _EPOCH) // timedelta(microseconds=1):
            raise _invalid_cursor()
        return _EPOCH + timedelta(microseconds=microseconds)

    def after(self, parse: Callable[[bytes], Position]) -> Position | None:
        """The cursor of a list that is ordered by several columns. None: the first page.

        Args:
            parse: reads the position from the cursor's bytes; raises ValueError if they are invalid.

        Raises:
            InvalidInput: the cursor is invalid.
        """
        if self._page is None:
            return None
        content = decode_cursor(self._page)
        try:
            return parse(content)
        except (ValueError, OverflowError):
            raise _invalid_cursor() from None

    def respond(
        self,
        records: Sequence[Record],
        shape: Callable[[Record], Model],
        cursor: Callable[[Record], UUID | int | bytes],
        *,
        model: type[Page[Any]] = Page[Any],
        **fields: Any,
    ) -> Response:
        """Make the response with one page.

        Args:
            records: up to `at_most` records.
            shape: makes the response model of a record.
            cursor: the position of a record in the list's order.
            model: the response model of the page.
            fields: what the page has besides the records.
        """
        shown = records[: self.limit]
        return respond(
            model.model_construct(
                data=[shape(record) for record in shown], **self._end(records, cursor), **fields
            )
        )

    async def respond_piece_by_piece(
        self,
        records: Sequence[Record],
        to_json: Callable[[Record], Awaitable[bytes]],
        cursor: Callable[[Record], UUID | int | bytes],
    ) -> Response:
        """Like `respond`, for records that take long to serialize.

        Args:
            records: up to `at_most` records.
            to_json: serializes a record, and pauses meanwhile.
            cursor: the position of a record in the list's order.
        """
        page = Page[Any].model_construct(data=[], **self._end(records, cursor))
        before, after = page.split_json("data")
        items = [await to_json(record) for record in records[: self.limit]]
        return Response(before + b",".join(items) + after, media_type="application/json")

    def _end(
        self, records: Sequence[Record], cursor: Callable[[Record], UUID | int | bytes]
    ) -> dict[str, Any]:
        """The fields that state whether the page is the last one."""
        has_more = len(records) > self.limit
        return {
            "has_more": has_more,
            "next_page": _encode_position(cursor(records[self.limit - 1])) if has_more else None,
        }


async def _paging(
    limit: Annotated[int, Query(ge=1, le=100, description="The maximum number of items on the page.")] = 20,
    page: Annotated[
        str | None,
        Query(max_length=400, description="`next_page` of the previous page, unchanged."),
    ] = None,
) -> PageQuery:
    return PageQuery(limit, page)


Paging = Annotated[PageQuery, Depends(_paging)]


def encode_cursor(content: bytes) -> str:
    """The cursor with these bytes, as URL-safe text."""
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def decode_cursor(page: str) -> bytes:
    """The bytes of a cursor.

    Raises:
        InvalidInput: the text is not a cursor.
    """
    try:
        return base64.b64decode(page + "=" * (-len(page) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _invalid_cursor() from None


def _encode_position(last: UUID | int | bytes) -> str:
    if isinstance(last, UUID):
        return encode_cursor(last.bytes)
    return encode_cursor(last if isinstance(last, bytes) else last.to_bytes(_NUMBER_BYTES))


def _number(page: str) -> int:
    content = decode_cursor(page)
    if len(content) != _NUMBER_BYTES:
        raise _invalid_cursor()
    return int.from_bytes(content)


def _invalid_cursor() -> InvalidInput:
    return InvalidInput.of("page", "page_invalid", "Invalid cursor. Pass `next_page` unchanged.")
