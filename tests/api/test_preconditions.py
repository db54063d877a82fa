"""If-Match on everything that changes a credential: another revision than the named one changes nothing."""

import pytest

from tests.conftest import Tenant
from tests.fake_anthropic import make_key


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
    async def test_of_another_revision_changes_nothing(
        self, tenant: Tenant, method: str, suffix: str
    ) -> None:
        path = f"{tenant.credentials}/{(await tenant.created())['id']}"
        if suffix in {"/rollback", "/versions/1/destroy"}:
            await tenant.post(f"{path}/rotations", json={"api_key": make_key()})
        before = await tenant.get(path)

        body = {"api_key": make_key()} if suffix == "/rotations" else None

        refused = await tenant.request(method, f"{path}{suffix}", json=body, headers={"If-Match": '"r0"'})

        assert (refused.status_code, refused.json()["code"]) == (412, "precondition_failed")
        assert (await tenant.get(path)).text == before.text

    async def test_of_many_revisions_is_read_to_the_end(self, tenant: Tenant) -> None:
        path = f"{tenant.credentials}/{(await tenant.created())['id']}"
        revision = (await tenant.get(path)).headers["ETag"]
        others = ", ".join([f'"r{"9" * 5000}"', *(f'"r{number}"' for number in range(1000, 1300))])

        for present, status in ((revision, 200), ('"r999"', 412)):
            headers = {"If-Match": f"{others}, {present}"}
            response = await tenant.request("PATCH", path, json={"label": "x"}, headers=headers)
            assert response.status_code == status

    async def test_of_the_present_revision_lets_it_through(self, tenant: Tenant) -> None:
        path = f"{tenant.credentials}/{(await tenant.created())['id']}"
        etag = (await tenant.get(path)).headers["ETag"]

        answer = await tenant.request("DELETE", path, headers={"If-Match": etag})

        assert answer.status_code == 200

    async def test_of_the_present_revision_lets_a_rotation_and_a_destruction_through(
        self, tenant: Tenant
    ) -> None:
        path = f"{tenant.credentials}/{(await tenant.created())['id']}"

        answers = []
        for suffix, body in (("/rotations", {"api_key": make_key()}), ("/versions/1/destroy", None)):
            named = {"If-Match": (await tenant.get(path)).headers["ETag"]}
            answers.append(await tenant.request("POST", f"{path}{suffix}", json=body, headers=named))

        assert [answer.status_code for answer in answers] == [201, 200]
