"""Who pays: the mode in force, switches from now on, and the timeline that they leave."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.api.rotating import actions, refusal, seen
from tests.api.switching import EMPTY_BYO, MANAGED, history, instant, mode_of, switch, switched
from tests.conftest import MakeTenant, Tenant
from tests.rows import fetch


class TestNewOrganization:
    async def test_is_managed_and_always_was(self, tenant: Tenant) -> None:
        response = await tenant.get(f"{tenant.path}/usage-mode")

        assert response.json() == {
            "mode": "managed",
            "credential_id": None,
            "effective_from": None,
            "effective_at": None,
            "scheduled": None,
        }
        assert response.headers["ETag"]
        assert (await history(tenant))["data"] == []


class TestSwitch:
    async def test_takes_force_at_once(self, tenant: Tenant) -> None:
        credential = await tenant.created()
        before = datetime.now(UTC)

        state = await switched(tenant, {"mode": "byo", "credential_id": credential["id"]})

        assert (state["mode"], state["credential_id"]) == ("byo", credential["id"])
        assert state["effective_from"] == state["effective_at"]
        assert before - timedelta(seconds=5) < instant(state["effective_at"]) < before + timedelta(seconds=60)
        assert state["scheduled"] is None
        assert await mode_of(tenant) == state

    async def test_without_a_key_is_allowed_and_a_later_one_names_it(self, tenant: Tenant) -> None:
        first = await switched(tenant, {"mode": "byo"})
        credential = await tenant.created()

        second = await switched(tenant, {"mode": "byo", "credential_id": credential["id"]})

        assert first["credential_id"] is None
        assert instant(second["effective_at"]) > instant(first["effective_at"])
        points = (await history(tenant))["data"]
        assert [point["credential_id"] for point in points] == [credential["id"], None]

    async def test_to_a_key_that_is_not_valid_is_accepted(self, tenant: Tenant) -> None:
        credential = await tenant.created("invalid")

        state = await switched(tenant, {"mode": "byo", "credential_id": credential["id"]})

        assert state["credential_id"] == credential["id"]

    @pytest.mark.parametrize("body", [MANAGED, EMPTY_BYO])
    async def test_to_what_is_in_force_makes_no_new_point(self, tenant: Tenant, body: dict[str, Any]) -> None:
        await switched(tenant, EMPTY_BYO if body is MANAGED else MANAGED)
        first = await switch(tenant, body)

        again = await switch(tenant, body)

        assert again.json() == first.json()
        assert again.headers["ETag"] == first.headers["ETag"]
        changes = (await actions(tenant)).count("usage_mode.changed")
        assert changes == len((await history(tenant))["data"])

    async def test_of_a_new_organization_to_managed_is_nothing_new(self, tenant: Tenant) -> None:
        state = await switched(tenant, MANAGED)

        assert state["effective_from"] is None
        assert (await history(tenant))["data"] == []

    async def test_is_on_the_trail(self, tenant: Tenant) -> None:
        credential = await tenant.created()
        await switched(tenant, {"mode": "byo", "credential_id": credential["id"]})

        (event, *_) = (await seen(tenant, f"{tenant.path}/audit-events"))["data"]

        assert event["action"] == "usage_mode.changed"
        assert (event["credential_id"], event["actor"]) == (credential["id"], "billing-admin@example.com")
        assert event["details"] == {"mode": "byo", "previous_mode": "managed"}

    async def test_many_at_once_make_points_one_after_the_other(
        self, tenant: Tenant, owner: AsyncEngine
    ) -> None:
        ids = [(await tenant.created())["id"] for _ in range(3)]
        bodies = [{"mode": "byo", "credential_id": ids[n % 3]} if n % 2 else MANAGED for n in range(24)]

        answers = await asyncio.gather(*(switch(tenant, body) for body in bodies))

        assert {answer.status_code for answer in answers} == {200}
        points = await fetch(
            owner,
            "SELECT effective_from, mode, credential_id::text FROM usage_mode_change"
            " WHERE organization_id = :o ORDER BY effective_from",
            o=tenant.organization,
        )
        # Distinct by primary key; neighbours differ, as naming what is in force makes no point.
        assert len(points) > 1
        named = [(point["mode"], point["credential_id"]) for point in points]
        assert all(one != next_one for one, next_one in pairwise(named))
        (newest, *_) = (await history(tenant))["data"]
        assert (newest["mode"], newest["credential_id"]) == named[-1]
        assert (await mode_of(tenant))["effective_from"] == newest["effective_from"]


class TestRefused:
    async def test_names_a_credential_that_is_not_there(
        self, tenant: Tenant, make_tenant: MakeTenant
    ) -> None:
        others = (await make_tenant().created())["id"]

        for credential_id in (others, str(uuid4())):
            response = await switch(tenant, {"mode": "byo", "credential_id": credential_id})
            assert refusal(response) == (422, "credential_not_found")
            assert response.json()["errors"][0]["field"] == "credential_id"
        assert (await history(tenant))["data"] == []

    async def test_names_a_deleted_credential(self, tenant: Tenant) -> None:
        credential = await tenant.created()
        await tenant.request("DELETE", f"{tenant.credentials}/{credential['id']}")

        response = await switch(tenant, {"mode": "byo", "credential_id": credential["id"]})

        assert refusal(response) == (409, "credential_deleted")

    async def test_managed_names_a_credential(self, tenant: Tenant) -> None:
        credential = await tenant.created()

        response = await switch(tenant, {"mode": "managed", "credential_id": credential["id"]})

        assert refusal(response) == (422, "credential_not_used")

    @pytest.mark.parametrize(
        ("ahead", "code"),
        [(timedelta(hours=-1), "effective_at_in_past"), (timedelta(days=400), "effective_at_too_far")],
    )
    async def test_names_another_time(self, tenant: Tenant, ahead: timedelta, code: str) -> None:
        time = (datetime.now(UTC) + ahead).isoformat()

        response = await switch(tenant, EMPTY_BYO | {"effective_at": time})

        assert refusal(response) == (422, code)
        assert response.json()["errors"][0]["field"] == "effective_at"
        assert (await mode_of(tenant))["mode"] == "managed"

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
    async def test_is_no_switch(self, tenant: Tenant, body: Any, code: str) -> None:
        assert refusal(await switch(tenant, body)) == (422, code)

    async def test_without_the_scope(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        viewer = make_tenant("billing-viewer", tenant.organization)

        assert refusal(await switch(viewer, EMPTY_BYO)) == (403, "insufficient_scope")
        assert (await viewer.get(f"{tenant.path}/usage-mode")).status_code == 200
        assert (await make_tenant().get(f"{tenant.path}/usage-mode")).status_code == 404


class TestRevision:
    async def test_that_was_read_is_switched_and_no_other(self, tenant: Tenant) -> None:
        read = (await tenant.get(f"{tenant.path}/usage-mode")).headers["ETag"]

        first = await switch(tenant, EMPTY_BYO, if_match=read)
        second = await switch(tenant, MANAGED, if_match=read)

        assert (first.status_code, refusal(second)) == (200, (412, "precondition_failed"))
        assert first.headers["ETag"] != read
        assert (await switch(tenant, MANAGED, if_match=first.headers["ETag"])).status_code == 200

    @pytest.mark.parametrize("tag", ['"other"', 'W/"r0"', "nonsense"])
    async def test_that_is_none_matches_nothing(self, tenant: Tenant, tag: str) -> None:
        assert (await switch(tenant, EMPTY_BYO, if_match=tag)).status_code == 412

    async def test_of_many_at_once_with_the_same_one_only_one_goes_through(self, tenant: Tenant) -> None:
        ids = [(await tenant.created())["id"] for _ in range(6)]
        read = (await tenant.get(f"{tenant.path}/usage-mode")).headers["ETag"]

        answers = await asyncio.gather(
            *(switch(tenant, {"mode": "byo", "credential_id": one}, if_match=read) for one in ids)
        )

        assert sorted(answer.status_code for answer in answers) == [200] + [412] * 5
        assert len((await history(tenant))["data"]) == 1


class TestHistory:
    async def test_comes_in_pages_newest_first(self, tenant: Tenant) -> None:
        states = [await switched(tenant, body) for body in (EMPTY_BYO, MANAGED) * 3]
        pages, page = [], None
        while True:
            answer = await history(tenant, limit=4, **({} if page is None else {"page": page}))
            pages.append(answer["data"])
            page = answer["next_page"]
            assert answer["has_more"] is (page is not None)
            if page is None:
                break

        assert [len(points) for points in pages] == [4, 2]
        points = [point for points in pages for point in points]
        assert [point["effective_from"] for point in points] == [
            state["effective_from"] for state in reversed(states)
        ]
        assert {point["changed_by"] for point in points} == {"billing-admin@example.com"}

    @pytest.mark.parametrize("page", ["x", "!", "garbage", "AAAAAAAAAAA", "_" * 40])
    async def test_knows_its_own_cursors(self, tenant: Tenant, page: str) -> None:
        response = await tenant.get(f"{tenant.path}/usage-mode/history", params={"page": page})

        assert refusal(response) == (422, "page_invalid")
