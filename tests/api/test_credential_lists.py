"""Lists of credentials and of their versions: pages, filters, bounds."""

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.conftest import MakeTenant, Tenant
from tests.rows import change


async def _walk(tenant: Tenant, url: str, **query: Any) -> list[list[dict[str, Any]]]:
    """Every page of a list, one after the other."""
    pages: list[list[dict[str, Any]]] = []
    cursor = None
    while not pages or cursor is not None:
        answer = (await tenant.get(url, params=query if cursor is None else query | {"page": cursor})).json()
        assert answer["has_more"] == (answer["next_page"] is not None)
        pages.append(answer["data"])
        cursor = answer["next_page"]
    return pages


async def _put_in_state(owner: AsyncEngine, credential: dict[str, Any], state: str) -> None:
    await change(
        owner,
        "UPDATE provider_credential SET state = :state WHERE id = :id",
        state=state,
        id=credential["id"],
    )


class TestList:
    async def test_of_an_organization_without_credentials_is_empty(self, tenant: Tenant) -> None:
        response = await tenant.get(tenant.credentials)

        assert response.json() == {"data": [], "has_more": False, "next_page": None}

    async def test_shows_what_reading_one_shows(self, tenant: Tenant) -> None:
        credential = await tenant.created()

        assert (await tenant.get(tenant.credentials)).json()["data"] == [credential]

    async def test_pages_show_each_once_newest_first(self, tenant: Tenant) -> None:
        created = [(await tenant.created())["id"] for _ in range(5)]

        pages = await _walk(tenant, tenant.credentials, limit=2)

        assert [len(page) for page in pages] == [2, 2, 1]
        assert [item["id"] for page in pages for item in page] == created[::-1]

    async def test_full_last_page_says_that_there_is_no_more(self, tenant: Tenant) -> None:
        for _ in range(2):
            await tenant.created()

        pages = await _walk(tenant, tenant.credentials, limit=2)

        assert [len(page) for page in pages] == [2]

    async def test_page_stays_where_it_was_when_new_ones_come(self, tenant: Tenant) -> None:
        created = [(await tenant.created())["id"] for _ in range(3)]
        first = (await tenant.get(tenant.credentials, params={"limit": 2})).json()
        await tenant.created()

        second = (
            await tenant.get(tenant.credentials, params={"limit": 2, "page": first["next_page"]})
        ).json()

        assert [item["id"] for item in second["data"]] == created[:1]

    async def test_shows_nothing_of_other_organizations(self, make_tenant: MakeTenant) -> None:
        await make_tenant().created()
        tenant = make_tenant()

        assert (await tenant.get(tenant.credentials)).json()["data"] == []

    async def test_filter_shows_one_state_and_deleted_ones_only_when_asked(
        self, tenant: Tenant, owner: AsyncEngine
    ) -> None:
        active, disabled, deleted = [await tenant.created() for _ in range(3)]
        await _put_in_state(owner, disabled, "disabled")
        await _put_in_state(owner, deleted, "deleted")

        found = {
            state: [c["id"] for c in (await tenant.get(tenant.credentials, params=query)).json()["data"]]
            for state, query in {
                "all": {},
                **{name: {"state": name} for name in ("active", "disabled", "deleted")},
            }.items()
        }

        assert found == {
            "all": [disabled["id"], active["id"]],
            "active": [active["id"]],
            "disabled": [disabled["id"]],
            "deleted": [deleted["id"]],
        }

    async def test_one_that_is_being_created_is_not_there_yet(
        self, tenant: Tenant, owner: AsyncEngine
    ) -> None:
        credential = await tenant.created()
        await _put_in_state(owner, credential, "creating")

        assert (await tenant.get(tenant.credentials)).json()["data"] == []
        assert (await tenant.get(f"{tenant.credentials}/{credential['id']}")).status_code == 404

    async def test_unknown_state_is_refused(self, tenant: Tenant) -> None:
        response = await tenant.get(tenant.credentials, params={"state": "creating"})

        assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "state")


class TestBounds:
    @pytest.mark.parametrize("limit", ["1", "100"])
    async def test_limit_from_one_to_a_hundred_is_accepted(self, tenant: Tenant, limit: str) -> None:
        assert (await tenant.get(tenant.credentials, params={"limit": limit})).status_code == 200

    @pytest.mark.parametrize("limit", ["0", "101", "-1", "ten", "1.5", "", "9" * 30])
    async def test_other_limit_is_refused(self, tenant: Tenant, limit: str) -> None:
        response = await tenant.get(tenant.credentials, params={"limit": limit})

        assert (response.status_code, response.json()["code"]) == (422, "validation_failed")
        assert [error["field"] for error in response.json()["errors"]] == ["limit"]

    async def test_twenty_a_page_unless_asked_otherwise(self, tenant: Tenant) -> None:
        for _ in range(21):
            await tenant.created()

        pages = await _walk(tenant, tenant.credentials)

        assert [len(page) for page in pages] == [20, 1]

    @pytest.mark.parametrize("path", ["", "/versions", "/validations"])
    @pytest.mark.parametrize(
        "cursor", ["", "x", "AAAA", "not base64!", "é", "A" * 199, "A" * 300, "AAAAAA=="]
    )
    async def test_cursor_that_is_none_of_ours_is_refused(
        self, tenant: Tenant, path: str, cursor: str
    ) -> None:
        credential = await tenant.created()
        url = f"{tenant.credentials}/{credential['id']}{path}" if path else tenant.credentials

        response = await tenant.get(url, params={"page": cursor})

        assert response.status_code == 422
        assert [error["field"] for error in response.json()["errors"]] == ["page"]


class TestVersions:
    async def test_first_version_is_in_use(self, tenant: Tenant) -> None:
        credential = await tenant.created()

        response = await tenant.get(f"{tenant.credentials}/{credential['id']}/versions")

        (version,) = response.json()["data"]
        assert (version["key_version"], version["state"]) == (1, "active")
        same = ("key_hint", "fingerprint", "messages_url", "auth_style", "validation", "created_by")
        assert {name: version[name] for name in same} == {name: credential[name] for name in same}
        assert version["activated_at"] is not None
        assert version["destroyed_at"] is None

    async def test_of_an_unknown_credential_are_not_found(self, make_tenant: MakeTenant) -> None:
        credential = await make_tenant().created()
        tenant = make_tenant()

        response = await tenant.get(f"{tenant.credentials}/{credential['id']}/versions")

        assert response.status_code == 404
