"""If-Match on every operation that changes a credential: with another revision nothing changes."""

import pytest

from tests.support.provider.fake_anthropic import make_key
from tests.support.tenant import Tenant


class TestIfMatch:
    @pytest.mark.parametrize(
        ("method", "suffix"),
        [
            ("POST", "/disable"),
            ("POST", "/enable"),
            ("POST", "/rollback"),
            ("POST", "/rotations"),
            ("POST", "/versions/1/destroy"),
            ("DELETE", ""),
        ],
    )
    async def test_with_another_revision_changes_nothing(
        self, tenant: Tenant, method: str, suffix: str
    ) -> None:
        path = f"{tenant.credentials}/{(await tenant.created())['id']}"
        if suffix in {"/rollback", "/versions/1/destroy"}:
            await tenant.post(f"{path}/rotations", json={"api_key": make_key()})
        before = await tenant.get(path)

        body = {"api_key": make_key()} if suffix == "/rotations" else None

        rejected = await tenant.request(method, f"{path}{suffix}", json=body, headers={"If-Match": '"r0"'})

        assert (rejected.status_code, rejected.json()["code"]) == (412, "precondition_failed")
        assert (await tenant.get(path)).text == before.text

    async def test_with_many_revisions_is_read_completely(self, tenant: Tenant) -> None:
        path = f"{tenant.credentials}/{(await tenant.created())['id']}"
        revision = (await tenant.get(path)).headers["ETag"]
        others = ", ".join([f'"r{"9" * 5000}"', *(f'"r{number}"' for number in range(1000, 1300))])

        for last, status in ((revision, 200), ('"r999"', 412)):
            headers = {"If-Match": f"{others}, {last}"}
            response = await tenant.request("PATCH", path, json={"label": "x"}, headers=headers)
            assert response.status_code == status

    async def test_with_the_current_revision_allows_a_deletion(self, tenant: Tenant) -> None:
        path = f"{tenant.credentials}/{(await tenant.created())['id']}"
        etag = (await tenant.get(path)).headers["ETag"]

        response = await tenant.request("DELETE", path, headers={"If-Match": etag})

        assert response.status_code == 200

    async def test_with_the_current_revision_allows_a_rotation_and_a_destruction(
        self, tenant: Tenant
    ) -> None:
        path = f"{tenant.credentials}/{(await tenant.created())['id']}"

        responses = []
        for suffix, body in (("/rotations", {"api_key": make_key()}), ("/versions/1/destroy", None)):
            headers = {"If-Match": (await tenant.get(path)).headers["ETag"]}
            responses.append(await tenant.request("POST", f"{path}{suffix}", json=body, headers=headers))

        assert [response.status_code for response in responses] == [201, 200]
