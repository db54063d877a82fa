"""Renaming a credential, and what a merge patch must not touch."""

import asyncio
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.conftest import MakeTenant, Tenant
from tests.fake_anthropic import make_key
from tests.rows import change


async def _saved(tenant: Tenant) -> tuple[str, str]:
    """The path and ETag of a new credential."""
    response = await tenant.create()
    return response.headers["Location"], response.headers["ETag"]


class TestLabel:
    async def test_is_changed_and_nothing_else(self, tenant: Tenant) -> None:
        response = await tenant.create()
        before, path = response.json(), response.headers["Location"]

        patched = await tenant.patch(path, json={"label": "Acme EU"})

        assert patched.status_code == 200
        after = patched.json()
        assert after == before | {"label": "Acme EU", "updated_at": after["updated_at"]}
        assert after["updated_at"] > before["updated_at"]
        assert (await tenant.get(path)).json() == after

    async def test_is_changed_by_the_media_type_of_merge_patches_too(self, tenant: Tenant) -> None:
        path, _ = await _saved(tenant)

        patched = await tenant.patch(
            path, content=b'{"label":"Acme EU"}', headers={"Content-Type": "application/merge-patch+json"}
        )

        assert patched.json()["label"] == "Acme EU"

    @pytest.mark.parametrize("label", [None, "", " ", "x" * 81, "a\nb", 7])
    async def test_out_of_bounds_is_refused(self, tenant: Tenant, label: Any) -> None:
        path, etag = await _saved(tenant)

        patched = await tenant.patch(path, json={"label": label})

        assert (patched.status_code, patched.json()["errors"][0]["field"]) == (422, "label")
        assert (await tenant.get(path)).headers["ETag"] == etag

    async def test_that_looks_like_a_key_is_refused(self, tenant: Tenant) -> None:
        path, _ = await _saved(tenant)

        patched = await tenant.patch(path, json={"label": f"sk-ant-api03-{'x' * 40}"})

        assert (patched.status_code, patched.json()["code"]) == (422, "looks_like_key")

    async def test_needs_the_scope(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        path, _ = await _saved(tenant)

        patched = await make_tenant("billing-viewer", tenant.organization).patch(path, json={"label": "x"})

        assert (patched.status_code, patched.json()["code"]) == (403, "insufficient_scope")

    async def test_of_another_organizations_credential_is_not_found(
        self, tenant: Tenant, make_tenant: MakeTenant
    ) -> None:
        path, _ = await _saved(tenant)
        other = make_tenant()

        patched = await other.patch(f"{other.credentials}/{path.rpartition('/')[2]}", json={"label": "x"})

        assert patched.status_code == 404

    async def test_of_a_deleted_credential_stays(self, tenant: Tenant, owner: AsyncEngine) -> None:
        path, _ = await _saved(tenant)
        await change(
            owner,
            "UPDATE provider_credential SET state = 'deleted' WHERE id = :id",
            id=path.rpartition("/")[2],
        )

        patched = await tenant.patch(path, json={"label": "x"})

        assert (patched.status_code, patched.json()["code"]) == (409, "credential_deleted")
        assert (await tenant.get(path)).json()["state"] == "deleted"


class TestDestination:
    @pytest.mark.parametrize(
        ("field", "value"),
        [("base_url", "https://evil.example"), ("auth_style", "bearer"), ("workspace_id", None)],
    )
    async def test_is_bound_to_its_key(self, tenant: Tenant, field: str, value: str | None) -> None:
        path, etag = await _saved(tenant)

        patched = await tenant.patch(path, json={"label": "x", field: value})

        problem = patched.json()
        assert (patched.status_code, problem["code"]) == (422, "destination_is_bound")
        assert [(e["field"], e["code"]) for e in problem["errors"]] == [(field, "destination_is_bound")]
        assert (await tenant.get(path)).headers["ETag"] == etag

    @pytest.mark.parametrize("field", ["api_key", "key_hint", "state", "validation", "id", "messages_url"])
    async def test_and_all_else_cannot_be_patched(self, tenant: Tenant, field: str) -> None:
        path, etag = await _saved(tenant)

        patched = await tenant.patch(path, json={field: make_key()})

        assert (patched.status_code, patched.json()["code"]) == (422, "unknown_field")
        assert (await tenant.get(path)).headers["ETag"] == etag


class TestPrecondition:
    async def test_that_matches_lets_the_change_through(self, tenant: Tenant) -> None:
        path, etag = await _saved(tenant)

        patched = await tenant.patch(path, json={"label": "x"}, headers={"If-Match": etag})

        assert patched.status_code == 200
        assert patched.headers["ETag"] != etag

    @pytest.mark.parametrize("pattern", ["*", '"other", {}', "{}"])
    async def test_of_any_or_several_matches(self, tenant: Tenant, pattern: str) -> None:
        path, etag = await _saved(tenant)

        patched = await tenant.patch(
            path, json={"label": "x"}, headers={"If-Match": pattern.replace("{}", etag)}
        )

        assert patched.status_code == 200

    @pytest.mark.parametrize("pattern", ['"other"', '"r0"', "r1", "W/{}", '""', '"r' + "9" * 40 + '"'])
    async def test_that_does_not_match_is_412(self, tenant: Tenant, pattern: str) -> None:
        path, etag = await _saved(tenant)

        patched = await tenant.patch(
            path, json={"label": "x"}, headers={"If-Match": pattern.replace("{}", etag)}
        )

        assert (patched.status_code, patched.json()["code"]) == (412, "precondition_failed")
        assert (await tenant.get(path)).headers["ETag"] == etag

    async def test_lets_one_of_two_through(self, tenant: Tenant) -> None:
        path, etag = await _saved(tenant)

        answers = await asyncio.gather(
            *(tenant.patch(path, json={"label": f"{n}"}, headers={"If-Match": etag}) for n in range(5))
        )

        assert sorted(answer.status_code for answer in answers) == [200, 412, 412, 412, 412]


class TestEtag:
    @pytest.mark.parametrize("patch", [{}, {"label": "Acme production"}])
    async def test_stays_when_nothing_changes(self, tenant: Tenant, patch: dict[str, str]) -> None:
        path, etag = await _saved(tenant)

        patched = await tenant.patch(path, json=patch)

        assert (patched.status_code, patched.headers["ETag"]) == (200, etag)

    async def test_is_blind_to_uses(self, tenant: Tenant, owner: AsyncEngine) -> None:
        path, etag = await _saved(tenant)
        await change(
            owner,
            "UPDATE provider_credential SET last_used_at = now() WHERE id = :id",
            id=path.rpartition("/")[2],
        )

        found = await tenant.get(path)

        assert found.json()["last_used_at"] is not None
        assert found.headers["ETag"] == etag

    async def test_changes_with_the_verdict(self, tenant: Tenant) -> None:
        path, etag = await _saved(tenant)

        await tenant.post(f"{path}/validations")

        assert (await tenant.get(path)).headers["ETag"] != etag
