"""What is stored for an Idempotency-Key, and for how long."""

import hashlib
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.database.rows import change, fetch
from tests.support.requests.idempotent import REPLAYED_HEADER, new_body, post_with_idempotency_key
from tests.support.tenant import Tenant


class TestTable:
    async def test_contains_neither_the_key_nor_the_request_body(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        idempotency_key, body = f"pay-once-{uuid4().hex}", new_body()
        response = await post_with_idempotency_key(tenant, body, key=idempotency_key)

        (row,) = await fetch(
            superuser, "SELECT * FROM idempotency_key WHERE organization_id = :o", o=tenant.organization
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

    async def test_keeps_a_response_for_a_day_and_a_claim_for_a_minute(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        await post_with_idempotency_key(tenant, new_body())

        (row,) = await fetch(
            superuser,
            "SELECT expires_at - held_until AS difference FROM idempotency_key WHERE organization_id = :o",
            o=tenant.organization,
        )

        assert row["difference"].total_seconds() == 24 * 3600 - 60

    async def test_frees_the_key_after_a_day(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        await post_with_idempotency_key(tenant, new_body())
        await change(
            superuser,
            "UPDATE idempotency_key SET expires_at = now() WHERE organization_id = :o",
            o=tenant.organization,
        )

        response = await post_with_idempotency_key(tenant, new_body())

        assert response.status_code == 201
        assert REPLAYED_HEADER not in response.headers
