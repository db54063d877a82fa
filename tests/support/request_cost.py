"""Measures what a request costs the service that runs in this process."""

import asyncio
import ctypes
import gc
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")

_MEBIBYTE = 1024 * 1024
_LIBC = ctypes.CDLL(None)


@dataclass(kw_only=True)
class Cost:
    """CPU time on the event loop, in total and without a pause, and the growth of the process's memory."""

    total_seconds: float = 0.0
    longest_seconds: float = 0.0
    memory_mebibytes: float = 0.0


async def cost_of(request: Awaitable[Result]) -> tuple[Result, Cost]:
    """Await the request and measure it. CPU time does not depend on what else the machine does."""
    cost = Cost()
    with _measured_steps(cost), _measured_memory(cost):
        result = await asyncio.ensure_future(request)  # a separate task, so that its first step is measured
    return result, cost


@contextmanager
def _measured_steps(cost: Cost) -> Iterator[None]:
    """Measure each callback that the event loop runs."""
    handles: Any = asyncio.events.Handle  # `_run` is the only function through which every callback runs
    run = handles._run

    def measured(handle: asyncio.Handle) -> None:
        started = time.thread_time()
        run(handle)
        seconds = time.thread_time() - started
        cost.total_seconds += seconds
        cost.longest_seconds = max(cost.longest_seconds, seconds)

    handles._run = measured
    # What the process holds already is left out of garbage collections: after thousands of tests, one takes half a second.
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        handles._run = run


@contextmanager
def _measured_memory(cost: Cost) -> Iterator[None]:
    """Measure the peak of resident memory, which includes what extension modules allocate."""
    _LIBC.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    yield
    cost.memory_mebibytes = (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    """A field of this process's status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@contextmanager
def without_collection() -> Iterator[None]:
    """Collect no garbage meanwhile: it takes a test process up to half a second, because other tests left many objects."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
