"""Login to Vault: each method, one login for concurrent calls, and the trusted certificates."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

from app.secret_store.vault.client import VaultServer
from app.secret_store.vault.responses import VaultReason, VaultUnavailable
from app.secret_store.vault.session import VaultLogin, VaultSession
from tests.support.vault.fake import ROOT, FakeVault, Token, serve
from tests.support.vault.sessions import (
    APPROLE,
    LOGIN_PATHS,
    failure_reason,
    read_config,
    wait_until_received,
)


class TestLogin:
    async def test_by_approle_uses_the_new_token(
        self, session: VaultSession, configured_fake: FakeVault
    ) -> None:
        await read_config(session)
        await read_config(session)

        assert configured_fake.requested_paths() == ["auth/approle/login", "kv/config", "kv/config"]
        assert configured_fake.received[1].token in configured_fake.tokens

    @pytest.mark.parametrize("method", ["kubernetes", "jwt"])
    async def test_by_jwt_reads_the_file_at_every_login(
        self, server: VaultServer, configured_fake: FakeVault, tmp_path: Path, method: str
    ) -> None:
        file = tmp_path / "token"
        file.write_text("first\n")
        configured_fake.logins["byok"] = "first"
        session = VaultSession(server, VaultLogin(method=method, role="byok", jwt_file=file))  # type: ignore[arg-type]  # one of the two
        await read_config(session)

        file.write_text("second\n")
        configured_fake.logins["byok"] = "second"
        configured_fake.tokens = {ROOT: Token()}

        assert (await read_config(session)).is_success
        assert [
            request.body["jwt"]
            for request in configured_fake.received
            if request.path == f"auth/{method}/login"
        ] == [
            "first",
            "second",
        ]

    async def test_by_jwt_without_the_file_is_refused(self, server: VaultServer, tmp_path: Path) -> None:
        session = VaultSession(server, VaultLogin(method="jwt", role="byok", jwt_file=tmp_path / "none"))

        assert await failure_reason(session) is VaultReason.LOGIN_REFUSED

    async def test_with_a_wrong_secret_id_is_refused(
        self, session: VaultSession, configured_fake: FakeVault
    ) -> None:
        configured_fake.logins["writer"] = "another"

        assert await failure_reason(session) is VaultReason.LOGIN_REFUSED

    async def test_with_a_revoked_token_is_refused(self, server: VaultServer) -> None:
        session = VaultSession(server, VaultLogin(method="token", token="gone"))

        assert await failure_reason(session) is VaultReason.TOKEN_REVOKED

    async def test_sends_the_namespace_in_every_request(
        self, server: VaultServer, configured_fake: FakeVault
    ) -> None:
        session = VaultSession(server, VaultLogin(method="token", token=ROOT, namespace="team-a"))

        await read_config(session)

        assert {request.namespace for request in configured_fake.received} == {"team-a"}

    async def test_ignores_a_token_in_the_environment(
        self, server: VaultServer, configured_fake: FakeVault, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("VAULT_TOKEN", ROOT)
        session = VaultSession(server, APPROLE)

        await read_config(session)

        assert ROOT not in {request.token for request in configured_fake.received}

    async def test_repr_hides_secrets(self) -> None:
        login = VaultLogin(method="approle", role_id="writer", secret_id="hidden", token="hidden")

        assert "hidden" not in repr(login)


class TestConcurrentCalls:
    async def test_log_in_once(self, session: VaultSession, configured_fake: FakeVault) -> None:
        await asyncio.gather(*(read_config(session) for _ in range(32)))

        assert len(configured_fake.requested_paths(LOGIN_PATHS)) == 1

    async def test_log_in_once_after_a_revocation(
        self, session: VaultSession, configured_fake: FakeVault
    ) -> None:
        await read_config(session)
        configured_fake.tokens = {ROOT: Token()}

        responses = await asyncio.gather(*(read_config(session) for _ in range(32)))

        assert all(response.is_success for response in responses)
        assert len(configured_fake.requested_paths(LOGIN_PATHS)) == 2

    async def test_share_a_refusal(self, session: VaultSession, configured_fake: FakeVault) -> None:
        configured_fake.unblocked.clear()
        configured_fake.logins["writer"] = "another"
        waiting = [asyncio.create_task(failure_reason(session)) for _ in range(32)]
        await wait_until_received(configured_fake, LOGIN_PATHS, 1)

        configured_fake.unblocked.set()

        assert set(await asyncio.gather(*waiting)) == {VaultReason.LOGIN_REFUSED}
        assert len(configured_fake.requested_paths(LOGIN_PATHS)) == 1

    async def test_a_cancelled_call_does_not_cancel_the_shared_login(
        self, session: VaultSession, configured_fake: FakeVault
    ) -> None:
        configured_fake.unblocked.clear()
        first, second = asyncio.create_task(read_config(session)), asyncio.create_task(read_config(session))
        await wait_until_received(configured_fake, LOGIN_PATHS, 1)

        first.cancel()
        configured_fake.unblocked.set()

        assert (await second).is_success
        assert len(configured_fake.requested_paths(LOGIN_PATHS)) == 1


def issue_certificate(authority: trustme.CA, directory: Path) -> Path:
    """Write a certificate for a server on loopback, and its authority's certificate as ca.pem in the same directory."""
    certificate = directory / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    authority.cert_pem.write_to_path(directory / "ca.pem")
    return certificate


class TestTls:
    async def test_trusts_only_the_configured_roots(self, tmp_path: Path) -> None:
        authority, other = trustme.CA(), trustme.CA()
        certificate = issue_certificate(authority, tmp_path)
        other.cert_pem.write_to_path(tmp_path / "other.pem")
        reasons: list[VaultReason | None] = []

        async with serve(certificate=certificate) as served:
            served.fake.mount("kv", {"type": "kv"})
            for ca_file in (tmp_path / "ca.pem", tmp_path / "other.pem", None):
                server = VaultServer(served.address, ca_file=ca_file)
                session = VaultSession(server, VaultLogin(method="token", token=ROOT))
                try:
                    await read_config(session)
                    reasons.append(None)
                except VaultUnavailable as refusal:
                    reasons.append(refusal.reason)
                server.close()

        assert reasons == [None, VaultReason.UNREACHABLE, VaultReason.UNREACHABLE]

    @pytest.mark.parametrize("ca_file", ["ca.pem", None])
    async def test_ignores_sslkeylogfile(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ca_file: str | None
    ) -> None:
        certificate = issue_certificate(trustme.CA(), tmp_path)
        monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "secrets"))

        async with serve(certificate=certificate) as served:
            server = VaultServer(served.address, ca_file=tmp_path / ca_file if ca_file else None)
            session = VaultSession(server, VaultLogin(method="token", token=ROOT))
            with suppress(VaultUnavailable):  # without the authority's file the server is not trusted
                await read_config(session)
            server.close()

        assert not (tmp_path / "secrets").exists()
