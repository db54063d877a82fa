"""Failures of a real Vault: the server is sealed or shut down, or lacks mounts, permissions, tokens or roles."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from app.secret_store.port import SecretRef
from app.secret_store.vault.responses import VaultReason
from app.secret_store.vault.roles import VaultRole
from tests.support.credentials.sample_keys import make_key, write
from tests.support.vault.prepared import PreparedVault, prepared_vault
from tests.support.vault.real_server import dev_server, is_real_vault_available
from tests.support.vault.store_calls import CALLS, Call, every_call, reason_of


@pytest.fixture
async def breakable_vault() -> AsyncIterator[PreparedVault]:
    """A real server that a test may break."""
    if not is_real_vault_available():
        pytest.skip("needs a real Vault or OpenBao")
    with dev_server() as server:
        async with prepared_vault(server.address, server.token) as prepared:
            yield prepared


class TestRealServer:
    @every_call
    async def test_fails_every_call_with_the_same_reason(
        self, breakable_vault: PreparedVault, ref: SecretRef, call: Call
    ) -> None:
        async with breakable_vault.store(await breakable_vault.logins()) as store:
            await write(store, ref)
            await breakable_vault.write("sys/seal")

            assert await reason_of(call(store, ref)) is VaultReason.SEALED

    async def test_without_mounts_reports_mount_missing(
        self, breakable_vault: PreparedVault, ref: SecretRef
    ) -> None:
        async with breakable_vault.store(await breakable_vault.logins()) as store:
            await write(store, ref)
            for mount in (breakable_vault.mounts.kv, breakable_vault.mounts.transit):
                await breakable_vault.delete(f"sys/mounts/{mount}")

            assert await reason_of(store.read(ref, 1)) is VaultReason.MOUNT_MISSING
            assert await reason_of(store.fingerprint("org_a", make_key())) is VaultReason.MOUNT_MISSING
            assert await reason_of(store.ping()) is VaultReason.MOUNT_MISSING

    async def test_without_setup_reports_not_set_up(self, breakable_vault: PreparedVault) -> None:
        async with breakable_vault.store() as store:
            await breakable_vault.write(
                f"{breakable_vault.mounts.transit}/keys/ping/config", deletion_allowed=True
            )
            await breakable_vault.delete(f"{breakable_vault.mounts.transit}/keys/ping")

            assert await reason_of(store.ping()) is VaultReason.NOT_SET_UP

    async def test_without_permission_reports_permission_denied(
        self, breakable_vault: PreparedVault, ref: SecretRef
    ) -> None:
        async with breakable_vault.store(await breakable_vault.logins()) as store:
            await write(store, ref)
            own_token = 'path "auth/token/lookup-self" { capabilities = ["read"] }'
            await breakable_vault.write(f"sys/policies/acl/{breakable_vault.prefix}-prober", policy=own_token)

            assert await reason_of(store.read(ref, 1)) is VaultReason.PERMISSION_DENIED
            assert await store.current_version(ref) == 1

    async def test_after_a_revocation_logs_in_again(
        self, breakable_vault: PreparedVault, ref: SecretRef
    ) -> None:
        async with breakable_vault.store(await breakable_vault.logins()) as store:
            key = await write(store, ref)
            await store.read(ref, 1)
            await breakable_vault.write("sys/leases/revoke-prefix/auth/approle/login")

            assert await store.read(ref, 1) == key

    async def test_without_the_role_reports_login_refused(
        self, breakable_vault: PreparedVault, ref: SecretRef
    ) -> None:
        async with breakable_vault.store(await breakable_vault.logins()) as store:
            await write(store, ref)
            await store.read(ref, 1)
            await breakable_vault.delete(f"auth/approle/role/{breakable_vault.prefix}-{VaultRole.PROBER}")
            await breakable_vault.write("sys/leases/revoke-prefix/auth/approle/login")

            assert await reason_of(store.read(ref, 1)) is VaultReason.LOGIN_REFUSED

    async def test_after_a_shutdown_reports_unreachable(self, ref: SecretRef) -> None:
        if not is_real_vault_available():
            pytest.skip("needs a real Vault or OpenBao")
        async with AsyncExitStack() as stack:
            with dev_server() as server:
                vault = await stack.enter_async_context(prepared_vault(server.address, server.token))
                store = await stack.enter_async_context(vault.store())
                await write(store, ref)

            for call in CALLS.values():
                assert await reason_of(call(store, ref)) is VaultReason.UNREACHABLE
