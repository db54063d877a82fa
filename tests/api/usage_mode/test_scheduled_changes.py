"""Scheduled changes: at most one, replaced by the next request, active from their effective time without a job."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.engine import Database
from tests.support.database.row_level_security import execute
from tests.support.database.rows import change, fetch
from tests.support.polling import until
from tests.support.requests.rotation import audit_actions, create_credential, get_json, status_and_code
from tests.support.requests.usage_mode import (
    BYO_WITHOUT_CREDENTIAL,
    MANAGED,
    future_timestamp,
    get_history,
    get_usage_mode,
    request_switch,
    switch_mode,
    to_timestamp,
)
from tests.support.tenant import MakeTenant, Tenant


async def fetch_changes(superuser: AsyncEngine, tenant: Tenant) -> list[dict[str, Any]]:
    return await fetch(
        superuser,
        "SELECT effective_from, mode, effective_from > clock_timestamp() AS is_in_future"
        " FROM usage_mode_change WHERE organization_id = :o ORDER BY effective_from",
        o=tenant.organization,
    )


async def count_audit_actions(superuser: AsyncEngine, tenant: Tenant) -> Counter[str]:
    """All audit events by action. They are more than one page of the API."""
    found = await fetch(
        superuser, "SELECT action FROM audit_event WHERE organization_id = :o", o=tenant.organization
    )
    return Counter(row["action"] for row in found)


class TestSchedule:
    async def test_keeps_the_active_mode_and_shows_the_scheduled_change(self, tenant: Tenant) -> None:
        credential = await tenant.created()
        first = await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL)
        at = future_timestamp(days=3)

        state = await switch_mode(
            tenant, {"mode": "byo", "credential_id": credential["id"], "effective_at": at}
        )

        assert state == first | {
            "scheduled": {
                "mode": "byo",
                "credential_id": credential["id"],
                "effective_at": at,
                "changed_by": "billing-admin@example.com",
                "changed_at": state["scheduled"]["changed_at"],
            }
        }
        assert first["effective_from"] <= state["scheduled"]["changed_at"] < at
        assert await get_usage_mode(tenant) == state
        assert [row["effective_from"] for row in (await get_history(tenant))["data"]] == [
            first["effective_from"]
        ]

    async def test_is_active_from_its_effective_time(self, tenant: Tenant) -> None:
        at = future_timestamp(seconds=0.4)
        await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL | {"effective_at": at})

        state = await until(lambda: get_usage_mode(tenant), lambda state: state["mode"] == "byo")

        assert state == BYO_WITHOUT_CREDENTIAL | {"effective_from": at, "effective_at": at, "scheduled": None}
        assert [(p["mode"], p["effective_from"]) for p in (await get_history(tenant))["data"]] == [
            ("byo", at)
        ]

    async def test_does_not_affect_readiness_before_its_effective_time(self, tenant: Tenant) -> None:
        await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL | {"effective_at": future_timestamp(days=1)})
        url = f"{tenant.path}/readiness"
        before = await get_json(tenant, url)

        await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL | {"effective_at": future_timestamp(seconds=0.4)})
        after = await until(lambda: get_json(tenant, url), lambda found: found["mode"] == "byo")

        assert (before["ready"], before["mode"]) == (True, "managed")
        assert (after["ready"], after["blockers"]) == (False, ["credential_missing"])

    async def test_accepts_times_in_other_zones(self, tenant: Tenant) -> None:
        at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
        in_other_zone = (at + timedelta(hours=5, minutes=45)).replace(tzinfo=None).isoformat() + "+05:45"

        state = await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL | {"effective_at": in_other_zone})

        assert state["scheduled"]["effective_at"] == f"{at:%Y-%m-%dT%H:%M:%SZ}"

    async def test_repeated_changes_nothing(self, tenant: Tenant) -> None:
        body = BYO_WITHOUT_CREDENTIAL | {"effective_at": future_timestamp(days=1)}
        first = await request_switch(tenant, body)
        before = await audit_actions(tenant)

        again = await request_switch(tenant, body)

        assert (again.json(), again.headers["ETag"]) == (first.json(), first.headers["ETag"])
        assert await audit_actions(tenant) == before


class TestReplaceSchedule:
    async def test_by_another_schedule(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL | {"effective_at": future_timestamp(days=1)})
        at = future_timestamp(hours=2)

        state = await switch_mode(tenant, MANAGED | {"effective_at": at})

        assert state["scheduled"] == MANAGED | {
            "effective_at": at,
            "changed_by": "billing-admin@example.com",
            "changed_at": state["scheduled"]["changed_at"],
        }
        assert [row["mode"] for row in await fetch_changes(superuser, tenant)] == ["managed"]
        assert await audit_actions(tenant) == [
            *("usage_mode.scheduled", "usage_mode.schedule_replaced", "usage_mode.scheduled")
        ]

    async def test_by_an_immediate_switch(self, tenant: Tenant) -> None:
        credential = await tenant.created()
        at = future_timestamp(days=1)
        await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL | {"effective_at": at})

        state = await switch_mode(tenant, {"mode": "byo", "credential_id": credential["id"]})

        assert (state["mode"], state["scheduled"]) == ("byo", None)
        changed, cancelled, *_ = (await get_json(tenant, f"{tenant.path}/audit-events"))["data"]
        assert changed["action"] == "usage_mode.changed"
        assert cancelled["action"] == "usage_mode.schedule_cancelled"
        assert datetime.fromisoformat(cancelled["details"]["effective_at"]) == datetime.fromisoformat(at)
        assert cancelled["details"]["mode"] == "byo"

    async def test_switch_to_the_active_mode_only_cancels(self, tenant: Tenant) -> None:
        first = await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL)
        await switch_mode(tenant, MANAGED | {"effective_at": future_timestamp(days=1)})

        state = await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL)

        assert state == first
        assert len((await get_history(tenant))["data"]) == 1
        assert (await audit_actions(tenant))[-1] == "usage_mode.schedule_cancelled"

    @pytest.mark.parametrize(
        "timestamp",
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
    async def test_accepts_only_rfc_3339_timestamps(self, tenant: Tenant, timestamp: Any) -> None:
        response = await request_switch(tenant, MANAGED | {"effective_at": timestamp})

        assert status_and_code(response) == (422, "validation_failed")

    async def test_rejected_requests_keep_the_schedule(self, tenant: Tenant) -> None:
        state = await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL | {"effective_at": future_timestamp(days=1)})

        for body, code in (
            (MANAGED | {"effective_at": future_timestamp(seconds=-1)}, "effective_at_in_past"),
            (MANAGED | {"effective_at": future_timestamp(days=400)}, "effective_at_too_far"),
            (MANAGED | {"effective_at": "9999-12-31T23:59:59-12:00"}, "effective_at_too_far"),
            (MANAGED | {"effective_at": "0001-01-01T00:00:00+14:00"}, "effective_at_in_past"),
            (
                {"mode": "byo", "credential_id": "0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819"},
                "credential_not_found",
            ),
        ):
            assert status_and_code(await request_switch(tenant, body)) == (422, code)

        assert await get_usage_mode(tenant) == state


class TestIfMatch:
    async def test_covers_the_scheduled_change(self, tenant: Tenant) -> None:
        etag = (await tenant.get(f"{tenant.path}/usage-mode")).headers["ETag"]
        body = BYO_WITHOUT_CREDENTIAL | {"effective_at": future_timestamp(days=1)}

        scheduled = await request_switch(tenant, body, if_match=etag)
        stale = await request_switch(tenant, MANAGED, if_match=etag)
        replaced = await request_switch(
            tenant, MANAGED | {"effective_at": body["effective_at"]}, if_match=scheduled.headers["ETag"]
        )

        assert (scheduled.status_code, status_and_code(stale)) == (200, (412, "precondition_failed"))
        assert replaced.status_code == 200
        assert len({etag, scheduled.headers["ETag"], replaced.headers["ETag"]}) == 3
        got = await tenant.get(f"{tenant.path}/usage-mode")
        assert got.headers["ETag"] == replaced.headers["ETag"]


class TestScheduledCredential:
    async def test_is_in_use(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)
        body = {
            "mode": "byo",
            "credential_id": path.rpartition("/")[2],
            "effective_at": future_timestamp(days=1),
        }
        await switch_mode(tenant, body)

        refused = await tenant.request("DELETE", path)
        forced = await tenant.request("DELETE", f"{path}?force=true")

        assert status_and_code(refused) == (409, "credential_in_use")
        assert forced.status_code == 200

    async def test_is_not_in_use_after_the_cancellation(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)
        body = {
            "mode": "byo",
            "credential_id": path.rpartition("/")[2],
            "effective_at": future_timestamp(days=1),
        }
        await switch_mode(tenant, body)
        await switch_mode(tenant, MANAGED)

        assert (await tenant.request("DELETE", path)).status_code == 200

    async def test_deleted_while_in_use_blocks_from_the_effective_time(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)
        body = {
            "mode": "byo",
            "credential_id": path.rpartition("/")[2],
            "effective_at": future_timestamp(seconds=1),
        }
        await switch_mode(tenant, body)
        assert (await tenant.request("DELETE", f"{path}?force=true")).status_code == 200

        ready = await until(
            lambda: get_json(tenant, f"{tenant.path}/readiness"), lambda found: found["mode"] == "byo"
        )

        assert ready["blockers"] == ["credential_deleted"]

    async def test_deleted_cannot_be_scheduled(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)
        await tenant.request("DELETE", path)
        body = {
            "mode": "byo",
            "credential_id": path.rpartition("/")[2],
            "effective_at": future_timestamp(days=1),
        }

        assert status_and_code(await request_switch(tenant, body)) == (409, "credential_deleted")


class TestConcurrentSwitches:
    async def test_leave_at_most_one_scheduled_change(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        bodies = [
            (BYO_WITHOUT_CREDENTIAL if n % 2 else MANAGED)
            | ({"effective_at": future_timestamp(days=1, seconds=n)} if n % 3 else {})
            for n in range(24)
        ]

        responses = await asyncio.gather(*(request_switch(tenant, body) for body in bodies))

        assert {response.status_code for response in responses} == {200}
        found = await fetch_changes(superuser, tenant)
        effective = [row["mode"] for row in found if not row["is_in_future"]]
        scheduled = [row for row in found if row["is_in_future"]]
        assert len(scheduled) <= 1
        assert all(one != following for one, following in pairwise(["managed", *effective]))
        state = await get_usage_mode(tenant)
        assert state["mode"] == (effective or ["managed"])[-1]
        assert (state["scheduled"] is not None) == bool(scheduled)
        actions = await count_audit_actions(superuser, tenant)
        cancelled = actions["usage_mode.schedule_replaced"] + actions["usage_mode.schedule_cancelled"]
        assert actions["usage_mode.scheduled"] - cancelled == len(scheduled)
        assert actions["usage_mode.changed"] == len(effective)

    async def test_never_undo_a_change_that_took_effect(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        """A scheduled change either took effect, or was cancelled before and the audit log has the cancellation."""
        for number in range(12):
            now, later = (
                (MANAGED, BYO_WITHOUT_CREDENTIAL) if number % 2 else (BYO_WITHOUT_CREDENTIAL, MANAGED)
            )
            # On a slow machine the time is in the past when the request arrives, and the request is rejected.
            scheduled = await request_switch(
                tenant, later | {"effective_at": future_timestamp(seconds=0.02 + number / 500)}
            )
            assert scheduled.status_code == 200 or status_and_code(scheduled) == (422, "effective_at_in_past")
            await switch_mode(tenant, now)

        found = await fetch_changes(superuser, tenant)
        actions = await count_audit_actions(superuser, tenant)
        assert not any(row["is_in_future"] for row in found)
        uncancelled = actions["usage_mode.scheduled"] - actions["usage_mode.schedule_cancelled"]
        assert len(found) == actions["usage_mode.changed"] + uncancelled


class TestClockSetBack:
    async def test_keeps_immediate_switches(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        """A recent switch is then in the future. It was not scheduled, so it stays, and the next one is later."""
        await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL)
        await change(
            superuser,
            "UPDATE usage_mode_change"
            " SET effective_from = (effective_from AT TIME ZONE 'UTC' + interval '1 hour') AT TIME ZONE 'UTC'"
            " WHERE organization_id = :o",
            o=tenant.organization,
        )

        state = await get_usage_mode(tenant)
        await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL | {"effective_at": future_timestamp(days=1)})
        await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL)

        assert (state["mode"], state["scheduled"]) == ("managed", None)
        first, second = await fetch_changes(superuser, tenant)
        assert second["effective_from"] - first["effective_from"] == timedelta(microseconds=1)


class TestDatabasePermissions:
    async def test_deny_deleting_effective_changes(
        self, tenant: Tenant, database: Database, superuser: AsyncEngine
    ) -> None:
        await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL)
        await switch_mode(tenant, MANAGED | {"effective_at": future_timestamp(days=1)})

        assert await execute(database, tenant.organization, "DELETE FROM usage_mode_change") == 1

        assert [row["mode"] for row in await fetch_changes(superuser, tenant)] == ["byo"]
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await execute(database, tenant.organization, "UPDATE usage_mode_change SET mode = 'managed'")

    async def test_deny_deleting_changes_of_other_organizations(
        self, tenant: Tenant, make_tenant: MakeTenant, database: Database
    ) -> None:
        await switch_mode(
            tenant,
            BYO_WITHOUT_CREDENTIAL | {"effective_at": to_timestamp(datetime.now(UTC) + timedelta(days=1))},
        )

        assert await execute(database, make_tenant().organization, "DELETE FROM usage_mode_change") == 0
