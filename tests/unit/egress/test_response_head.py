"""The limit of heads gives the same result however the bytes arrive, and counts small reads."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.egress.exceptions import ResponseTooLarge
from app.egress.response_head import ResponseHeadLimit

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
FINAL = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
BODY = b"a\n\nHTTP/1.1 100 Continue\r\n\r\n" * 2000


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    edges = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
    return (data[start:end] for start, end in pairwise(edges))


def receive(limit: ResponseHeadLimit, reads: Iterable[bytes]) -> None:
    for data in reads:
        limit.receive(data)


class TestResponseHeadLimit:
    @given(informational=st.integers(0, 8), cuts=st.lists(st.integers(0, 10_000), max_size=30))
    def test_accepts_eight_informational_responses_and_ignores_the_body(
        self, informational: int, cuts: list[int]
    ) -> None:
        limit = ResponseHeadLimit(max_bytes=32 * 1024, max_informational=8)

        receive(limit, pieces(CONTINUE * informational + FINAL + BODY, cuts))

    @given(informational=st.integers(9, 40), cuts=st.lists(st.integers(0, 10_000), max_size=30))
    def test_refuses_the_ninth(self, informational: int, cuts: list[int]) -> None:
        limit = ResponseHeadLimit(max_bytes=32 * 1024, max_informational=8)

        with pytest.raises(ResponseTooLarge):
            receive(limit, pieces(CONTINUE * informational + FINAL, cuts))

    def test_counts_a_read_of_one_byte_as_more(self) -> None:
        limit = ResponseHeadLimit(max_bytes=32 * 1024, max_informational=8)

        with pytest.raises(ResponseTooLarge):
            receive(limit, [b"x"] * 1000)
