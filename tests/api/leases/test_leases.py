"""Leases of the active key: creation, refusals and revocation."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.secret_store.port import SecretRef
from tests.support.database.rows import change, fetch
from tests.support.requests.rotation import (
    create_credential,
    get_json,
    rotate_credential,
    status_and_code,
    version_states,
)
from tests.support.tenant import MakeToken, Tenant
from tests.support.vault.lease_service import ADDRESS, LeaseApi


class TestCreateLease:
    async def test_has_what_the_consumer_needs(self, lease_api: LeaseApi) -> None:
        path = await lease_api.save_active_credential(workspace_id="wrkspc_1", auth_style="bearer")

        response = await lease_api.lease(ttl_seconds=120)

        assert response.status_code == 201
        lease = response.json()
        expires_at = datetime.fromisoformat(lease.pop("expires_at"))
        assert timedelta(seconds=60) < expires_at - datetime.now(UTC) <= timedelta(seconds=120)
        assert lease.pop("lease_id")
        assert lease == {
            "wrapping_token": "hvs.token-of-lease-1",
            "vault_address": ADDRESS,
            "creation_path": "transit/decrypt/x",
            "encoding": "base64",
            "credential_id": path.rpartition("/")[2],
            "key_version": 1,
            "messages_url": "https://api.anthropic.com/v1/messages",
            "auth_style": "bearer",
            "workspace_id": "wrkspc_1",
            "usage_mode": "byo",
        }
        assert response.headers["Cache-Control"] == "no-store"
        ((ref, store_version, ttl),) = lease_api.wrapper.wrapped
        assert (ref.organization_id, store_version, ttl) == (lease_api.admin.organization, 1, 120)

    async def test_lasts_60_seconds_by_default(self, lease_api: LeaseApi) -> None:
        await lease_api.save_active_credential()

        await lease_api.lease()

        assert lease_api.wrapper.wrapped[0][2] == 60

    async def test_counts_as_a_use_without_changing_the_credential(self, lease_api: LeaseApi) -> None:
        path = await lease_api.save_active_credential()
        before = await lease_api.admin.get(path)

        await lease_api.lease()

        after = await lease_api.admin.get(path)
        assert before.json()["last_used_at"] is None
        assert after.json()["last_used_at"] is not None
        assert after.json() | {"last_used_at": None} == before.json()
        assert after.headers["ETag"] == before.headers["ETag"]
        (version,) = (await get_json(lease_api.admin, f"{path}/versions"))["data"]
        assert version["last_used_at"] == after.json()["last_used_at"]

    async def test_is_in_the_audit_log_without_its_token(self, lease_api: LeaseApi) -> None:
        path = await lease_api.save_active_credential()
        lease = (await lease_api.lease()).json()

        (event, *_) = (await get_json(lease_api.admin, f"{lease_api.admin.path}/audit-events"))["data"]

        assert (event["action"], event["actor"]) == ("credential.leased", "service@example.com")
        assert event["credential_id"] == path.rpartition("/")[2]
        assert event["details"] == {"key_version": 1, "lease_id": lease["lease_id"]}

    async def test_does_not_store_the_token(self, lease_api: LeaseApi, superuser: AsyncEngine) -> None:
        await lease_api.save_active_credential()
        token = (await lease_api.lease()).json()["wrapping_token"]

        tables = await fetch(superuser, "SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'")
        for table in tables:
            found = await fetch(
                superuser,
                f'SELECT 1 FROM "{table["name"]}" t WHERE position(:token in t::text) > 0',
                token=token,
            )
            assert found == [], table

    async def test_ignores_an_idempotency_key(self, lease_api: LeaseApi) -> None:
        await lease_api.save_active_credential()
        url, headers = f"{lease_api.admin.path}/credential-leases", {"Idempotency-Key": "once"}

        responses = [await lease_api.service.post(url, json={}, headers=headers) for _ in range(2)]

        assert len({response.json()["wrapping_token"] for response in responses}) == 2

    async def test_after_a_rotation_leases_the_new_key(self, lease_api: LeaseApi) -> None:
        path = await lease_api.save_active_credential()
        await rotate_credential(lease_api.admin, path)

        assert (await lease_api.lease()).json()["key_version"] == 2


class TestCreateLeaseRefused:
    async def test_while_managed(self, lease_api: LeaseApi) -> None:
        await create_credential(lease_api.admin)

        assert status_and_code(await lease_api.lease()) == (409, "mode_is_managed")

    async def test_without_a_key(self, lease_api: LeaseApi) -> None:
        await lease_api.admin.request("PUT", f"{lease_api.admin.path}/usage-mode", json={"mode": "byo"})

        response = await lease_api.lease()

        assert status_and_code(response) == (409, "not_ready")
        assert response.json()["blockers"] == ["credential_missing"]

    async def test_while_disabled(self, lease_api: LeaseApi) -> None:
        await lease_api.admin.post(f"{await lease_api.save_active_credential()}/disable")

        response = await lease_api.lease()

        assert (status_and_code(response), response.json()["blockers"]) == (
            (409, "not_ready"),
            ["credential_disabled"],
        )
        assert lease_api.wrapper.wrapped == []

    async def test_once_deleted(self, lease_api: LeaseApi) -> None:
        await lease_api.admin.request(
            "DELETE", await lease_api.save_active_credential(), params={"force": "true"}
        )

        response = await lease_api.lease()

        assert (status_and_code(response), response.json()["blockers"]) == (
            (409, "not_ready"),
            ["credential_deleted"],
        )

    @pytest.mark.parametrize("body", [{"ttl_seconds": 0}, {"ttl_seconds": 301}, {"ttl": 60}])
    async def test_with_an_invalid_body(self, lease_api: LeaseApi, body: dict[str, int]) -> None:
        await lease_api.save_active_credential()

        assert (await lease_api.lease(**body)).status_code == 422

    async def test_if_the_store_has_lost_the_key(self, lease_api: LeaseApi) -> None:
        path = await lease_api.save_active_credential()
        credential_id = UUID(path.rpartition("/")[2])
        ref = SecretRef(organization_id=lease_api.admin.organization, credential_id=credential_id)
        await lease_api.wrapper.store.destroy_all(ref)

        assert status_and_code(await lease_api.lease()) == (409, "not_ready")

    async def test_if_the_store_is_unavailable(self, lease_api: LeaseApi) -> None:
        path = await lease_api.save_active_credential()
        lease_api.wrapper.store.unavailable = True

        response = await lease_api.lease()

        assert status_and_code(response) == (503, "secret_store_unavailable")
        assert (await get_json(lease_api.admin, path))["last_used_at"] is None

    async def test_to_tokens_of_one_organization_with_any_scope(
        self, lease_api: LeaseApi, make_token: MakeToken
    ) -> None:
        await lease_api.save_active_credential()
        token = make_token("service", lease_api.admin.organization, scopes={"leases:create"})
        bound = replace(lease_api.admin, token=token)

        response = await bound.post(f"{bound.path}/credential-leases", json={})

        assert status_and_code(response) == (403, "service_only")

    async def test_without_the_scope(self, lease_api: LeaseApi, make_token: MakeToken) -> None:
        reader = replace(lease_api.service, token=make_token("service", scopes={"billing:read"}))

        response = await reader.post(f"{lease_api.admin.path}/credential-leases", json={})

        assert status_and_code(response) == (403, "insufficient_scope")

    async def test_over_the_embedded_store(self, tenant: Tenant, make_token: MakeToken) -> None:
        service = replace(tenant, token=make_token("service"))

        response = await service.post(f"{tenant.path}/credential-leases", json={})

        assert status_and_code(response) == (501, "lease_requires_vault")


class TestRevocation:
    """When a key is destroyed, its unopened wrapping tokens are revoked."""

    async def test_with_the_credential(self, lease_api: LeaseApi) -> None:
        path = await lease_api.save_active_credential()
        for _ in range(2):
            await lease_api.lease()

        await lease_api.admin.request("DELETE", path, params={"force": "true"})

        assert sorted(lease_api.wrapper.revoked) == ["accessor-1", "accessor-2"]

    async def test_only_with_their_own_version(self, lease_api: LeaseApi) -> None:
        path = await lease_api.save_active_credential()
        await lease_api.lease()
        await rotate_credential(lease_api.admin, path)
        await lease_api.lease()
        assert lease_api.wrapper.revoked == []

        await lease_api.admin.post(f"{path}/versions/1/destroy")

        assert lease_api.wrapper.revoked == ["accessor-1"]

    async def test_when_a_leaked_key_is_replaced(self, lease_api: LeaseApi) -> None:
        path = await lease_api.save_active_credential()
        await lease_api.lease()

        await rotate_credential(lease_api.admin, path, destroy_previous="immediately")

        assert lease_api.wrapper.revoked == ["accessor-1"]

    async def test_skips_expired_leases(self, lease_api: LeaseApi, superuser: AsyncEngine) -> None:
        path = await lease_api.save_active_credential()
        await lease_api.lease()
        await change(
            superuser,
            "UPDATE credential_lease SET expires_at = now() - interval '1 minute' WHERE organization_id = :o",
            o=lease_api.admin.organization,
        )

        await lease_api.admin.request("DELETE", path, params={"force": "true"})

        assert lease_api.wrapper.revoked == []

    async def test_and_refusal_if_the_credential_is_disabled_during_the_lease(
        self, lease_api: LeaseApi
    ) -> None:
        path = await lease_api.save_active_credential()

        async def disable() -> None:
            await lease_api.admin.post(f"{path}/disable")

        lease_api.wrapper.after_wrapping = [disable]

        response = await lease_api.lease()

        assert (status_and_code(response), response.json()["blockers"]) == (
            (409, "not_ready"),
            ["credential_disabled"],
        )
        assert lease_api.wrapper.revoked == ["accessor-1"]
        assert (await get_json(lease_api.admin, path))["last_used_at"] is None

    async def test_and_refusal_if_the_credential_is_deleted_during_the_lease(
        self, lease_api: LeaseApi
    ) -> None:
        path = await lease_api.save_active_credential()

        async def delete() -> None:
            await lease_api.admin.request("DELETE", path, params={"force": "true"})

        lease_api.wrapper.after_wrapping = [delete]

        response = await lease_api.lease()

        assert status_and_code(response) == (409, "not_ready")
        assert lease_api.wrapper.revoked == ["accessor-1"]


class TestReplacementDuringTheLease:
    """If the key is replaced while it is being wrapped, its successor is leased."""

    @pytest.mark.parametrize("activate", ["when_valid", "immediately"])
    @pytest.mark.parametrize("destroy_previous", ["after_retention", "immediately"])
    async def test_leases_the_new_key(
        self, lease_api: LeaseApi, activate: str, destroy_previous: str
    ) -> None:
        path = await lease_api.save_active_credential()

        async def rotate() -> None:
            await rotate_credential(
                lease_api.admin, path, activate=activate, destroy_previous=destroy_previous
            )

        lease_api.wrapper.after_wrapping = [rotate]

        response = await lease_api.lease()

        assert (response.status_code, response.json()["key_version"]) == (201, 2)
        assert response.json()["wrapping_token"] == "hvs.token-of-lease-2"
        assert lease_api.wrapper.revoked == ["accessor-1"]
        states = {1: "previous" if destroy_previous == "after_retention" else "destroyed", 2: "active"}
        assert await version_states(lease_api.admin, path) == states

    async def test_leases_the_new_key_if_the_old_one_was_destroyed_before_wrapping(
        self, lease_api: LeaseApi
    ) -> None:
        path = await lease_api.save_active_credential()

        async def replace_at_once() -> None:
            await rotate_credential(lease_api.admin, path, destroy_previous="immediately")

        lease_api.wrapper.before_wrapping = [replace_at_once]

        response = await lease_api.lease()

        assert (response.status_code, response.json()["key_version"]) == (201, 2)
        assert lease_api.wrapper.revoked == []

    async def test_is_refused_after_four_attempts(self, lease_api: LeaseApi) -> None:
        path = await lease_api.save_active_credential()

        async def rotate() -> None:
            await rotate_credential(lease_api.admin, path)

        lease_api.wrapper.after_wrapping = [rotate] * 10

        response = await lease_api.lease()

        assert status_and_code(response) == (409, "concurrent_change")
        assert lease_api.wrapper.revoked == [f"accessor-{number}" for number in range(1, 5)]
        assert (await get_json(lease_api.admin, path))["last_used_at"] is None


class TestManyLeases:
    async def test_are_all_revoked(self, lease_api: LeaseApi) -> None:
        path = await lease_api.save_active_credential()
        for _ in range(20):
            await lease_api.lease()

        await lease_api.admin.request("DELETE", path, params={"force": "true"})

        assert sorted(lease_api.wrapper.revoked) == sorted(f"accessor-{number}" for number in range(1, 21))
