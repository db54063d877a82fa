"""Tests of the lists of credentials and of key versions: pages, filters, limits."""

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.database.rows import change
from tests.support.tenant import MakeTenant, Tenant


async def _fetch_pages(tenant: Tenant, url: str, **query: Any) -> list[list[dict[str, Any]]]:
    """Fetch all pages of a list."""
    pages: list[list[dict[str, Any]]] = []
    cursor = None
    while not pages or cursor is not None:
        page = (await tenant.get(url, params=query if cursor is None else query | {"page": cursor})).json()
        assert page["has_more"] == (page["next_page"] is not None)
        pages.append(page["data"])
        cursor = page["next_page"]
    return pages


async def _set_state(superuser: AsyncEngine, credential: dict[str, Any], state: str) -> None:
    await change(
        superuser,
        "UPDATE provider_credential SET state = :state WHERE id = :id",
        state=state,
        id=credential["id"],
    )


class TestListCredentials:
    async def test_is_empty_without_credentials(self, tenant: Tenant) -> None:
        response = await tenant.get(tenant.credentials)

        assert response.json() == {"data": [], "has_more": False, "next_page": None}

    async def test_shows_the_same_as_get(self, tenant: Tenant) -> None:
        credential = await tenant.created()

        assert (await tenant.get(tenant.credentials)).json()["data"] == [credential]

    async def test_pages_contain_each_credential_once_newest_first(self, tenant: Tenant) -> None:
        created = [(await tenant.created())["id"] for _ in range(5)]

        pages = await _fetch_pages(tenant, tenant.credentials, limit=2)

        assert [len(page) for page in pages] == [2, 2, 1]
        assert [item["id"] for page in pages for item in page] == created[::-1]

    async def test_full_last_page_has_no_next_page(self, tenant: Tenant) -> None:
        for _ in range(2):
            await tenant.created()

        pages = await _fetch_pages(tenant, tenant.credentials, limit=2)

        assert [len(page) for page in pages] == [2]

    async def test_new_credentials_do_not_shift_later_pages(self, tenant: Tenant) -> None:
        created = [(await tenant.created())["id"] for _ in range(3)]
        first = (await tenant.get(tenant.credentials, params={"limit": 2})).json()
        await tenant.created()

        second = (
            await tenant.get(tenant.credentials, params={"limit": 2, "page": first["next_page"]})
        ).json()

        assert [item["id"] for item in second["data"]] == created[:1]

    async def test_does_not_show_other_organizations(self, make_tenant: MakeTenant) -> None:
        await make_tenant().created()
        tenant = make_tenant()

        assert (await tenant.get(tenant.credentials)).json()["data"] == []

    async def test_filters_by_state_and_omits_deleted_by_default(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        active, disabled, deleted = [await tenant.created() for _ in range(3)]
        await _set_state(superuser, disabled, "disabled")
        await _set_state(superuser, deleted, "deleted")

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

    async def test_hides_credentials_that_are_being_created(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        credential = await tenant.created()
        await _set_state(superuser, credential, "creating")

        assert (await tenant.get(tenant.credentials)).json()["data"] == []
        assert (await tenant.get(f"{tenant.credentials}/{credential['id']}")).status_code == 404

    async def test_rejects_an_unknown_state(self, tenant: Tenant) -> None:
        response = await tenant.get(tenant.credentials, params={"state": "creating"})

        assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "state")


class TestPagination:
    @pytest.mark.parametrize("limit", ["1", "100"])
    async def test_accepts_limits_from_1_to_100(self, tenant: Tenant, limit: str) -> None:
        assert (await tenant.get(tenant.credentials, params={"limit": limit})).status_code == 200

    @pytest.mark.parametrize("limit", ["0", "101", "-1", "ten", "1.5", "", "9" * 30])
    async def test_rejects_other_limits(self, tenant: Tenant, limit: str) -> None:
        response = await tenant.get(tenant.credentials, params={"limit": limit})

        assert (response.status_code, response.json()["code"]) == (422, "validation_failed")
        assert [error["field"] for error in response.json()["errors"]] == ["limit"]

    async def test_default_limit_is_20(self, tenant: Tenant) -> None:
        for _ in range(21):
            await tenant.created()

        pages = await _fetch_pages(tenant, tenant.credentials)

        assert [len(page) for page in pages] == [20, 1]

    @pytest.mark.parametrize("path", ["", "/versions", "/validations"])
    @pytest.mark.parametrize(
        "cursor", ["", "x", "AAAA", "not base64!", "é", "A" * 199, "A" * 300, "AAAAAA=="]
    )
    async def test_rejects_an_invalid_cursor(self, tenant: Tenant, path: str, cursor: str) -> None:
        credential = await tenant.created()
        url = f"{tenant.credentials}/{credential['id']}{path}" if path else tenant.credentials

        response = await tenant.get(url, params={"page": cursor})

        assert response.status_code == 422
        assert [error["field"] for error in response.json()["errors"]] == ["page"]


class TestListVersions:
    async def test_first_version_is_active(self, tenant: Tenant) -> None:
        credential = await tenant.created()

        response = await tenant.get(f"{tenant.credentials}/{credential['id']}/versions")

        (version,) = response.json()["data"]
        assert (version["key_version"], version["state"]) == (1, "active")
        same = ("key_hint", "fingerprint", "messages_url", "auth_style", "validation", "created_by")
        assert {name: version[name] for name in same} == {name: credential[name] for name in same}
        assert version["activated_at"] is not None
        assert version["destroyed_at"] is None

    async def test_unknown_credential_is_not_found(self, make_tenant: MakeTenant) -> None:
        credential = await make_tenant().created()
        tenant = make_tenant()

        response = await tenant.get(f"{tenant.credentials}/{credential['id']}/versions")

        assert response.status_code == 404
