"""The breaker by the clock, and the slots by the count."""

import asyncio

import httpx
import pytest

from app.egress.circuit_breaker import CircuitBreaker, HostSlots
from app.egress.exceptions import HostSuspended

URL = httpx.URL("https://gw.example.com/acme/v1/messages")
NEIGHBOUR = httpx.URL("https://gw.example.com/other/v1/messages")
HANG = httpx.ReadTimeout("no answer")


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
    return CircuitBreaker(hangs_before_pause=2, pause_seconds=30.0, patience_seconds=3.0, clock=clock)


def fail(
    breaker: CircuitBreaker, error: BaseException, *, times: int = 2, waited_seconds: float = 5.0
) -> None:
    for _ in range(times):
        breaker.failed(URL, error, waited_seconds=waited_seconds)


def is_suspended(breaker: CircuitBreaker, url: httpx.URL) -> bool:
    try:
        breaker.check(url)
    except HostSuspended:
        return True
    return False


class TestHangBreaker:
    def test_one_hang_is_forgiven(self, breaker: CircuitBreaker) -> None:
        fail(breaker, HANG, times=1)

        assert not is_suspended(breaker, URL)

    def test_answers_that_hang_suspend_their_path_only(self, breaker: CircuitBreaker) -> None:
        fail(breaker, HANG)

        assert (is_suspended(breaker, URL), is_suspended(breaker, NEIGHBOUR)) == (True, False)

    def test_connections_that_hang_suspend_the_host(self, breaker: CircuitBreaker) -> None:
        fail(breaker, httpx.ConnectTimeout("no connection"))

        assert (is_suspended(breaker, URL), is_suspended(breaker, NEIGHBOUR)) == (True, True)

    @pytest.mark.parametrize(
        "error",
        [httpx.PoolTimeout("ours"), httpx.ConnectError("refused"), httpx.RemoteProtocolError("nonsense")],
    )
    def test_quick_failures_and_our_own_do_not_count(self, breaker: CircuitBreaker, error: Exception) -> None:
        fail(breaker, error)

        assert not is_suspended(breaker, URL)

    @pytest.mark.parametrize(("waited_seconds", "suspended"), [(2.9, False), (3.0, True)])
    def test_a_cancelled_request_counts_if_it_waited_long(
        self, breaker: CircuitBreaker, waited_seconds: float, suspended: bool
    ) -> None:
        fail(breaker, asyncio.CancelledError(), waited_seconds=waited_seconds)

        assert is_suspended(breaker, URL) is suspended

    def test_an_answer_clears_the_count(self, breaker: CircuitBreaker) -> None:
        fail(breaker, HANG, times=1)
        breaker.answered(URL)
        fail(breaker, HANG, times=1)

        assert not is_suspended(breaker, URL)

    def test_the_pause_ends_and_the_next_hang_brings_it_back(
        self, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        fail(breaker, HANG)
        clock.seconds = 30.0
        after_the_pause = is_suspended(breaker, URL)
        fail(breaker, HANG, times=1)

        assert (after_the_pause, is_suspended(breaker, URL)) == (False, True)

    def test_what_is_remembered_is_bounded(self, breaker: CircuitBreaker) -> None:
        fail(breaker, HANG)
        for number in range(5000):
            breaker.failed(httpx.URL(f"https://h{number}.example.com/"), HANG, waited_seconds=0.0)

        assert not is_suspended(breaker, URL)


class TestHostSlots:
    async def test_the_next_one_waits_until_a_slot_is_given_back(self) -> None:
        slots = HostSlots(1)
        await slots.take("a.example.com", None)
        waiting = asyncio.create_task(slots.take("a.example.com", None))
        await asyncio.sleep(0)
        waited = not waiting.done()

        slots.give_back("a.example.com")
        await waiting

        assert waited

    async def test_impatience_is_a_pool_timeout(self) -> None:
        slots = HostSlots(1)
        await slots.take("a.example.com", None)

        with pytest.raises(httpx.PoolTimeout):
            await slots.take("a.example.com", 0.0)

    async def test_who_gives_up_waiting_takes_no_slot(self) -> None:
        slots = HostSlots(1)
        await slots.take("a.example.com", None)
        waiting = asyncio.create_task(slots.take("a.example.com", None))
        await asyncio.sleep(0)

        waiting.cancel()
        await asyncio.wait([waiting])
        slots.give_back("a.example.com")

        await slots.take("a.example.com", 0.0)

    async def test_hosts_do_not_wait_for_each_other(self) -> None:
        slots = HostSlots(1)
        await slots.take("a.example.com", None)

        await slots.take("b.example.com", 0.0)

    async def test_nothing_is_remembered_of_hosts_that_are_done(self) -> None:
        slots = HostSlots(1)
        await slots.take("a.example.com", None)
        with pytest.raises(httpx.PoolTimeout):
            await slots.take("a.example.com", 0.0)
        slots.give_back("a.example.com")

        assert slots._slots == {}
