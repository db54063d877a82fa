"""The active usage mode, immediate switches and the usage mode history."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.database.rows import fetch
from tests.support.requests.rotation import audit_actions, get_json, status_and_code
from tests.support.requests.usage_mode import (
    BYO_WITHOUT_CREDENTIAL,
    MANAGED,
    get_history,
    get_usage_mode,
    parse_timestamp,
    request_switch,
    switch_mode,
)
from tests.support.tenant import MakeTenant, Tenant


class TestInitialMode:
    async def test_is_managed_without_a_history(self, tenant: Tenant) -> None:
        response = await tenant.get(f"{tenant.path}/usage-mode")

        assert response.json() == {
            "mode": "managed",
            "credential_id": None,
            "effective_from": None,
            "effective_at": None,
            "scheduled": None,
        }
        assert response.headers["ETag"]
        assert (await get_history(tenant))["data"] == []


class TestSwitchNow:
    async def test_is_active_at_once(self, tenant: Tenant) -> None:
        credential = await tenant.created()
        before = datetime.now(UTC)

        state = await switch_mode(tenant, {"mode": "byo", "credential_id": credential["id"]})

        assert (state["mode"], state["credential_id"]) == ("byo", credential["id"])
        assert state["effective_from"] == state["effective_at"]
        assert (
            before - timedelta(seconds=5)
            < parse_timestamp(state["effective_at"])
            < before + timedelta(seconds=60)
        )
        assert state["scheduled"] is None
        assert await get_usage_mode(tenant) == state

    async def test_to_byo_without_a_credential_can_be_completed_later(self, tenant: Tenant) -> None:
        first = await switch_mode(tenant, {"mode": "byo"})
        credential = await tenant.created()

        second = await switch_mode(tenant, {"mode": "byo", "credential_id": credential["id"]})

        assert first["credential_id"] is None
        assert parse_timestamp(second["effective_at"]) > parse_timestamp(first["effective_at"])
        changes = (await get_history(tenant))["data"]
        assert [change["credential_id"] for change in changes] == [credential["id"], None]

    async def test_to_an_invalid_key_is_accepted(self, tenant: Tenant) -> None:
        credential = await tenant.created("invalid")

        state = await switch_mode(tenant, {"mode": "byo", "credential_id": credential["id"]})

        assert state["credential_id"] == credential["id"]

    @pytest.mark.parametrize("body", [MANAGED, BYO_WITHOUT_CREDENTIAL])
    async def test_to_the_active_mode_adds_no_change(self, tenant: Tenant, body: dict[str, Any]) -> None:
        await switch_mode(tenant, BYO_WITHOUT_CREDENTIAL if body is MANAGED else MANAGED)
        first = await request_switch(tenant, body)

        again = await request_switch(tenant, body)

        assert again.json() == first.json()
        assert again.headers["ETag"] == first.headers["ETag"]
        changes = (await audit_actions(tenant)).count("usage_mode.changed")
        assert changes == len((await get_history(tenant))["data"])

    async def test_to_managed_adds_no_change_for_a_new_organization(self, tenant: Tenant) -> None:
        state = await switch_mode(tenant, MANAGED)

        assert state["effective_from"] is None
        assert (await get_history(tenant))["data"] == []

    async def test_records_an_audit_event(self, tenant: Tenant) -> None:
        credential = await tenant.created()
        await switch_mode(tenant, {"mode": "byo", "credential_id": credential["id"]})

        (event, *_) = (await get_json(tenant, f"{tenant.path}/audit-events"))["data"]

        assert event["action"] == "usage_mode.changed"
        assert (event["credential_id"], event["actor"]) == (credential["id"], "billing-admin@example.com")
        assert event["details"] == {"mode": "byo", "previous_mode": "managed"}

    async def test_concurrent_requests_add_changes_one_by_one(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        ids = [(await tenant.created())["id"] for _ in range(3)]
        bodies = [{"mode": "byo", "credential_id": ids[n % 3]} if n % 2 else MANAGED for n in range(24)]

        responses = await asyncio.gather(*(request_switch(tenant, body) for body in bodies))

        assert {response.status_code for response in responses} == {200}
        changes = await fetch(
            superuser,
            "SELECT effective_from, mode, credential_id::text FROM usage_mode_change"
            " WHERE organization_id = :o ORDER BY effective_from",
            o=tenant.organization,
        )
        # Consecutive changes differ, because a switch to the active mode adds no change.
        assert len(changes) > 1
        modes = [(change["mode"], change["credential_id"]) for change in changes]
        assert all(one != following for one, following in pairwise(modes))
        (newest, *_) = (await get_history(tenant))["data"]
        assert (newest["mode"], newest["credential_id"]) == modes[-1]
        assert (await get_usage_mode(tenant))["effective_from"] == newest["effective_from"]


class TestRejectedSwitch:
    async def test_has_an_unknown_credential(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        others = (await make_tenant().created())["id"]

        for credential_id in (others, str(uuid4())):
            response = await request_switch(tenant, {"mode": "byo", "credential_id": credential_id})
            assert status_and_code(response) == (422, "credential_not_found")
            assert response.json()["errors"][0]["field"] == "credential_id"
        assert (await get_history(tenant))["data"] == []

    async def test_has_a_deleted_credential(self, tenant: Tenant) -> None:
        credential = await tenant.created()
        await tenant.request("DELETE", f"{tenant.credentials}/{credential['id']}")

        response = await request_switch(tenant, {"mode": "byo", "credential_id": credential["id"]})

        assert status_and_code(response) == (409, "credential_deleted")

    async def test_has_a_credential_with_managed(self, tenant: Tenant) -> None:
        credential = await tenant.created()

        response = await request_switch(tenant, {"mode": "managed", "credential_id": credential["id"]})

        assert status_and_code(response) == (422, "credential_not_used")

    @pytest.mark.parametrize(
        ("offset", "code"),
        [(timedelta(hours=-1), "effective_at_in_past"), (timedelta(days=400), "effective_at_too_far")],
    )
    async def test_has_a_time_out_of_range(self, tenant: Tenant, offset: timedelta, code: str) -> None:
        timestamp = (datetime.now(UTC) + offset).isoformat()

        response = await request_switch(tenant, BYO_WITHOUT_CREDENTIAL | {"effective_at": timestamp})

        assert status_and_code(response) == (422, code)
        assert response.json()["errors"][0]["field"] == "effective_at"
        assert (await get_usage_mode(tenant))["mode"] == "managed"

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            ({}, "validation_failed"),
            ({"mode": "free"}, "validation_failed"),
            ({"mode": "byo", "credential_id": "x"}, "validation_failed"),
            ({"mode": "byo", "effective_at": "2026-11-23T00:00:00"}, "validation_failed"),
            ({"mode": "byo", "credential": None}, "unknown_field"),
        ],
    )
    async def test_has_an_invalid_body(self, tenant: Tenant, body: Any, code: str) -> None:
        assert status_and_code(await request_switch(tenant, body)) == (422, code)

    async def test_lacks_the_scope(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        viewer = make_tenant("billing-viewer", tenant.organization)

        assert status_and_code(await request_switch(viewer, BYO_WITHOUT_CREDENTIAL)) == (
            403,
            "insufficient_scope",
        )
        assert (await viewer.get(f"{tenant.path}/usage-mode")).status_code == 200
        assert (await make_tenant().get(f"{tenant.path}/usage-mode")).status_code == 404


class TestIfMatch:
    async def test_rejects_a_stale_etag(self, tenant: Tenant) -> None:
        etag = (await tenant.get(f"{tenant.path}/usage-mode")).headers["ETag"]

        first = await request_switch(tenant, BYO_WITHOUT_CREDENTIAL, if_match=etag)
        second = await request_switch(tenant, MANAGED, if_match=etag)

        assert (first.status_code, status_and_code(second)) == (200, (412, "precondition_failed"))
        assert first.headers["ETag"] != etag
        assert (await request_switch(tenant, MANAGED, if_match=first.headers["ETag"])).status_code == 200

    @pytest.mark.parametrize("tag", ['"other"', 'W/"r0"', "nonsense"])
    async def test_rejects_an_unknown_etag(self, tenant: Tenant, tag: str) -> None:
        assert (await request_switch(tenant, BYO_WITHOUT_CREDENTIAL, if_match=tag)).status_code == 412

    async def test_accepts_one_of_concurrent_requests_with_the_same_etag(self, tenant: Tenant) -> None:
        ids = [(await tenant.created())["id"] for _ in range(6)]
        etag = (await tenant.get(f"{tenant.path}/usage-mode")).headers["ETag"]

        responses = await asyncio.gather(
            *(request_switch(tenant, {"mode": "byo", "credential_id": one}, if_match=etag) for one in ids)
        )

        assert sorted(response.status_code for response in responses) == [200] + [412] * 5
        assert len((await get_history(tenant))["data"]) == 1


class TestListChanges:
    async def test_returns_pages_newest_first(self, tenant: Tenant) -> None:
        states = [await switch_mode(tenant, body) for body in (BYO_WITHOUT_CREDENTIAL, MANAGED) * 3]
        pages, page = [], None
        while True:
            response = await get_history(tenant, limit=4, **({} if page is None else {"page": page}))
            pages.append(response["data"])
            page = response["next_page"]
            assert response["has_more"] is (page is not None)
            if page is None:
                break

        assert [len(changes) for changes in pages] == [4, 2]
        changes = [change for changes in pages for change in changes]
        assert [change["effective_from"] for change in changes] == [
            state["effective_from"] for state in reversed(states)
        ]
        assert {change["changed_by"] for change in changes} == {"billing-admin@example.com"}

    @pytest.mark.parametrize("page", ["x", "!", "garbage", "AAAAAAAAAAA", "_" * 40])
    async def test_rejects_invalid_cursors(self, tenant: Tenant, page: str) -> None:
        response = await tenant.get(f"{tenant.path}/usage-mode/history", params={"page": page})

        assert status_and_code(response) == (422, "page_invalid")
