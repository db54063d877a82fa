"""Tests of updating a credential: the label, and fields that a merge patch must not change."""

import asyncio
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.database.rows import change
from tests.support.provider.fake_anthropic import make_key
from tests.support.tenant import MakeTenant, Tenant


async def _create_credential(tenant: Tenant) -> tuple[str, str]:
    """Create a credential. Returns its path and ETag."""
    response = await tenant.create()
    return response.headers["Location"], response.headers["ETag"]


class TestLabel:
    async def test_changes_only_the_label(self, tenant: Tenant) -> None:
        response = await tenant.create()
        before, path = response.json(), response.headers["Location"]

        patched = await tenant.patch(path, json={"label": "Acme EU"})

        assert patched.status_code == 200
        after = patched.json()
        assert after == before | {"label": "Acme EU", "updated_at": after["updated_at"]}
        assert after["updated_at"] > before["updated_at"]
        assert (await tenant.get(path)).json() == after

    async def test_accepts_the_media_type_of_merge_patches(self, tenant: Tenant) -> None:
        path, _ = await _create_credential(tenant)

        patched = await tenant.patch(
            path, content=b'{"label":"Acme EU"}', headers={"Content-Type": "application/merge-patch+json"}
        )

        assert patched.json()["label"] == "Acme EU"

    @pytest.mark.parametrize("label", [None, "", " ", "x" * 81, "a\nb", 7])
    async def test_rejects_invalid_labels(self, tenant: Tenant, label: Any) -> None:
        path, etag = await _create_credential(tenant)

        patched = await tenant.patch(path, json={"label": label})

        assert (patched.status_code, patched.json()["errors"][0]["field"]) == (422, "label")
        assert (await tenant.get(path)).headers["ETag"] == etag

    async def test_rejects_a_label_that_looks_like_a_key(self, tenant: Tenant) -> None:
        path, _ = await _create_credential(tenant)

        patched = await tenant.patch(path, json={"label": f"sk-ant-api03-{'x' * 40}"})

        assert (patched.status_code, patched.json()["code"]) == (422, "looks_like_key")

    async def test_requires_the_scope(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        path, _ = await _create_credential(tenant)

        patched = await make_tenant("billing-viewer", tenant.organization).patch(path, json={"label": "x"})

        assert (patched.status_code, patched.json()["code"]) == (403, "insufficient_scope")

    async def test_credential_of_another_organization_is_not_found(
        self, tenant: Tenant, make_tenant: MakeTenant
    ) -> None:
        path, _ = await _create_credential(tenant)
        other = make_tenant()

        patched = await other.patch(f"{other.credentials}/{path.rpartition('/')[2]}", json={"label": "x"})

        assert patched.status_code == 404

    async def test_rejects_changes_of_a_deleted_credential(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        path, _ = await _create_credential(tenant)
        await change(
            superuser,
            "UPDATE provider_credential SET state = 'deleted' WHERE id = :id",
            id=path.rpartition("/")[2],
        )

        patched = await tenant.patch(path, json={"label": "x"})

        assert (patched.status_code, patched.json()["code"]) == (409, "credential_deleted")
        assert (await tenant.get(path)).json()["state"] == "deleted"


class TestEndpoint:
    @pytest.mark.parametrize(
        ("field", "value"),
        [("base_url", "https://evil.example"), ("auth_style", "bearer"), ("workspace_id", None)],
    )
    async def test_cannot_be_changed(self, tenant: Tenant, field: str, value: str | None) -> None:
        path, etag = await _create_credential(tenant)

        patched = await tenant.patch(path, json={"label": "x", field: value})

        problem = patched.json()
        assert (patched.status_code, problem["code"]) == (422, "destination_is_bound")
        assert [(e["field"], e["code"]) for e in problem["errors"]] == [(field, "destination_is_bound")]
        assert (await tenant.get(path)).headers["ETag"] == etag

    @pytest.mark.parametrize("field", ["api_key", "key_hint", "state", "validation", "id", "messages_url"])
    async def test_rejects_all_other_fields(self, tenant: Tenant, field: str) -> None:
        path, etag = await _create_credential(tenant)

        patched = await tenant.patch(path, json={field: make_key()})

        assert (patched.status_code, patched.json()["code"]) == (422, "unknown_field")
        assert (await tenant.get(path)).headers["ETag"] == etag


class TestIfMatch:
    async def test_accepts_the_current_etag(self, tenant: Tenant) -> None:
        path, etag = await _create_credential(tenant)

        patched = await tenant.patch(path, json={"label": "x"}, headers={"If-Match": etag})

        assert patched.status_code == 200
        assert patched.headers["ETag"] != etag

    @pytest.mark.parametrize("pattern", ["*", '"other", {}', "{}"])
    async def test_accepts_any_or_one_of_several_etags(self, tenant: Tenant, pattern: str) -> None:
        path, etag = await _create_credential(tenant)

        patched = await tenant.patch(
            path, json={"label": "x"}, headers={"If-Match": pattern.replace("{}", etag)}
        )

        assert patched.status_code == 200

    @pytest.mark.parametrize("pattern", ['"other"', '"r0"', "r1", "W/{}", '""', '"r' + "9" * 40 + '"'])
    async def test_rejects_other_etags(self, tenant: Tenant, pattern: str) -> None:
        path, etag = await _create_credential(tenant)

        patched = await tenant.patch(
            path, json={"label": "x"}, headers={"If-Match": pattern.replace("{}", etag)}
        )

        assert (patched.status_code, patched.json()["code"]) == (412, "precondition_failed")
        assert (await tenant.get(path)).headers["ETag"] == etag

    async def test_accepts_one_of_several_concurrent_changes(self, tenant: Tenant) -> None:
        path, etag = await _create_credential(tenant)

        responses = await asyncio.gather(
            *(tenant.patch(path, json={"label": f"{n}"}, headers={"If-Match": etag}) for n in range(5))
        )

        assert sorted(response.status_code for response in responses) == [200, 412, 412, 412, 412]


class TestEtag:
    @pytest.mark.parametrize("patch", [{}, {"label": "Acme production"}])
    async def test_does_not_change_without_a_change(self, tenant: Tenant, patch: dict[str, str]) -> None:
        path, etag = await _create_credential(tenant)

        patched = await tenant.patch(path, json=patch)

        assert (patched.status_code, patched.headers["ETag"]) == (200, etag)

    async def test_does_not_change_on_use(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        path, etag = await _create_credential(tenant)
        await change(
            superuser,
            "UPDATE provider_credential SET last_used_at = now() WHERE id = :id",
            id=path.rpartition("/")[2],
        )

        found = await tenant.get(path)

        assert found.json()["last_used_at"] is not None
        assert found.headers["ETag"] == etag

    async def test_changes_with_the_validation_result(self, tenant: Tenant) -> None:
        path, etag = await _create_credential(tenant)

        await tenant.post(f"{path}/validations")

        assert (await tenant.get(path)).headers["ETag"] != etag
