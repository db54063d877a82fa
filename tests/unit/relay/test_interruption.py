"""A block that another task can cancel with a reason."""

import asyncio

import pytest

from app.relay.client import Interruption
from app.relay.records import EndedBy


async def test_ends_the_block_and_keeps_the_first_reason() -> None:
    interruption = Interruption()
    loop = asyncio.get_running_loop()
    loop.call_soon(interruption.interrupt, EndedBy.CLIENT)
    loop.call_soon(interruption.interrupt, EndedBy.DRAIN)

    with interruption:
        await asyncio.Event().wait()

    assert interruption.by is EndedBy.CLIENT
    await asyncio.sleep(0)  # the task is not cancelled any more


async def test_a_reason_before_the_block_ends_it_at_its_first_suspension() -> None:
    interruption = Interruption()
    interruption.interrupt(EndedBy.CLIENT)
    reached = False

    with interruption:
        await asyncio.sleep(0)
        reached = True

    assert not reached


async def test_a_reason_after_the_block_has_no_effect() -> None:
    interruption = Interruption()
    with interruption:
        await asyncio.sleep(0)

    interruption.interrupt(EndedBy.CLIENT)
    await asyncio.sleep(0)


async def test_a_cancellation_from_elsewhere_passes() -> None:
    async def run() -> None:
        with Interruption():
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
