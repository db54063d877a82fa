"""Concurrent changes of one credential either succeed or conflict. None says that a dependency is down."""

import asyncio

from tests.support.requests.rotation import create_credential, get_json, post_rotation
from tests.support.tenant import Tenant


class TestConcurrentChanges:
    async def test_of_one_credential_succeed_or_conflict(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)
        changes = [
            *(post_rotation(tenant, path, behaviour) for behaviour in ("valid", "invalid") * 8),
            *(tenant.patch(path, json={"label": f"Label {number}"}) for number in range(8)),
            *(tenant.post(f"{path}/{operation}") for operation in ("disable", "enable", "rollback") * 2),
        ]

        responses = await asyncio.gather(*changes)

        assert len(responses) == 30
        found = {(response.status_code, response.json().get("code")) for response in responses}
        assert {status for status, _ in found} <= {200, 201, 409}, found
        assert (await get_json(tenant, path))["state"] in {"active", "disabled"}
