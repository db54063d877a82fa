"""Asserts that a response is a problem; a request body that must not be read."""

from collections.abc import AsyncIterator

import httpx


def assert_problem(response: httpx.Response, status: int, code: str) -> None:
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert {"type", "title", "status", "detail", "code", "request_id"} <= set(problem)
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["request_id"] == response.headers["X-Request-Id"]


class UnreadBody:
    """A request body that fails the test if it is read."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
