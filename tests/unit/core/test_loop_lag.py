"""The event loop's lag is noted while it is watched, and not after."""

import asyncio
import time

from app.observability.event_loop_lag import TICK_SECONDS, watched_loop
from app.observability.metrics import LOOP_LAG_SECONDS
from tests.waiting import until


def _noted() -> tuple[float, float]:
    """How often, and how many seconds altogether."""
    samples = {
        sample.name: sample.value for metric in LOOP_LAG_SECONDS.collect() for sample in metric.samples
    }
    return (
        samples["byok_event_loop_lag_seconds_count"],
        samples["byok_event_loop_lag_seconds_sum"],
    )


async def noted() -> tuple[float, float]:
    return _noted()


class TestWatchedLoop:
    async def test_notes_what_a_blocking_call_costs(self) -> None:
        count, seconds = _noted()

        async with watched_loop():
            await until(noted, lambda found: found[0] > count)  # it is under way
            blocked_for = 4 * TICK_SECONDS
            time.sleep(blocked_for)  # noqa: ASYNC251  # this is what it is to find
            await until(noted, lambda found: found[1] >= seconds + blocked_for - TICK_SECONDS)

    async def test_ends_with_the_block(self) -> None:
        async with watched_loop():
            pass

        assert not [task for task in asyncio.all_tasks() if task.get_name() == "event loop lag"]
