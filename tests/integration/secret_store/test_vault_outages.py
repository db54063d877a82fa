"""A real server fails: sealed, gone, without its mounts, permissions, tokens or roles."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from app.secret_store.port import SecretRef
from app.secret_store.vault.responses import VaultReason
from app.secret_store.vault.roles import VaultRole
from tests.integration.secret_store.calls import CALLS, Call, every_call, reason_of
from tests.integration.secret_store.keys import make_key, write
from tests.integration.secret_store.server import dev_server, is_there
from tests.integration.secret_store.vaults import Prepared, prepared_vault


@pytest.fixture
async def own_vault() -> AsyncIterator[Prepared]:
    """A real server that a test may break."""
    if not is_there():
        pytest.skip("needs a real Vault or OpenBao")
    with dev_server() as server:
        async with prepared_vault(server.address, server.token) as prepared:
            yield prepared


class TestRealServer:
    @every_call
    async def test_that_is_sealed_fails_every_call(
        self, own_vault: Prepared, ref: SecretRef, call: Call
    ) -> None:
        async with own_vault.store(await own_vault.logins()) as store:
            await write(store, ref)
            await own_vault.write("sys/seal")

            assert await reason_of(call(store, ref)) is VaultReason.SEALED

    async def test_whose_mounts_are_gone_says_so(self, own_vault: Prepared, ref: SecretRef) -> None:
        async with own_vault.store(await own_vault.logins()) as store:
            await write(store, ref)
            for mount in (own_vault.mounts.kv, own_vault.mounts.transit):
                await own_vault.delete(f"sys/mounts/{mount}")

            assert await reason_of(store.read(ref, 1)) is VaultReason.MOUNT_MISSING
            assert await reason_of(store.fingerprint("org_a", make_key())) is VaultReason.MOUNT_MISSING
            assert await reason_of(store.ping()) is VaultReason.MOUNT_MISSING

    async def test_that_was_never_set_up_says_so(self, own_vault: Prepared) -> None:
        async with own_vault.store() as store:
            await own_vault.write(f"{own_vault.mounts.transit}/keys/ping/config", deletion_allowed=True)
            await own_vault.delete(f"{own_vault.mounts.transit}/keys/ping")

            assert await reason_of(store.ping()) is VaultReason.NOT_SET_UP

    async def test_that_takes_a_permission_away_says_so(self, own_vault: Prepared, ref: SecretRef) -> None:
        async with own_vault.store(await own_vault.logins()) as store:
            await write(store, ref)
            own_token = 'path "auth/token/lookup-self" { capabilities = ["read"] }'
            await own_vault.write(f"sys/policies/acl/{own_vault.prefix}-prober", policy=own_token)

            assert await reason_of(store.read(ref, 1)) is VaultReason.PERMISSION_DENIED
            assert await store.current_version(ref) == 1

    async def test_that_revokes_tokens_is_logged_in_to_again(
        self, own_vault: Prepared, ref: SecretRef
    ) -> None:
        async with own_vault.store(await own_vault.logins()) as store:
            key = await write(store, ref)
            await store.read(ref, 1)
            await own_vault.write("sys/leases/revoke-prefix/auth/approle/login")

            assert await store.read(ref, 1) == key

    async def test_that_drops_the_role_refuses_the_log_in(self, own_vault: Prepared, ref: SecretRef) -> None:
        async with own_vault.store(await own_vault.logins()) as store:
            await write(store, ref)
            await store.read(ref, 1)
            await own_vault.delete(f"auth/approle/role/{own_vault.prefix}-{VaultRole.PROBER}")
            await own_vault.write("sys/leases/revoke-prefix/auth/approle/login")

            assert await reason_of(store.read(ref, 1)) is VaultReason.LOGIN_REFUSED

    async def test_that_goes_away_in_the_middle_fails_and_says_so(self, ref: SecretRef) -> None:
        if not is_there():
            pytest.skip("needs a real Vault or OpenBao")
        async with AsyncExitStack() as stack:
            with dev_server() as server:
                vault = await stack.enter_async_context(prepared_vault(server.address, server.token))
                store = await stack.enter_async_context(vault.store())
                await write(store, ref)

            for call in CALLS.values():
                assert await reason_of(call(store, ref)) is VaultReason.UNREACHABLE
