"""Unit tests of the circuit breaker and of the concurrency limit per host."""

import asyncio

import httpx
import pytest

from app.egress.circuit_breaker import CircuitBreaker
from app.egress.exceptions import CircuitOpen
from app.egress.host_concurrency import HostConcurrencyLimit

URL = httpx.URL("https://gw.example.com/acme/v1/messages")
OTHER_PATH = httpx.URL("https://gw.example.com/other/v1/messages")
READ_TIMEOUT = httpx.ReadTimeout("no response")


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(timeout_threshold=2, open_seconds=30.0, min_wait_seconds=3.0, clock=clock)


def fail(
    breaker: CircuitBreaker, error: BaseException, *, times: int = 2, waited_seconds: float = 5.0
) -> None:
    for _ in range(times):
        breaker.record_failure(URL, error, waited_seconds=waited_seconds)


def is_open(breaker: CircuitBreaker, url: httpx.URL) -> bool:
    try:
        breaker.raise_if_open(url)
    except CircuitOpen:
        return True
    return False


class TestCircuitBreaker:
    def test_one_timeout_does_not_open_the_circuit(self, breaker: CircuitBreaker) -> None:
        fail(breaker, READ_TIMEOUT, times=1)

        assert not is_open(breaker, URL)

    def test_response_timeouts_open_the_circuit_of_their_path_only(self, breaker: CircuitBreaker) -> None:
        fail(breaker, READ_TIMEOUT)

        assert (is_open(breaker, URL), is_open(breaker, OTHER_PATH)) == (True, False)

    def test_connect_timeouts_open_the_circuit_of_the_host(self, breaker: CircuitBreaker) -> None:
        fail(breaker, httpx.ConnectTimeout("no connection"))

        assert (is_open(breaker, URL), is_open(breaker, OTHER_PATH)) == (True, True)

    @pytest.mark.parametrize(
        "error",
        [httpx.PoolTimeout("ours"), httpx.ConnectError("refused"), httpx.RemoteProtocolError("nonsense")],
    )
    def test_other_failures_do_not_count(self, breaker: CircuitBreaker, error: Exception) -> None:
        fail(breaker, error)

        assert not is_open(breaker, URL)

    @pytest.mark.parametrize(("waited_seconds", "expected"), [(2.9, False), (3.0, True)])
    def test_cancelled_request_counts_after_the_minimum_wait(
        self, breaker: CircuitBreaker, waited_seconds: float, expected: bool
    ) -> None:
        fail(breaker, asyncio.CancelledError(), waited_seconds=waited_seconds)

        assert is_open(breaker, URL) is expected

    def test_success_resets_the_count(self, breaker: CircuitBreaker) -> None:
        fail(breaker, READ_TIMEOUT, times=1)
        breaker.record_success(URL)
        fail(breaker, READ_TIMEOUT, times=1)

        assert not is_open(breaker, URL)

    def test_circuit_opens_again_with_the_next_timeout(self, breaker: CircuitBreaker, clock: Clock) -> None:
        fail(breaker, READ_TIMEOUT)
        clock.seconds = 30.0
        after_open_time = is_open(breaker, URL)
        fail(breaker, READ_TIMEOUT, times=1)

        assert (after_open_time, is_open(breaker, URL)) == (False, True)

    def test_number_of_tracked_hosts_is_limited(self, breaker: CircuitBreaker) -> None:
        fail(breaker, READ_TIMEOUT)
        for number in range(5000):
            breaker.record_failure(
                httpx.URL(f"https://h{number}.example.com/"), READ_TIMEOUT, waited_seconds=0.0
            )

        assert not is_open(breaker, URL)


class TestHostConcurrencyLimit:
    async def test_request_waits_until_a_slot_is_released(self) -> None:
        limit = HostConcurrencyLimit(1)
        await limit.acquire("a.example.com", None)
        waiting = asyncio.create_task(limit.acquire("a.example.com", None))
        await asyncio.sleep(0)
        waited = not waiting.done()

        limit.release("a.example.com")
        await waiting

        assert waited

    async def test_queue_timeout_raises_a_pool_timeout(self) -> None:
        limit = HostConcurrencyLimit(1)
        await limit.acquire("a.example.com", None)

        with pytest.raises(httpx.PoolTimeout):
            await limit.acquire("a.example.com", 0.0)

    async def test_cancelled_waiter_takes_no_slot(self) -> None:
        limit = HostConcurrencyLimit(1)
        await limit.acquire("a.example.com", None)
        waiting = asyncio.create_task(limit.acquire("a.example.com", None))
        await asyncio.sleep(0)

        waiting.cancel()
        await asyncio.wait([waiting])
        limit.release("a.example.com")

        await limit.acquire("a.example.com", 0.0)

    async def test_hosts_have_separate_limits(self) -> None:
        limit = HostConcurrencyLimit(1)
        await limit.acquire("a.example.com", None)

        await limit.acquire("b.example.com", 0.0)

    async def test_forgets_hosts_without_requests(self) -> None:
        limit = HostConcurrencyLimit(1)
        await limit.acquire("a.example.com", None)
        with pytest.raises(httpx.PoolTimeout):
            await limit.acquire("a.example.com", 0.0)
        limit.release("a.example.com")

        assert limit._slots == {}
