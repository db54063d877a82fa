"""All writes of an organization are limited per minute, in the process."""

import pytest

from app.core.errors import RateLimited
from app.rate_limits.service import WriteKind, WriteLimiter


class Clock:
    seconds = 1_000_000_020.0  # 20 seconds before the next minute

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> WriteLimiter:
    return WriteLimiter({WriteKind.CHANGES: 2, WriteKind.WORK: 3}, clock=clock)


class TestAdmit:
    def test_rejects_the_next_request_until_the_minute_ends(
        self, limiter: WriteLimiter, clock: Clock
    ) -> None:
        for _ in range(2):
            limiter.admit("org_a", WriteKind.CHANGES)
        with pytest.raises(RateLimited) as rejected:
            limiter.admit("org_a", WriteKind.CHANGES)

        clock.seconds += rejected.value.retry_after_seconds
        limiter.admit("org_a", WriteKind.CHANGES)

        assert 1 <= rejected.value.retry_after_seconds <= 60

    def test_counts_each_organization_and_kind_separately(self, limiter: WriteLimiter) -> None:
        for _ in range(2):
            limiter.admit("org_a", WriteKind.CHANGES)

        limiter.admit("org_b", WriteKind.CHANGES)
        limiter.admit("org_a", WriteKind.WORK)

    def test_keeps_no_counts_of_past_minutes(self, limiter: WriteLimiter, clock: Clock) -> None:
        for number in range(100):
            limiter.admit(f"org_{number}", WriteKind.CHANGES)

        clock.seconds += 60
        limiter.admit("org_a", WriteKind.CHANGES)

        assert len(limiter._counts) == 1
