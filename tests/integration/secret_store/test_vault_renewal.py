"""Tokens of Vault are renewed in time, by the fake's clock; and a real server takes the log-ins and renewals."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.secret_store.vault.client import VaultServer
from app.secret_store.vault.responses import VaultUnavailable
from app.secret_store.vault.roles import VaultRole
from app.secret_store.vault.session import VaultLogin, VaultSession
from tests.fake_vault import ROOT, FakeVault, Token
from tests.integration.secret_store.sessions import LOGIN_PATHS, Clock, ask, refreshed
from tests.integration.secret_store.vaults import Prepared


class TestRenewal:
    async def test_comes_at_two_thirds_of_the_lease(
        self, session: VaultSession, vault_insides: FakeVault, clock: Clock
    ) -> None:
        await ask(session)
        clock.now += 2_399
        await ask(session)
        assert not vault_insides.paths("renew-self")

        clock.now += 2
        await ask(session)

        await refreshed(session)
        assert len(vault_insides.paths("renew-self")) == 1
        assert len(vault_insides.paths(LOGIN_PATHS)) == 1

    async def test_prolongs_the_token(
        self, session: VaultSession, vault_insides: FakeVault, clock: Clock
    ) -> None:
        await ask(session)
        clock.now += 2_401
        await ask(session)
        await refreshed(session)

        clock.now += 2_399
        await ask(session)

        assert len(vault_insides.paths(LOGIN_PATHS)) == 1

    async def test_that_gives_little_more_is_followed_by_a_log_in(
        self, session: VaultSession, vault_insides: FakeVault, clock: Clock
    ) -> None:
        vault_insides.renewed_lease = 600
        await ask(session)
        clock.now += 2_401
        await ask(session)

        await refreshed(session)
        assert len(vault_insides.paths(LOGIN_PATHS)) == 2

    async def test_that_fails_leaves_the_token_in_use_and_is_put_off(
        self, session: VaultSession, vault_insides: FakeVault, clock: Clock
    ) -> None:
        await ask(session)
        vault_insides.answer("renew-self", 500)
        vault_insides.answer(LOGIN_PATHS, 500)
        clock.now += 2_401
        assert (await ask(session)).is_success
        await refreshed(session)

        clock.now += 1
        assert (await ask(session)).is_success
        clock.now += 500
        assert (await ask(session)).is_success

        await refreshed(session)
        assert len(vault_insides.paths("renew-self")) == 2

    async def test_of_a_token_that_cannot_be_renewed_is_a_log_in(
        self, session: VaultSession, vault_insides: FakeVault, clock: Clock
    ) -> None:
        vault_insides.renewable = False
        await ask(session)
        clock.now += 2_401

        await ask(session)

        await refreshed(session)
        assert len(vault_insides.paths(LOGIN_PATHS)) == 2
        assert not vault_insides.paths("renew-self")

    async def test_that_came_too_late_is_a_log_in_before_the_call(
        self, session: VaultSession, vault_insides: FakeVault, clock: Clock
    ) -> None:
        await ask(session)
        clock.now += 3_541  # 59 seconds left

        await ask(session)

        assert vault_insides.paths()[-2:] == ["auth/approle/login", "kv/config"]

    async def test_of_a_given_token_keeps_it(
        self, server: VaultServer, vault_insides: FakeVault, clock: Clock
    ) -> None:
        vault_insides.tokens["given"] = Token(lease=300, renewable=True)
        session = VaultSession(server, VaultLogin(method="token", token="given"), clock=clock)
        await ask(session)
        clock.now += 201

        await ask(session)

        await refreshed(session)
        assert len(vault_insides.paths("renew-self")) == 1
        assert {asked.token for asked in vault_insides.asked} == {"given"}

    async def test_is_not_for_a_token_without_end(
        self, server: VaultServer, vault_insides: FakeVault, clock: Clock
    ) -> None:
        session = VaultSession(server, VaultLogin(method="token", token=ROOT), clock=clock)
        await ask(session)
        clock.now += 1e9

        await ask(session)

        assert vault_insides.paths() == ["auth/token/lookup-self", "kv/config", "kv/config"]


class TestRealServer:
    async def test_renews_a_token_of_approle(self, prepared: Prepared, clock: Clock) -> None:
        server = VaultServer(prepared.address)
        session = VaultSession(server, await prepared.login(VaultRole.WRITER), clock=clock)
        path = f"{prepared.mounts.kv}/config"
        await session.call(lambda vault: vault.read(path))

        clock.now += 2_401
        await session.call(lambda vault: vault.read(path))
        await refreshed(session)
        answer = await session.call(lambda vault: vault.read(path))

        assert answer.is_success
        server.close()

    async def test_logs_in_by_jwt(self, prepared: Prepared, tmp_path: Path) -> None:
        signer, mount = Ed25519PrivateKey.generate(), "jwt"
        public = signer.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        try:
            await prepared.write(f"sys/auth/{mount}", type="jwt")
        except VaultUnavailable:
            pytest.skip("the server given has a JWT mount that is not ours")
        await prepared.write(
            f"auth/{mount}/config", jwt_validation_pubkeys=[public], jwt_supported_algs=["EdDSA"]
        )
        await prepared.write(
            f"auth/{mount}/role/byok",
            role_type="jwt",
            bound_audiences=["vault"],
            user_claim="sub",
            token_policies=[f"{prepared.prefix}-writer"],
        )
        now = datetime.now(UTC)
        claims = {"sub": "byok", "aud": "vault", "iat": now, "exp": now + timedelta(minutes=5)}
        file = tmp_path / "token"
        file.write_text(jwt.encode(claims, signer, algorithm="EdDSA"))

        async with prepared.session(VaultLogin(method="jwt", role="byok", jwt_file=file)) as session:
            answer = await session.call(lambda vault: vault.read(f"{prepared.mounts.kv}/config"))

        await prepared.delete(f"sys/auth/{mount}")
        assert answer.is_success, json.dumps(dict(answer.body))
