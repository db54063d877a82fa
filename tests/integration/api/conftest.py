"""Fixtures for tests of the HTTP server."""

from collections.abc import Iterator

import pytest

from tests.support.network.http_server import Echo


@pytest.fixture
def echo() -> Iterator[Echo]:
    echo = Echo()
    yield echo
    echo.release.set()
