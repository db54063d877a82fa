"""The event loop's lag is recorded only while it is measured."""

import asyncio
import time

from app.observability.event_loop_lag import TICK_SECONDS, measure_event_loop_lag
from app.observability.metrics import LOOP_LAG_SECONDS
from tests.support.polling import until


def _read_metric() -> tuple[float, float]:
    """The number of measurements, and their total in seconds."""
    samples = {
        sample.name: sample.value for metric in LOOP_LAG_SECONDS.collect() for sample in metric.samples
    }
    return (
        samples["byok_event_loop_lag_seconds_count"],
        samples["byok_event_loop_lag_seconds_sum"],
    )


async def read_metric() -> tuple[float, float]:
    return _read_metric()


class TestMeasureEventLoopLag:
    async def test_records_the_delay_of_a_blocking_call(self) -> None:
        count, seconds = _read_metric()

        async with measure_event_loop_lag():
            await until(read_metric, lambda found: found[0] > count)  # wait until the measurement runs
            blocked_for = 4 * TICK_SECONDS
            time.sleep(blocked_for)  # noqa: ASYNC251  # the blocking call to detect
            await until(read_metric, lambda found: found[1] >= seconds + blocked_for - TICK_SECONDS)

    async def test_stops_at_the_end_of_the_block(self) -> None:
        async with measure_event_loop_lag():
            pass

        assert not [task for task in asyncio.all_tasks() if task.get_name() == "event loop lag"]
