"""Switches for later: one at a time, replaced by whatever is put next, in force from their instant without a job."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.engine import Database
from tests.api.rotating import actions, refusal, saved, seen
from tests.api.switching import EMPTY_BYO, MANAGED, ahead, history, mode_of, switch, switched, wire
from tests.conftest import MakeTenant, Tenant
from tests.integration.repositories.test_row_level_security import execute
from tests.rows import change, fetch
from tests.waiting import until


async def points(owner: AsyncEngine, tenant: Tenant) -> list[dict[str, Any]]:
    return await fetch(
        owner,
        "SELECT effective_from, mode, effective_from > clock_timestamp() AS is_to_come"
        " FROM usage_mode_change WHERE organization_id = :o ORDER BY effective_from",
        o=tenant.organization,
    )


async def trail(owner: AsyncEngine, tenant: Tenant) -> Counter[str]:
    """All of it, which is more than a page."""
    found = await fetch(
        owner, "SELECT action FROM audit_event WHERE organization_id = :o", o=tenant.organization
    )
    return Counter(row["action"] for row in found)


class TestSchedule:
    async def test_leaves_in_force_what_is_and_names_what_comes(self, tenant: Tenant) -> None:
        credential = await tenant.created()
        first = await switched(tenant, EMPTY_BYO)
        at = ahead(days=3)

        state = await switched(tenant, {"mode": "byo", "credential_id": credential["id"], "effective_at": at})

        assert state == first | {
            "scheduled": {"mode": "byo", "credential_id": credential["id"], "effective_at": at}
        }
        assert await mode_of(tenant) == state
        assert [point["effective_from"] for point in (await history(tenant))["data"]] == [
            first["effective_from"]
        ]

    async def test_takes_force_at_its_instant(self, tenant: Tenant) -> None:
        at = ahead(seconds=0.4)
        await switched(tenant, EMPTY_BYO | {"effective_at": at})

        state = await until(lambda: mode_of(tenant), lambda state: state["mode"] == "byo")

        assert state == EMPTY_BYO | {"effective_from": at, "effective_at": at, "scheduled": None}
        assert [(p["mode"], p["effective_from"]) for p in (await history(tenant))["data"]] == [("byo", at)]

    async def test_does_not_touch_readiness_before_its_instant(self, tenant: Tenant) -> None:
        await switched(tenant, EMPTY_BYO | {"effective_at": ahead(seconds=0.4)})
        url = f"{tenant.path}/readiness"
        before = await seen(tenant, url)

        after = await until(lambda: seen(tenant, url), lambda found: found["mode"] == "byo")

        assert (before["ready"], before["mode"]) == (True, "managed")
        assert (after["ready"], after["blockers"]) == (False, ["credential_missing"])

    async def test_in_another_zone_is_the_same_instant(self, tenant: Tenant) -> None:
        at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
        elsewhere = (at + timedelta(hours=5, minutes=45)).replace(tzinfo=None).isoformat() + "+05:45"

        state = await switched(tenant, EMPTY_BYO | {"effective_at": elsewhere})

        assert state["scheduled"]["effective_at"] == f"{at:%Y-%m-%dT%H:%M:%SZ}"

    async def test_to_what_is_scheduled_already_changes_nothing(self, tenant: Tenant) -> None:
        body = EMPTY_BYO | {"effective_at": ahead(days=1)}
        first = await switch(tenant, body)
        before = await actions(tenant)

        again = await switch(tenant, body)

        assert (again.json(), again.headers["ETag"]) == (first.json(), first.headers["ETag"])
        assert await actions(tenant) == before


class TestReplace:
    async def test_a_later_schedule_takes_the_place_of_the_one_before(
        self, tenant: Tenant, owner: AsyncEngine
    ) -> None:
        await switched(tenant, EMPTY_BYO | {"effective_at": ahead(days=1)})
        at = ahead(hours=2)

        state = await switched(tenant, MANAGED | {"effective_at": at})

        assert state["scheduled"] == MANAGED | {"effective_at": at}
        assert [point["mode"] for point in await points(owner, tenant)] == ["managed"]
        assert await actions(tenant) == [
            *("usage_mode.scheduled", "usage_mode.schedule_replaced", "usage_mode.scheduled")
        ]

    async def test_an_immediate_switch_leaves_none(self, tenant: Tenant) -> None:
        credential = await tenant.created()
        at = ahead(days=1)
        await switched(tenant, EMPTY_BYO | {"effective_at": at})

        state = await switched(tenant, {"mode": "byo", "credential_id": credential["id"]})

        assert (state["mode"], state["scheduled"]) == ("byo", None)
        changed, cancelled, *_ = (await seen(tenant, f"{tenant.path}/audit-events"))["data"]
        assert changed["action"] == "usage_mode.changed"
        assert cancelled["action"] == "usage_mode.schedule_cancelled"
        assert datetime.fromisoformat(cancelled["details"]["effective_at"]) == datetime.fromisoformat(at)
        assert cancelled["details"]["mode"] == "byo"

    async def test_an_immediate_switch_to_what_is_in_force_only_takes_it_away(self, tenant: Tenant) -> None:
        first = await switched(tenant, EMPTY_BYO)
        await switched(tenant, MANAGED | {"effective_at": ahead(days=1)})

        state = await switched(tenant, EMPTY_BYO)

        assert state == first
        assert len((await history(tenant))["data"]) == 1
        assert (await actions(tenant))[-1] == "usage_mode.schedule_cancelled"

    @pytest.mark.parametrize(
        "instant",
        [
            4102444800,
            4102444800.5,
            "4102444800",
            "2099-12-01",
            "2099-12-01T10:00Z",
            "2099-12-01T10:00:00",
            True,
            [],
        ],
    )
    async def test_takes_instants_of_rfc_3339_alone(self, tenant: Tenant, instant: Any) -> None:
        response = await switch(tenant, MANAGED | {"effective_at": instant})

        assert refusal(response) == (422, "validation_failed")

    async def test_what_is_refused_leaves_the_scheduled_one(self, tenant: Tenant) -> None:
        state = await switched(tenant, EMPTY_BYO | {"effective_at": ahead(days=1)})

        for body, code in (
            (MANAGED | {"effective_at": ahead(seconds=-1)}, "effective_at_in_past"),
            (MANAGED | {"effective_at": ahead(days=400)}, "effective_at_too_far"),
            (MANAGED | {"effective_at": "9999-12-31T23:59:59-12:00"}, "effective_at_too_far"),
            (MANAGED | {"effective_at": "0001-01-01T00:00:00+14:00"}, "effective_at_in_past"),
            (
                {"mode": "byo", "credential_id": "0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819"},
                "credential_not_found",
            ),
        ):
            assert refusal(await switch(tenant, body)) == (422, code)

        assert await mode_of(tenant) == state


class TestRevision:
    async def test_covers_what_is_to_come(self, tenant: Tenant) -> None:
        read = (await tenant.get(f"{tenant.path}/usage-mode")).headers["ETag"]
        body = EMPTY_BYO | {"effective_at": ahead(days=1)}

        scheduled = await switch(tenant, body, if_match=read)
        stale = await switch(tenant, MANAGED, if_match=read)
        replaced = await switch(
            tenant, MANAGED | {"effective_at": body["effective_at"]}, if_match=scheduled.headers["ETag"]
        )

        assert (scheduled.status_code, refusal(stale)) == (200, (412, "precondition_failed"))
        assert replaced.status_code == 200
        assert len({read, scheduled.headers["ETag"], replaced.headers["ETag"]}) == 3
        got = await tenant.get(f"{tenant.path}/usage-mode")
        assert got.headers["ETag"] == replaced.headers["ETag"]


class TestCredential:
    async def test_of_a_scheduled_switch_is_in_use(self, tenant: Tenant) -> None:
        path = await saved(tenant)
        body = {"mode": "byo", "credential_id": path.rpartition("/")[2], "effective_at": ahead(days=1)}
        await switched(tenant, body)

        refused = await tenant.request("DELETE", path)
        forced = await tenant.request("DELETE", f"{path}?force=true")

        assert refusal(refused) == (409, "credential_in_use")
        assert forced.status_code == 200

    async def test_is_free_again_when_the_switch_is_taken_away(self, tenant: Tenant) -> None:
        path = await saved(tenant)
        body = {"mode": "byo", "credential_id": path.rpartition("/")[2], "effective_at": ahead(days=1)}
        await switched(tenant, body)
        await switched(tenant, MANAGED)

        assert (await tenant.request("DELETE", path)).status_code == 200

    async def test_that_was_deleted_by_force_blocks_when_its_switch_takes_force(self, tenant: Tenant) -> None:
        path = await saved(tenant)
        body = {"mode": "byo", "credential_id": path.rpartition("/")[2], "effective_at": ahead(seconds=1)}
        await switched(tenant, body)
        assert (await tenant.request("DELETE", f"{path}?force=true")).status_code == 200

        ready = await until(
            lambda: seen(tenant, f"{tenant.path}/readiness"), lambda found: found["mode"] == "byo"
        )

        assert ready["blockers"] == ["credential_deleted"]

    async def test_that_was_deleted_cannot_be_scheduled(self, tenant: Tenant) -> None:
        path = await saved(tenant)
        await tenant.request("DELETE", path)
        body = {"mode": "byo", "credential_id": path.rpartition("/")[2], "effective_at": ahead(days=1)}

        assert refusal(await switch(tenant, body)) == (409, "credential_deleted")


class TestManyAtOnce:
    async def test_leave_one_switch_to_come_at_most(self, tenant: Tenant, owner: AsyncEngine) -> None:
        bodies = [
            (EMPTY_BYO if n % 2 else MANAGED) | ({"effective_at": ahead(days=1, seconds=n)} if n % 3 else {})
            for n in range(24)
        ]

        answers = await asyncio.gather(*(switch(tenant, body) for body in bodies))

        assert {answer.status_code for answer in answers} == {200}
        found = await points(owner, tenant)
        begun = [point["mode"] for point in found if not point["is_to_come"]]
        coming = [point for point in found if point["is_to_come"]]
        assert len(coming) <= 1
        assert all(one != another for one, another in pairwise(["managed", *begun]))
        state = await mode_of(tenant)
        assert state["mode"] == (begun or ["managed"])[-1]
        assert (state["scheduled"] is not None) == bool(coming)
        done = await trail(owner, tenant)
        gone = done["usage_mode.schedule_replaced"] + done["usage_mode.schedule_cancelled"]
        assert done["usage_mode.scheduled"] - gone == len(coming)
        assert done["usage_mode.changed"] == len(begun)

    async def test_and_one_that_takes_force_meanwhile_is_never_undone(
        self, tenant: Tenant, owner: AsyncEngine
    ) -> None:
        """Whichever comes first: it is in the history, or it was replaced before its instant, and the trail says so."""
        for round_ in range(12):
            now, later = (MANAGED, EMPTY_BYO) if round_ % 2 else (EMPTY_BYO, MANAGED)
            # Where the machine is slow it is past when it arrives, and refused: that is no round.
            scheduled = await switch(tenant, later | {"effective_at": ahead(seconds=0.02 + round_ / 500)})
            assert scheduled.status_code == 200 or refusal(scheduled) == (422, "effective_at_in_past")
            await switched(tenant, now)

        found = await points(owner, tenant)
        done = await trail(owner, tenant)
        assert not any(point["is_to_come"] for point in found)
        kept = done["usage_mode.scheduled"] - done["usage_mode.schedule_cancelled"]
        assert len(found) == done["usage_mode.changed"] + kept


class TestClock:
    async def test_that_was_set_back_undoes_no_switch(self, tenant: Tenant, owner: AsyncEngine) -> None:
        """A switch of a moment ago then lies ahead. It was not scheduled, so it stays, and the next one follows it."""
        await switched(tenant, EMPTY_BYO)
        await change(
            owner,
            "UPDATE usage_mode_change SET effective_from = effective_from + interval '1 hour'"
            " WHERE organization_id = :o",
            o=tenant.organization,
        )

        state = await mode_of(tenant)
        await switched(tenant, EMPTY_BYO | {"effective_at": ahead(days=1)})
        await switched(tenant, EMPTY_BYO)

        assert (state["mode"], state["scheduled"]) == ("managed", None)
        first, second = await points(owner, tenant)
        assert second["effective_from"] - first["effective_from"] == timedelta(microseconds=1)


class TestHistory:
    async def test_that_has_begun_cannot_be_deleted_by_the_service(
        self, tenant: Tenant, database: Database, owner: AsyncEngine
    ) -> None:
        await switched(tenant, EMPTY_BYO)
        await switched(tenant, MANAGED | {"effective_at": ahead(days=1)})

        assert await execute(database, tenant.organization, "DELETE FROM usage_mode_change") == 1

        assert [point["mode"] for point in await points(owner, tenant)] == ["byo"]
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await execute(database, tenant.organization, "UPDATE usage_mode_change SET mode = 'managed'")

    async def test_of_others_is_out_of_reach(
        self, tenant: Tenant, make_tenant: MakeTenant, database: Database
    ) -> None:
        await switched(tenant, EMPTY_BYO | {"effective_at": wire(datetime.now(UTC) + timedelta(days=1))})

        assert await execute(database, make_tenant().organization, "DELETE FROM usage_mode_change") == 0
