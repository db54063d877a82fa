"""The event loop's lag is recorded only while it is measured."""

import asyncio
import time
from pathlib import Path

import pytest
from prometheus_client import Histogram

from app.observability.event_loop_lag import TICK_SECONDS, measure_event_loop_lag
from app.observability.metrics import LOOP_BUSY_LAG_SECONDS, LOOP_LAG_SECONDS
from tests.support.polling import until


def _read_metric(lag: Histogram = LOOP_LAG_SECONDS) -> tuple[float, float]:
    """The number of measurements, and their total in seconds."""
    samples = {
        sample.name.rpartition("_")[2]: sample.value for metric in lag.collect() for sample in metric.samples
    }
    return samples["count"], samples["sum"]


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

    async def test_leaves_out_the_wait_for_a_processor(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        scheduler, waited_for = tmp_path / "schedstat", 4 * TICK_SECONDS
        scheduler.write_text("1000 0 1\n")
        monkeypatch.setattr("app.observability.event_loop_lag._SCHEDULER", scheduler)
        count, seconds = _read_metric()
        _, busy_seconds = _read_metric(LOOP_BUSY_LAG_SECONDS)

        async with measure_event_loop_lag():
            await until(read_metric, lambda found: found[0] > count)
            time.sleep(waited_for)  # noqa: ASYNC251  # in place of a wait for a processor
            scheduler.write_text(f"1000 {10**12} 2\n")
            await until(read_metric, lambda found: found[1] >= seconds + waited_for - TICK_SECONDS)

        lag, busy_lag = (_read_metric()[1] - seconds, _read_metric(LOOP_BUSY_LAG_SECONDS)[1] - busy_seconds)
        assert busy_lag <= lag - (waited_for - TICK_SECONDS)

    async def test_has_only_the_lag_without_linux(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("app.observability.event_loop_lag._SCHEDULER", tmp_path / "missing")
        (count, _), (busy_count, _) = _read_metric(), _read_metric(LOOP_BUSY_LAG_SECONDS)

        async with measure_event_loop_lag():
            await until(read_metric, lambda found: found[0] > count)

        assert _read_metric(LOOP_BUSY_LAG_SECONDS)[0] == busy_count

    async def test_stops_at_the_end_of_the_block(self) -> None:
        async with measure_event_loop_lag():
            pass

        assert not [task for task in asyncio.all_tasks() if task.get_name() == "event loop lag"]
