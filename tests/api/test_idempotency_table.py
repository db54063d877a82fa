"""What is kept of a request under its Idempotency-Key, and for how long."""

import hashlib
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from tests.api.test_idempotency import REPLAYED, create, new_body
from tests.conftest import Tenant
from tests.rows import change, fetch


class TestTable:
    async def test_holds_neither_the_key_nor_the_body(self, tenant: Tenant, owner: AsyncEngine) -> None:
        idempotency_key, body = f"pay-once-{uuid4().hex}", new_body()
        response = await create(tenant, body, key=idempotency_key)

        (row,) = await fetch(
            owner, "SELECT * FROM idempotency_key WHERE organization_id = :o", o=tenant.organization
        )

        raw = b" ".join(v if isinstance(v, bytes) else str(v).encode() for v in row.values())
        assert response.content in raw
        sent = response.request.content
        for secret in (idempotency_key.encode(), body["api_key"][16:-4].encode(), sent):
            for form in (
                secret,
                hashlib.sha256(secret).digest(),
                hashlib.sha256(secret).hexdigest().encode(),
            ):
                assert form not in raw

    async def test_keeps_an_answer_for_a_day_and_a_hold_for_a_minute(
        self, tenant: Tenant, owner: AsyncEngine
    ) -> None:
        await create(tenant, new_body())

        (row,) = await fetch(
            owner,
            "SELECT expires_at - held_until AS longer FROM idempotency_key WHERE organization_id = :o",
            o=tenant.organization,
        )

        assert row["longer"].total_seconds() == 24 * 3600 - 60

    async def test_forgets_after_a_day(self, tenant: Tenant, owner: AsyncEngine) -> None:
        await create(tenant, new_body())
        await change(
            owner,
            "UPDATE idempotency_key SET expires_at = now() WHERE organization_id = :o",
            o=tenant.organization,
        )

        response = await create(tenant, new_body())

        assert response.status_code == 201
        assert REPLAYED not in response.headers
