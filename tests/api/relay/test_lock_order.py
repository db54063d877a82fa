"""The relay's admission locks counters before key versions. Ingestion must do the same, or the two deadlock."""

import asyncio
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.database.lock_waiters import is_on_citus, lock_waiters
from tests.support.database.rows import fetch
from tests.support.polling import until
from tests.support.relay.relay_service import RelayUser
from tests.support.requests.usage_events import event, instant
from tests.support.tenant import MakeToken, Tenant

_COUNTER = sa.text("SELECT 1 FROM spend_counter WHERE organization_id = :organization FOR UPDATE")
_VERSION = sa.text("SELECT 1 FROM credential_version WHERE organization_id = :organization FOR SHARE NOWAIT")
_WAITING = "SELECT 1 FROM pg_stat_activity WHERE :holder = ANY (pg_blocking_pids(pid))"


async def waits(superuser: AsyncEngine, holder: int) -> bool:
    """Whether a session waits for this one. On Citus, another session holds its locks on the worker."""
    if await is_on_citus(superuser):
        return bool(await lock_waiters(superuser))
    return bool(await fetch(superuser, _WAITING, holder=holder))


async def ingest(service: Tenant, used: dict[str, Any]) -> None:
    response = await service.post(f"{service.path}/usage-events", json={"events": [used]})
    assert response.status_code == 200, response.text


class TestIngestionOfByoEvents:
    async def test_waits_for_a_counter_without_a_lock_on_the_key_version(
        self, user: RelayUser, superuser: AsyncEngine, make_token: MakeToken
    ) -> None:
        credential = await user.save_key()
        await user.create_limit("10", period="total")
        service = Tenant(
            http=user.admin.http, organization=user.organization, token=make_token("service", "*")
        )
        version = {"credential_id": credential["id"], "key_version": 1}
        earlier, used = event(**version, started_at=instant(hours=1)), event(**version)
        await ingest(service, earlier)

        async with superuser.connect() as holding, superuser.connect() as admission:
            holder = await holding.scalar(sa.text("SELECT pg_backend_pid()"))
            assert await holding.scalar(_COUNTER, {"organization": user.organization}) == 1
            ingesting = asyncio.create_task(ingest(service, used))
            await until(lambda: waits(superuser, holder), bool)

            assert await admission.scalar(_VERSION, {"organization": user.organization}) == 1
            await admission.rollback()
            await holding.rollback()
            await ingesting

        assert {it["event_id"] for it in await user.events()} == {earlier["event_id"], used["event_id"]}
        read = await user.admin.get(f"{user.admin.credentials}/{credential['id']}")
        assert read.json()["last_used_at"] is not None
