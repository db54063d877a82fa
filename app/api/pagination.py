"""Cursor pages. A cursor says after which item to go on; it holds no data and no secret."""

import base64
import binascii
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar
from uuid import UUID

from fastapi import Depends, Query, Response

from app.api.responses import answer
from app.api.schemas import Page, ResponseModel
from app.core.errors import InvalidInput

Record = TypeVar("Record")
Place = TypeVar("Place")
Model = TypeVar("Model", bound=ResponseModel)

_LARGEST_INTEGER = 2**31 - 1
_NUMBER_BYTES = 8
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_END_OF_TIME = datetime(9999, 1, 1, tzinfo=UTC)


class PageQuery:
    """`limit` and `page` of a request."""

    def __init__(self, limit: int, page: str | None) -> None:
        self.limit = limit
        self._page = page

    @property
    def at_most(self) -> int:
        """One more than asked for: whether it is there tells whether there are more."""
        return self.limit + 1

    def before_id(self) -> UUID | None:
        """Raises InvalidInput where the cursor is none of ours."""
        if self._page is None:
            return None
        content = _decode(self._page)
        if len(content) != 16:  # noqa: PLR2004  # the bytes of a UUID
            raise _not_ours()
        return UUID(bytes=content)

    def before_number(self) -> int:
        """Raises InvalidInput where the cursor is none of ours."""
        if self._page is None:
            return _LARGEST_INTEGER
        number = _number(self._page)
        if not 0 < number <= _LARGEST_INTEGER:
            raise _not_ours()
        return number

    def before_instant(self) -> datetime:
        """Raises InvalidInput where the cursor is none of ours."""
        if self._page is None:
            return _END_OF_TIME
        microseconds = _number(self._page)
        if not 0 < microseconds < (_END_OF_TIME - _EPOCH) // timedelta(microseconds=1):
            raise _not_ours()
        return _EPOCH + timedelta(microseconds=microseconds)

    def after(self, parse: Callable[[bytes], Place]) -> Place | None:
        """The place that the cursor holds, in lists that are ordered by more than one column.

        Args:
            parse: reads it; raises ValueError where it is none.

        Raises:
            InvalidInput: the cursor is none of ours.
        """
        if self._page is None:
            return None
        content = _decode(self._page)
        try:
            return parse(content)
        except (ValueError, OverflowError):
            raise _not_ours() from None

    def answer(
        self,
        records: Sequence[Record],
        shape: Callable[[Record], Model],
        cursor: Callable[[Record], UUID | int | bytes],
    ) -> Response:
        shown = records[: self.limit]
        has_more = len(records) > self.limit
        page = Page[Any].model_construct(
            data=[shape(record) for record in shown],
            has_more=has_more,
            next_page=_encode(cursor(shown[-1])) if has_more else None,
        )
        return answer(page)


async def _paging(
    limit: Annotated[int, Query(ge=1, le=100, description="How many at most.")] = 20,
    page: Annotated[
        str | None, Query(max_length=400, description="`next_page` of the page before, as it was.")
    ] = None,
) -> PageQuery:
    return PageQuery(limit, page)


Paging = Annotated[PageQuery, Depends(_paging)]


def _encode(last: UUID | int | bytes) -> str:
    content = (
        last.bytes
        if isinstance(last, UUID)
        else last
        if isinstance(last, bytes)
        else last.to_bytes(_NUMBER_BYTES)
    )
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _decode(page: str) -> bytes:
    try:
        return base64.b64decode(page + "=" * (-len(page) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _not_ours() from None


def _number(page: str) -> int:
    content = _decode(page)
    if len(content) != _NUMBER_BYTES:
        raise _not_ours()
    return int.from_bytes(content)


def _not_ours() -> InvalidInput:
    return InvalidInput.of(
        "page", "page_invalid", "This is not a cursor of ours. Pass next_page back as it was."
    )
