"""Open reservations are the journal of calls: for `safe_to_revoke`, and for calls whose process died."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.relay.ending.lost_call_worker import LostCallWorker
from tests.support.database.rows import change
from tests.support.polling import resolved, until
from tests.support.relay.relay_service import RelayUser, WithSettings, error_of
from tests.support.relay.scripted_provider import Exchange, events, message, stream


@asynccontextmanager
async def open_call(user: RelayUser, name: str) -> AsyncIterator[None]:
    """A call that waits for its provider while the block runs."""
    release = asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        await release.wait()
        await exchange.respond(200, message())

    sending = asyncio.create_task(user.send(headers=user.provider.script(name, wait)))
    await user.provider.nth(name)
    try:
        yield
    finally:
        release.set()
        assert (await sending).status_code == 200


async def safe_to_revoke(user: RelayUser, credential_id: str) -> bool:
    read = await user.admin.get(f"{user.admin.credentials}/{credential_id}")
    found: bool = read.json()["previous"]["safe_to_revoke"]
    return found


class TestSafeToRevoke:
    async def test_waits_for_open_calls_with_the_version(self, user: RelayUser) -> None:
        credential = await user.save_key()
        async with open_call(user, "rotated"):
            await user.rotate(credential["id"])
            assert not await safe_to_revoke(user, credential["id"])

        await user.events()
        assert await safe_to_revoke(user, credential["id"])

    async def test_does_not_wait_for_calls_with_the_new_version(self, user: RelayUser) -> None:
        credential = await user.save_key()
        await user.rotate(credential["id"])
        async with open_call(user, "new-version"):
            assert await safe_to_revoke(user, credential["id"])

    async def test_waits_for_requests_without_a_reservation(
        self, user: RelayUser, superuser: AsyncEngine
    ) -> None:
        credential = await user.save_key()
        assert (await user.send(path="/v1/messages/count_tokens")).status_code == 200
        await user.rotate(credential["id"])
        assert not await safe_to_revoke(user, credential["id"])

        await change(
            superuser,
            "UPDATE credential_version SET leased_until = now() WHERE credential_id = :id",
            id=credential["id"],
        )
        assert await safe_to_revoke(user, credential["id"])

    async def test_is_never_true_while_calls_with_the_version_run(self, user: RelayUser) -> None:
        """Rotations and calls at the same time: each call used the key of the version that its event names."""
        credential = await user.save_key()
        keys: dict[str, int] = {user.provider.exchanges[-1].key: 1}
        is_done = False
        too_early: list[int] = []

        async def reply(exchange: Exchange) -> None:
            read = await user.admin.get(f"{user.admin.credentials}/{credential['id']}")
            previous = read.json()["previous"]
            version = keys.get(exchange.key)
            if previous and previous["safe_to_revoke"] and version == previous["key_version"]:
                too_early.append(previous["key_version"])
            await exchange.respond(200, message(), {"request-id": f"req_{len(user.provider.exchanges)}"})

        script = user.provider.script("under-load", reply)

        async def send() -> None:
            while not is_done:
                assert (await user.send(headers=script)).status_code == 200

        sending = [asyncio.create_task(send()) for _ in range(6)]
        for _ in range(6):
            rotated = await user.rotate(credential["id"])
            probes = [it for it in user.provider.exchanges if it.target.startswith("/v1/models")]
            keys[probes[-1].key] = rotated["key_version"]
        is_done = True
        await asyncio.gather(*sending)

        assert too_early == []
        versions = {it["key_version"] for it in await user.events()}
        assert versions <= set(keys.values())
        sent = [
            keys[it.key]
            for it in user.provider.messages()
            if it.headers.get("x-stainless-script") == "under-load"
        ]
        assert sorted(sent) == sorted(it["key_version"] for it in await _all_events(user))


async def _all_events(user: RelayUser) -> list[dict[str, Any]]:
    await user.relay.services.settler.settled()
    rows: list[dict[str, Any]] = []
    page: str | None = ""
    while page is not None:
        query = f"&page={page}" if page else ""
        found = (await user.admin.get(f"{user.admin.path}/usage-events?limit=100{query}")).json()
        rows += found["data"]
        page = found["next_page"]
    return rows


class TestLostCalls:
    async def test_are_ended_by_an_estimate(
        self, user: RelayUser, services: Services, superuser: AsyncEngine
    ) -> None:
        limit = await user.create_limit("100")
        async with open_call(user, "lost"):
            await forget(superuser, user)
            assert await services[LostCallWorker].run() == 1
            (found,) = (await user.admin.get(f"{user.admin.path}/usage-events")).json()["data"]

            assert (found["outcome"], found["usage_source"]) == ("aborted", "estimated")
            assert found["uncached_input_tokens"] > 0
            assert found["key_version"] == 1
            assert float((await user.limit(limit["id"]))["reserved"]["amount"]) == 0
            assert await services[LostCallWorker].run() == 0

        # The process was alive after all: its own event comes too late, and the estimate stands.
        assert [it["event_id"] for it in await user.events()] == [found["event_id"]]

    async def test_count_with_the_usage_that_they_reported(
        self, user: RelayUser, services: Services, superuser: AsyncEngine
    ) -> None:
        async def hold(exchange: Exchange) -> None:
            await stream(exchange, events("a" * 400, is_complete=False), is_ended=False)
            await exchange.until_hung_up()

        async with user.stream(headers=user.provider.script("journal", hold)) as response:
            chunks, received = response.aiter_raw(), b""
            while b"aaa" not in received:
                received += await anext(chunks)
            for _ in range(2):
                await user.relay.services.open_calls.report()
            await forget(superuser, user)
            assert await services[LostCallWorker].run() == 1
            (found,) = (await user.admin.get(f"{user.admin.path}/usage-events")).json()["data"]

        assert (found["uncached_input_tokens"], found["output_tokens"]) == (12, 100)

    async def test_are_not_those_that_a_process_reports(
        self, user: RelayUser, services: Services, superuser: AsyncEngine
    ) -> None:
        async with open_call(user, "reported"):
            await forget(superuser, user)
            for _ in range(2):
                await user.relay.services.open_calls.report()

            assert await services[LostCallWorker].run() == 0

        assert (await user.only_event())["outcome"] == "succeeded"


async def forget(superuser: AsyncEngine, user: RelayUser) -> None:
    """Let the open calls of this organization look as if no process had reported them for a long time."""
    await change(
        superuser,
        "UPDATE spend_reservation SET last_seen_at = now() - interval '10 minutes'"
        " WHERE organization_id = :organization AND state = 'open'",
        organization=user.organization,
    )


class TestOutages:
    async def test_an_end_is_kept_until_it_can_be_stored(
        self,
        user: RelayUser,
        superuser: AsyncEngine,
        with_settings: WithSettings,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """The table of event keys is locked, so every attempt times out until the lock is gone."""
        limit = await user.create_limit("100")
        async with with_settings(user, database_timeout=timedelta(seconds=0.5)) as instance:
            async with open_call(instance, "outage"):
                blocker = await superuser.connect()
                await blocker.exec_driver_sql("LOCK TABLE usage_event_key IN ACCESS EXCLUSIVE MODE")
            try:
                await until(
                    lambda: resolved([it for it in caplog.messages if "settling_postponed" in it]), bool
                )
                assert instance.relay.services.settler.unsettled == 1
            finally:
                await blocker.close()

            assert (await instance.only_event())["outcome"] == "succeeded"
            assert float((await user.limit(limit["id"]))["reserved"]["amount"]) == 0

    async def test_a_database_that_is_down_is_503_before_anything_is_sent(
        self, user: RelayUser, superuser: AsyncEngine, with_settings: WithSettings
    ) -> None:
        before = len(user.provider.messages())
        async with with_settings(user, database_timeout=timedelta(seconds=0.3)) as instance:
            async with superuser.connect() as blocker:
                await blocker.exec_driver_sql("LOCK TABLE spend_reservation IN ACCESS EXCLUSIVE MODE")
                response = await instance.send()

            assert error_of(response) == (503, "api_error", "database_unavailable")
            assert len(user.provider.messages()) == before
            assert (await instance.send()).status_code == 200
