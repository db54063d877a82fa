"""Leases: the key in force to an internal service, in a token that opens once, past ourselves."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.secret_store.port import SecretRef
from tests.api.rotating import refusal, rotated, saved, seen, version_states
from tests.api.vaulted import ADDRESS, Vaulted
from tests.conftest import MakeToken, Tenant
from tests.rows import change, fetch


class TestLease:
    async def test_has_what_the_consumer_needs(self, vaulted: Vaulted) -> None:
        path = await vaulted.in_force(workspace_id="wrkspc_1", auth_style="bearer")

        response = await vaulted.lease(ttl_seconds=120)

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
        ((ref, store_version, ttl),) = vaulted.wrapper.wrapped
        assert (ref.organization_id, store_version, ttl) == (vaulted.admin.organization, 1, 120)

    async def test_lasts_a_minute_unless_asked(self, vaulted: Vaulted) -> None:
        await vaulted.in_force()

        await vaulted.lease()

        assert vaulted.wrapper.wrapped[0][2] == 60

    async def test_counts_as_a_use_and_changes_nothing_shown(self, vaulted: Vaulted) -> None:
        path = await vaulted.in_force()
        before = await vaulted.admin.get(path)

        await vaulted.lease()

        after = await vaulted.admin.get(path)
        assert before.json()["last_used_at"] is None
        assert after.json()["last_used_at"] is not None
        assert after.json() | {"last_used_at": None} == before.json()
        assert after.headers["ETag"] == before.headers["ETag"]
        (version,) = (await seen(vaulted.admin, f"{path}/versions"))["data"]
        assert version["last_used_at"] == after.json()["last_used_at"]

    async def test_is_on_the_trail_without_its_token(self, vaulted: Vaulted) -> None:
        path = await vaulted.in_force()
        lease = (await vaulted.lease()).json()

        (event, *_) = (await seen(vaulted.admin, f"{vaulted.admin.path}/audit-events"))["data"]

        assert (event["action"], event["actor"]) == ("credential.leased", "service@example.com")
        assert event["credential_id"] == path.rpartition("/")[2]
        assert event["details"] == {"key_version": 1, "lease_id": lease["lease_id"]}

    async def test_leaves_its_token_nowhere_in_the_database(
        self, vaulted: Vaulted, owner: AsyncEngine
    ) -> None:
        await vaulted.in_force()
        token = (await vaulted.lease()).json()["wrapping_token"]

        tables = await fetch(owner, "SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'")
        for table in tables:
            found = await fetch(
                owner,
                f'SELECT 1 FROM "{table["name"]}" t WHERE position(:token in t::text) > 0',
                token=token,
            )
            assert found == [], table

    async def test_ignores_an_idempotency_key(self, vaulted: Vaulted) -> None:
        await vaulted.in_force()
        url, headers = f"{vaulted.admin.path}/credential-leases", {"Idempotency-Key": "once"}

        answers = [await vaulted.service.post(url, json={}, headers=headers) for _ in range(2)]

        assert len({answer.json()["wrapping_token"] for answer in answers}) == 2

    async def test_after_a_rotation_is_of_the_new_key(self, vaulted: Vaulted) -> None:
        path = await vaulted.in_force()
        await rotated(vaulted.admin, path)

        assert (await vaulted.lease()).json()["key_version"] == 2


class TestRefused:
    async def test_while_managed(self, vaulted: Vaulted) -> None:
        await saved(vaulted.admin)

        assert refusal(await vaulted.lease()) == (409, "mode_is_managed")

    async def test_without_a_key(self, vaulted: Vaulted) -> None:
        await vaulted.admin.request("PUT", f"{vaulted.admin.path}/usage-mode", json={"mode": "byo"})

        response = await vaulted.lease()

        assert refusal(response) == (409, "not_ready")
        assert response.json()["blockers"] == ["credential_missing"]

    async def test_while_disabled(self, vaulted: Vaulted) -> None:
        await vaulted.admin.post(f"{await vaulted.in_force()}/disable")

        response = await vaulted.lease()

        assert (refusal(response), response.json()["blockers"]) == (
            (409, "not_ready"),
            ["credential_disabled"],
        )
        assert vaulted.wrapper.wrapped == []

    async def test_once_deleted(self, vaulted: Vaulted) -> None:
        await vaulted.admin.request("DELETE", await vaulted.in_force(), params={"force": "true"})

        response = await vaulted.lease()

        assert (refusal(response), response.json()["blockers"]) == (
            (409, "not_ready"),
            ["credential_deleted"],
        )

    @pytest.mark.parametrize("body", [{"ttl_seconds": 0}, {"ttl_seconds": 301}, {"ttl": 60}])
    async def test_for_a_body_that_is_none(self, vaulted: Vaulted, body: dict[str, int]) -> None:
        await vaulted.in_force()

        assert (await vaulted.lease(**body)).status_code == 422

    async def test_where_the_store_lost_the_key(self, vaulted: Vaulted) -> None:
        path = await vaulted.in_force()
        credential_id = UUID(path.rpartition("/")[2])
        ref = SecretRef(organization_id=vaulted.admin.organization, credential_id=credential_id)
        await vaulted.wrapper.store.purge(ref)

        assert refusal(await vaulted.lease()) == (409, "not_ready")

    async def test_where_the_store_is_down(self, vaulted: Vaulted) -> None:
        path = await vaulted.in_force()
        vaulted.wrapper.store.unavailable = True

        response = await vaulted.lease()

        assert refusal(response) == (503, "secret_store_unavailable")
        assert (await seen(vaulted.admin, path))["last_used_at"] is None

    async def test_to_tokens_of_one_organization_whatever_their_scopes(
        self, vaulted: Vaulted, make_token: MakeToken
    ) -> None:
        await vaulted.in_force()
        token = make_token("service", vaulted.admin.organization, scopes={"leases:create"})
        bound = replace(vaulted.admin, token=token)

        response = await bound.post(f"{bound.path}/credential-leases", json={})

        assert refusal(response) == (403, "service_only")

    async def test_without_the_scope(self, vaulted: Vaulted, make_token: MakeToken) -> None:
        reader = replace(vaulted.service, token=make_token("service", scopes={"billing:read"}))

        response = await reader.post(f"{vaulted.admin.path}/credential-leases", json={})

        assert refusal(response) == (403, "insufficient_scope")

    async def test_over_the_embedded_store(self, tenant: Tenant, make_token: MakeToken) -> None:
        service = replace(tenant, token=make_token("service"))

        response = await service.post(f"{tenant.path}/credential-leases", json={})

        assert refusal(response) == (501, "lease_requires_vault")


class TestRevoked:
    """Tokens not yet opened go with the key."""

    async def test_with_a_deletion(self, vaulted: Vaulted) -> None:
        path = await vaulted.in_force()
        for _ in range(2):
            await vaulted.lease()

        await vaulted.admin.request("DELETE", path, params={"force": "true"})

        assert sorted(vaulted.wrapper.revoked) == ["accessor-1", "accessor-2"]

    async def test_with_their_version_and_no_other(self, vaulted: Vaulted) -> None:
        path = await vaulted.in_force()
        await vaulted.lease()
        await rotated(vaulted.admin, path)
        await vaulted.lease()
        assert vaulted.wrapper.revoked == []

        await vaulted.admin.post(f"{path}/versions/1/destroy")

        assert vaulted.wrapper.revoked == ["accessor-1"]

    async def test_when_a_leaked_key_is_replaced(self, vaulted: Vaulted) -> None:
        path = await vaulted.in_force()
        await vaulted.lease()

        await rotated(vaulted.admin, path, destroy_previous="immediately")

        assert vaulted.wrapper.revoked == ["accessor-1"]

    async def test_unless_they_expired(self, vaulted: Vaulted, owner: AsyncEngine) -> None:
        path = await vaulted.in_force()
        await vaulted.lease()
        await change(
            owner,
            "UPDATE credential_lease SET expires_at = now() - interval '1 minute' WHERE organization_id = :o",
            o=vaulted.admin.organization,
        )

        await vaulted.admin.request("DELETE", path, params={"force": "true"})

        assert vaulted.wrapper.revoked == []

    async def test_and_refused_when_the_credential_was_disabled_meanwhile(self, vaulted: Vaulted) -> None:
        path = await vaulted.in_force()

        async def disable() -> None:
            await vaulted.admin.post(f"{path}/disable")

        vaulted.wrapper.meanwhile = [disable]

        response = await vaulted.lease()

        assert (refusal(response), response.json()["blockers"]) == (
            (409, "not_ready"),
            ["credential_disabled"],
        )
        assert vaulted.wrapper.revoked == ["accessor-1"]
        assert (await seen(vaulted.admin, path))["last_used_at"] is None

    async def test_and_refused_when_the_credential_was_deleted_meanwhile(self, vaulted: Vaulted) -> None:
        path = await vaulted.in_force()

        async def delete() -> None:
            await vaulted.admin.request("DELETE", path, params={"force": "true"})

        vaulted.wrapper.meanwhile = [delete]

        response = await vaulted.lease()

        assert refusal(response) == (409, "not_ready")
        assert vaulted.wrapper.revoked == ["accessor-1"]


class TestReplacedMeanwhile:
    """A key that is replaced while it is being wrapped is not handed out: its successor is."""

    @pytest.mark.parametrize("activate", ["when_valid", "immediately"])
    @pytest.mark.parametrize("destroy_previous", ["after_retention", "immediately"])
    async def test_gives_the_new_one(self, vaulted: Vaulted, activate: str, destroy_previous: str) -> None:
        path = await vaulted.in_force()

        async def rotate() -> None:
            await rotated(vaulted.admin, path, activate=activate, destroy_previous=destroy_previous)

        vaulted.wrapper.meanwhile = [rotate]

        response = await vaulted.lease()

        assert (response.status_code, response.json()["key_version"]) == (201, 2)
        assert response.json()["wrapping_token"] == "hvs.token-of-lease-2"
        assert vaulted.wrapper.revoked == ["accessor-1"]
        states = {1: "previous" if destroy_previous == "after_retention" else "destroyed", 2: "active"}
        assert await version_states(vaulted.admin, path) == states

    async def test_gives_the_new_one_where_the_old_one_was_destroyed_before_it_was_wrapped(
        self, vaulted: Vaulted
    ) -> None:
        path = await vaulted.in_force()

        async def replace_at_once() -> None:
            await rotated(vaulted.admin, path, destroy_previous="immediately")

        vaulted.wrapper.beforehand = [replace_at_once]

        response = await vaulted.lease()

        assert (response.status_code, response.json()["key_version"]) == (201, 2)
        assert vaulted.wrapper.revoked == []

    async def test_gives_up_where_it_never_ends(self, vaulted: Vaulted) -> None:
        path = await vaulted.in_force()

        async def rotate() -> None:
            await rotated(vaulted.admin, path)

        vaulted.wrapper.meanwhile = [rotate] * 10

        response = await vaulted.lease()

        assert refusal(response) == (409, "concurrent_change")
        assert vaulted.wrapper.revoked == [f"accessor-{number}" for number in range(1, 5)]
        assert (await seen(vaulted.admin, path))["last_used_at"] is None


class TestMany:
    async def test_are_all_revoked(self, vaulted: Vaulted) -> None:
        path = await vaulted.in_force()
        for _ in range(20):
            await vaulted.lease()

        await vaulted.admin.request("DELETE", path, params={"force": "true"})

        assert sorted(vaulted.wrapper.revoked) == sorted(f"accessor-{number}" for number in range(1, 21))
