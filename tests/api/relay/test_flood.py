"""A flood of requests that are refused does not hold up calls that were admitted."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.core.event_loop import BUDGET_SECONDS, IterationBudget
from tests.support.polling import resolved, until
from tests.support.relay.relay_service import RelayUser, request
from tests.support.relay.scripted_provider import reply

REFUSED = 1000


async def _refused(budget: IterationBudget) -> None:
    await budget.wait()
    ends_at = time.perf_counter() + BUDGET_SECONDS
    while time.perf_counter() < ends_at:
        pass


async def test_an_admitted_call_overtakes_requests_that_have_just_arrived(user: RelayUser) -> None:
    services, body = user.relay.services, json.dumps(request()).encode()
    may_go_on = asyncio.Event()

    async def upload() -> AsyncIterator[bytes]:
        yield body[:10]
        await may_go_on.wait()
        yield body[10:]

    sending = asyncio.create_task(
        user.admin.http.post(
            "/relay/anthropic/v1/messages",
            content=upload(),
            headers=user.headers(user.provider.script("overtakes", reply)),
            timeout=30,
        )
    )
    await until(lambda: resolved(services.capacity.bodies.held_bytes), lambda held: held == 10)
    flood = [asyncio.create_task(_refused(services.begin_budget)) for _ in range(REFUSED)]
    may_go_on.set()

    assert (await sending).status_code == 200
    assert not all(task.done() for task in flood)
    for task in flood:
        task.cancel()
    await asyncio.gather(*flood, return_exceptions=True)


async def test_calls_that_are_admitted_together_do_not_read_their_keys_in_one_iteration(
    user: RelayUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, others = user.relay.services, list[bool]()
    prepare = services.forwarder.prepare

    async def note(*arguments: Any) -> Any:
        others.append(all(task.done() for task in flood))
        return await prepare(*arguments)

    monkeypatch.setattr(services.forwarder, "prepare", note)
    flood = [asyncio.create_task(_refused(services.send_budget)) for _ in range(REFUSED // 2)]

    assert (await user.send()).status_code == 200
    assert others == [True]
    await asyncio.gather(*flood)
