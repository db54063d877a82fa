"""Whether the key before may be revoked at the provider: what leases, checks and reported uses do to it."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.usage.last_used_repository import KeyLastUsedRepository
from tests.api.rotating import rotated, saved, seen
from tests.api.vaulted import Vaulted
from tests.conftest import Tenant
from tests.fake_anthropic import FakeAnthropic
from tests.rows import change
from tests.waiting import until


async def previous_of(tenant: Tenant, path: str) -> dict[str, Any]:
    found: dict[str, Any] = (await seen(tenant, path))["previous"]
    return found


async def let_leases_expire(owner: AsyncEngine, tenant: Tenant) -> None:
    for table, column in (("credential_version", "leased_until"), ("credential_lease", "expires_at")):
        await change(
            owner,
            f"UPDATE {table} SET {column} = now() - interval '1 second' WHERE organization_id = :o",
            o=tenant.organization,
        )


async def report_use(
    database: Database, tenant: Tenant, path: str, key_version: int, *, at: datetime
) -> None:
    """As whoever takes in usage events does it."""
    async with UnitsOfWork(database).writing(tenant.organization) as uow:
        await uow[KeyLastUsedRepository].note({(UUID(path.rpartition("/")[2]), key_version): at})
        await uow.commit()


class TestSafeToRevoke:
    async def test_from_the_switch_on_where_nobody_used_it(self, tenant: Tenant) -> None:
        path = await saved(tenant)
        await rotated(tenant, path)

        previous = await previous_of(tenant, path)

        assert (previous["safe_to_revoke"], previous["last_used_at"]) == (True, None)

    async def test_once_the_last_lease_has_expired(self, vaulted: Vaulted, owner: AsyncEngine) -> None:
        path = await vaulted.in_force()
        await vaulted.lease()
        await rotated(vaulted.admin, path)

        during = await previous_of(vaulted.admin, path)
        await let_leases_expire(owner, vaulted.admin)
        after = await previous_of(vaulted.admin, path)

        assert (during["safe_to_revoke"], after["safe_to_revoke"]) == (False, True)
        assert during["last_used_at"] == after["last_used_at"] is not None

    async def test_whatever_is_leased_of_the_new_one(self, vaulted: Vaulted) -> None:
        path = await vaulted.in_force()
        await rotated(vaulted.admin, path)
        await vaulted.lease()

        assert (await previous_of(vaulted.admin, path))["safe_to_revoke"] is True

    async def test_not_while_a_check_of_it_is_under_way(
        self, tenant: Tenant, thinking_provider: FakeAnthropic
    ) -> None:
        path = await saved(tenant, "slow", headers={"Prefer": "respond-async"})
        await rotated(tenant, path, activate="immediately")

        during = await previous_of(tenant, path)
        thinking_provider.release.set()
        after = await until(lambda: previous_of(tenant, path), lambda found: bool(found["safe_to_revoke"]))

        assert (during["safe_to_revoke"], after["safe_to_revoke"]) == (False, True)

    async def test_not_once_a_later_use_is_reported(self, tenant: Tenant, database: Database) -> None:
        path = await saved(tenant)
        await rotated(tenant, path)
        instant = datetime.now(UTC)

        await report_use(database, tenant, path, 1, at=instant)

        previous = await previous_of(tenant, path)
        assert previous["safe_to_revoke"] is False
        assert datetime.fromisoformat(previous["last_used_at"]) == instant

    async def test_after_uses_of_before_that_are_reported_late(
        self, tenant: Tenant, database: Database
    ) -> None:
        path = await saved(tenant)
        instant = datetime.now(UTC)
        await rotated(tenant, path)

        await report_use(database, tenant, path, 1, at=instant - timedelta(hours=1))
        await report_use(database, tenant, path, 1, at=instant)
        await report_use(database, tenant, path, 1, at=instant - timedelta(minutes=1))

        previous = await previous_of(tenant, path)
        assert previous["safe_to_revoke"] is True
        assert datetime.fromisoformat(previous["last_used_at"]) == instant

    async def test_counts_from_the_last_time_it_was_replaced(
        self, tenant: Tenant, database: Database
    ) -> None:
        path = await saved(tenant)
        await rotated(tenant, path)
        await tenant.post(f"{path}/rollback")  # version 1 again, and version 2 is the previous
        await report_use(database, tenant, path, 1, at=datetime.now(UTC))
        assert (await previous_of(tenant, path))["safe_to_revoke"] is True

        await rotated(tenant, path)  # version 1 is the previous once more

        previous = await previous_of(tenant, path)
        assert (previous["key_version"], previous["safe_to_revoke"]) == (1, True)

    async def test_not_once_it_is_used_right_after_a_use_of_before(
        self, tenant: Tenant, database: Database
    ) -> None:
        path = await saved(tenant)
        before = datetime.now(UTC)
        await rotated(tenant, path)
        await report_use(database, tenant, path, 1, at=before)

        await report_use(database, tenant, path, 1, at=datetime.now(UTC))

        assert (await previous_of(tenant, path))["safe_to_revoke"] is False

    async def test_leaves_the_etag_alone(self, tenant: Tenant, database: Database) -> None:
        path = await saved(tenant)
        await rotated(tenant, path)
        before = (await tenant.get(path)).headers["ETag"]

        await report_use(database, tenant, path, 1, at=datetime.now(UTC))

        assert (await tenant.get(path)).headers["ETag"] == before

    async def test_is_said_in_lists_too(self, tenant: Tenant) -> None:
        path = await saved(tenant)
        await rotated(tenant, path)

        (credential,) = (await seen(tenant, tenant.credentials))["data"]

        assert credential["previous"]["safe_to_revoke"] is True


class TestLeasesAndSwitches:
    async def test_at_the_same_time_never_leave_a_lease_unaccounted_for(self, vaulted: Vaulted) -> None:
        path = await vaulted.in_force()

        leases, *_ = await asyncio.gather(
            asyncio.gather(*(vaulted.lease(ttl_seconds=300) for _ in range(12))),
            rotated(vaulted.admin, path),
        )

        assert {lease.status_code for lease in leases} == {201}
        of_the_first = [lease for lease in leases if lease.json()["key_version"] == 1]
        previous = await previous_of(vaulted.admin, path)
        assert previous["safe_to_revoke"] is (not of_the_first)
