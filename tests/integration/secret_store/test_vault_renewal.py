"""Vault tokens are renewed before they expire, by a clock that the test advances. A real server accepts the requests."""

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
from tests.support.vault.fake import ROOT, FakeVault, Token
from tests.support.vault.prepared import PreparedVault
from tests.support.vault.sessions import LOGIN_PATHS, Clock, read_config, wait_for_refresh


class TestRenewal:
    async def test_starts_after_two_thirds_of_the_ttl(
        self, session: VaultSession, configured_fake: FakeVault, clock: Clock
    ) -> None:
        await read_config(session)
        clock.now += 2_399
        await read_config(session)
        assert not configured_fake.requested_paths("renew-self")

        clock.now += 2
        await read_config(session)

        await wait_for_refresh(session)
        assert len(configured_fake.requested_paths("renew-self")) == 1
        assert len(configured_fake.requested_paths(LOGIN_PATHS)) == 1

    async def test_extends_the_token(
        self, session: VaultSession, configured_fake: FakeVault, clock: Clock
    ) -> None:
        await read_config(session)
        clock.now += 2_401
        await read_config(session)
        await wait_for_refresh(session)

        clock.now += 2_399
        await read_config(session)

        assert len(configured_fake.requested_paths(LOGIN_PATHS)) == 1

    async def test_that_adds_little_is_followed_by_a_login(
        self, session: VaultSession, configured_fake: FakeVault, clock: Clock
    ) -> None:
        configured_fake.renewed_lease = 600
        await read_config(session)
        clock.now += 2_401
        await read_config(session)

        await wait_for_refresh(session)
        assert len(configured_fake.requested_paths(LOGIN_PATHS)) == 2

    async def test_that_fails_keeps_the_token_and_is_retried_later(
        self, session: VaultSession, configured_fake: FakeVault, clock: Clock
    ) -> None:
        await read_config(session)
        configured_fake.script_response("renew-self", 500)
        configured_fake.script_response(LOGIN_PATHS, 500)
        clock.now += 2_401
        assert (await read_config(session)).is_success
        await wait_for_refresh(session)

        clock.now += 1
        assert (await read_config(session)).is_success
        clock.now += 500
        assert (await read_config(session)).is_success

        await wait_for_refresh(session)
        assert len(configured_fake.requested_paths("renew-self")) == 2

    async def test_of_a_token_that_is_not_renewable_is_a_login(
        self, session: VaultSession, configured_fake: FakeVault, clock: Clock
    ) -> None:
        configured_fake.renewable = False
        await read_config(session)
        clock.now += 2_401

        await read_config(session)

        await wait_for_refresh(session)
        assert len(configured_fake.requested_paths(LOGIN_PATHS)) == 2
        assert not configured_fake.requested_paths("renew-self")

    async def test_that_is_too_late_is_a_login_before_the_call(
        self, session: VaultSession, configured_fake: FakeVault, clock: Clock
    ) -> None:
        await read_config(session)
        clock.now += 3_541  # 59 seconds left

        await read_config(session)

        assert configured_fake.requested_paths()[-2:] == ["auth/approle/login", "kv/config"]

    async def test_of_a_configured_token_keeps_it(
        self, server: VaultServer, configured_fake: FakeVault, clock: Clock
    ) -> None:
        configured_fake.tokens["given"] = Token(lease=300, renewable=True)
        session = VaultSession(server, VaultLogin(method="token", token="given"), clock=clock)
        await read_config(session)
        clock.now += 201

        await read_config(session)

        await wait_for_refresh(session)
        assert len(configured_fake.requested_paths("renew-self")) == 1
        assert {request.token for request in configured_fake.received} == {"given"}

    async def test_is_skipped_for_a_token_without_ttl(
        self, server: VaultServer, configured_fake: FakeVault, clock: Clock
    ) -> None:
        session = VaultSession(server, VaultLogin(method="token", token=ROOT), clock=clock)
        await read_config(session)
        clock.now += 1e9

        await read_config(session)

        assert configured_fake.requested_paths() == ["auth/token/lookup-self", "kv/config", "kv/config"]


class TestRealServer:
    async def test_renews_an_approle_token(self, real_vault: PreparedVault, clock: Clock) -> None:
        server = VaultServer(real_vault.address)
        session = VaultSession(server, await real_vault.login(VaultRole.WRITER), clock=clock)
        path = f"{real_vault.mounts.kv}/config"
        await session.call(lambda vault: vault.read(path))

        clock.now += 2_401
        await session.call(lambda vault: vault.read(path))
        await wait_for_refresh(session)
        response = await session.call(lambda vault: vault.read(path))

        assert response.is_success
        server.close()

    async def test_logs_in_by_jwt(self, real_vault: PreparedVault, tmp_path: Path) -> None:
        signer, mount = Ed25519PrivateKey.generate(), "jwt"
        public = signer.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        try:
            await real_vault.write(f"sys/auth/{mount}", type="jwt")
        except VaultUnavailable:
            pytest.skip("the given server already has another JWT mount")
        await real_vault.write(
            f"auth/{mount}/config", jwt_validation_pubkeys=[public], jwt_supported_algs=["EdDSA"]
        )
        await real_vault.write(
            f"auth/{mount}/role/byok",
            role_type="jwt",
            bound_audiences=["vault"],
            user_claim="sub",
            token_policies=[f"{real_vault.prefix}-writer"],
        )
        now = datetime.now(UTC)
        claims = {"sub": "byok", "aud": "vault", "iat": now, "exp": now + timedelta(minutes=5)}
        file = tmp_path / "token"
        file.write_text(jwt.encode(claims, signer, algorithm="EdDSA"))

        async with real_vault.session(VaultLogin(method="jwt", role="byok", jwt_file=file)) as session:
            response = await session.call(lambda vault: vault.read(f"{real_vault.mounts.kv}/config"))

        await real_vault.delete(f"sys/auth/{mount}")
        assert response.is_success, json.dumps(dict(response.body))
