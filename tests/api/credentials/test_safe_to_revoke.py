"""Tests of `safe_to_revoke`: how leases, validations and reported uses affect it."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.usage.last_used_repository import KeyLastUsedRepository
from tests.support.database.rows import change
from tests.support.polling import until
from tests.support.provider.fake_anthropic import FakeAnthropic
from tests.support.requests.rotation import create_credential, get_json, rotate_credential
from tests.support.tenant import Tenant
from tests.support.vault.lease_service import LeaseApi


async def get_previous(tenant: Tenant, path: str) -> dict[str, Any]:
    found: dict[str, Any] = (await get_json(tenant, path))["previous"]
    return found


async def expire_leases(superuser: AsyncEngine, tenant: Tenant) -> None:
    for table, column in (("credential_version", "leased_until"), ("credential_lease", "expires_at")):
        await change(
            superuser,
            f"UPDATE {table} SET {column} = now() - interval '1 second' WHERE organization_id = :o",
            o=tenant.organization,
        )


async def report_use(
    database: Database, tenant: Tenant, path: str, key_version: int, *, at: datetime
) -> None:
    """Record a use in the same way as the ingestion of usage events."""
    async with UnitsOfWork(database).writing(tenant.organization) as uow:
        await uow[KeyLastUsedRepository].record_uses({(UUID(path.rpartition("/")[2]), key_version): at})
        await uow.commit()


class TestSafeToRevoke:
    async def test_is_true_after_the_rotation_of_an_unused_key(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)
        await rotate_credential(tenant, path)

        previous = await get_previous(tenant, path)

        assert (previous["safe_to_revoke"], previous["last_used_at"]) == (True, None)

    async def test_is_true_when_the_last_lease_has_expired(
        self, lease_api: LeaseApi, superuser: AsyncEngine
    ) -> None:
        path = await lease_api.save_active_credential()
        await lease_api.lease()
        await rotate_credential(lease_api.admin, path)

        during = await get_previous(lease_api.admin, path)
        await expire_leases(superuser, lease_api.admin)
        after = await get_previous(lease_api.admin, path)

        assert (during["safe_to_revoke"], after["safe_to_revoke"]) == (False, True)
        assert during["last_used_at"] == after["last_used_at"] is not None

    async def test_does_not_depend_on_leases_of_the_new_key(self, lease_api: LeaseApi) -> None:
        path = await lease_api.save_active_credential()
        await rotate_credential(lease_api.admin, path)
        await lease_api.lease()

        assert (await get_previous(lease_api.admin, path))["safe_to_revoke"] is True

    async def test_is_false_while_a_validation_is_running(
        self, tenant: Tenant, slow_provider: FakeAnthropic
    ) -> None:
        path = await create_credential(tenant, "slow", headers={"Prefer": "respond-async"})
        await rotate_credential(tenant, path, activate="immediately")

        during = await get_previous(tenant, path)
        slow_provider.release.set()
        after = await until(lambda: get_previous(tenant, path), lambda found: bool(found["safe_to_revoke"]))

        assert (during["safe_to_revoke"], after["safe_to_revoke"]) == (False, True)

    async def test_is_false_after_a_later_use_is_reported(self, tenant: Tenant, database: Database) -> None:
        path = await create_credential(tenant)
        await rotate_credential(tenant, path)
        instant = datetime.now(UTC)

        await report_use(database, tenant, path, 1, at=instant)

        previous = await get_previous(tenant, path)
        assert previous["safe_to_revoke"] is False
        assert datetime.fromisoformat(previous["last_used_at"]) == instant

    async def test_is_true_if_earlier_uses_are_reported_late(
        self, tenant: Tenant, database: Database
    ) -> None:
        path = await create_credential(tenant)
        instant = datetime.now(UTC)
        await rotate_credential(tenant, path)

        await report_use(database, tenant, path, 1, at=instant - timedelta(hours=1))
        await report_use(database, tenant, path, 1, at=instant)
        await report_use(database, tenant, path, 1, at=instant - timedelta(minutes=1))

        previous = await get_previous(tenant, path)
        assert previous["safe_to_revoke"] is True
        assert datetime.fromisoformat(previous["last_used_at"]) == instant

    async def test_counts_from_the_last_replacement(self, tenant: Tenant, database: Database) -> None:
        path = await create_credential(tenant)
        await rotate_credential(tenant, path)
        await tenant.post(f"{path}/rollback")  # version 1 is active again, version 2 is previous
        await report_use(database, tenant, path, 1, at=datetime.now(UTC))
        assert (await get_previous(tenant, path))["safe_to_revoke"] is True

        await rotate_credential(tenant, path)  # version 1 is previous again

        previous = await get_previous(tenant, path)
        assert (previous["key_version"], previous["safe_to_revoke"]) == (1, True)

    async def test_is_false_if_a_later_use_follows_an_earlier_one(
        self, tenant: Tenant, database: Database
    ) -> None:
        path = await create_credential(tenant)
        before = datetime.now(UTC)
        await rotate_credential(tenant, path)
        await report_use(database, tenant, path, 1, at=before)

        await report_use(database, tenant, path, 1, at=datetime.now(UTC))

        assert (await get_previous(tenant, path))["safe_to_revoke"] is False

    async def test_reported_use_does_not_change_the_etag(self, tenant: Tenant, database: Database) -> None:
        path = await create_credential(tenant)
        await rotate_credential(tenant, path)
        before = (await tenant.get(path)).headers["ETag"]

        await report_use(database, tenant, path, 1, at=datetime.now(UTC))

        assert (await tenant.get(path)).headers["ETag"] == before

    async def test_is_shown_in_lists(self, tenant: Tenant) -> None:
        path = await create_credential(tenant)
        await rotate_credential(tenant, path)

        (credential,) = (await get_json(tenant, tenant.credentials))["data"]

        assert credential["previous"]["safe_to_revoke"] is True


class TestConcurrentLeases:
    async def test_every_lease_during_a_rotation_is_accounted_for(self, lease_api: LeaseApi) -> None:
        path = await lease_api.save_active_credential()

        leases, *_ = await asyncio.gather(
            asyncio.gather(*(lease_api.lease(ttl_seconds=300) for _ in range(12))),
            rotate_credential(lease_api.admin, path),
        )

        assert {lease.status_code for lease in leases} == {201}
        leases_of_version_1 = [lease for lease in leases if lease.json()["key_version"] == 1]
        previous = await get_previous(lease_api.admin, path)
        assert previous["safe_to_revoke"] is (not leases_of_version_1)
