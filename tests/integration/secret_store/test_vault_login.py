"""Logging in to Vault: each way of it, one log-in for all who need it, and whom to trust."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

from app.secret_store.vault.client import VaultServer
from app.secret_store.vault.responses import VaultReason, VaultUnavailable
from app.secret_store.vault.session import VaultLogin, VaultSession
from tests.fake_vault import ROOT, FakeVault, Token, serve
from tests.integration.secret_store.sessions import APPROLE, LOGIN_PATHS, ask, asked, refusal_of


class TestLogin:
    async def test_by_approle_sends_the_token_got(
        self, session: VaultSession, vault_insides: FakeVault
    ) -> None:
        await ask(session)
        await ask(session)

        assert vault_insides.paths() == ["auth/approle/login", "kv/config", "kv/config"]
        assert vault_insides.asked[1].token in vault_insides.tokens

    @pytest.mark.parametrize("method", ["kubernetes", "jwt"])
    async def test_by_a_signed_token_reads_its_file_each_time(
        self, server: VaultServer, vault_insides: FakeVault, tmp_path: Path, method: str
    ) -> None:
        file = tmp_path / "token"
        file.write_text("first\n")
        vault_insides.logins["byok"] = "first"
        session = VaultSession(server, VaultLogin(method=method, role="byok", jwt_file=file))  # type: ignore[arg-type]  # one of the two
        await ask(session)

        file.write_text("second\n")
        vault_insides.logins["byok"] = "second"
        vault_insides.tokens = {ROOT: Token()}

        assert (await ask(session)).is_success
        assert [a.body["jwt"] for a in vault_insides.asked if a.path == f"auth/{method}/login"] == [
            "first",
            "second",
        ]

    async def test_without_its_file_is_refused(self, server: VaultServer, tmp_path: Path) -> None:
        session = VaultSession(server, VaultLogin(method="jwt", role="byok", jwt_file=tmp_path / "none"))

        assert await refusal_of(session) is VaultReason.LOGIN_REFUSED

    async def test_with_a_wrong_secret_id_is_refused(
        self, session: VaultSession, vault_insides: FakeVault
    ) -> None:
        vault_insides.logins["writer"] = "another"

        assert await refusal_of(session) is VaultReason.LOGIN_REFUSED

    async def test_with_a_dead_token_says_it_is_revoked(self, server: VaultServer) -> None:
        session = VaultSession(server, VaultLogin(method="token", token="gone"))

        assert await refusal_of(session) is VaultReason.TOKEN_REVOKED

    async def test_names_the_namespace_in_every_call(
        self, server: VaultServer, vault_insides: FakeVault
    ) -> None:
        session = VaultSession(server, VaultLogin(method="token", token=ROOT, namespace="team-a"))

        await ask(session)

        assert {asked.namespace for asked in vault_insides.asked} == {"team-a"}

    async def test_takes_no_token_from_the_environment(
        self, server: VaultServer, vault_insides: FakeVault, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("VAULT_TOKEN", ROOT)
        session = VaultSession(server, APPROLE)

        await ask(session)

        assert ROOT not in {asked.token for asked in vault_insides.asked}

    async def test_shows_no_secret(self) -> None:
        login = VaultLogin(method="approle", role_id="writer", secret_id="hidden", token="hidden")

        assert "hidden" not in repr(login)


class TestManyAtOnce:
    async def test_log_in_once(self, session: VaultSession, vault_insides: FakeVault) -> None:
        await asyncio.gather(*(ask(session) for _ in range(32)))

        assert len(vault_insides.paths(LOGIN_PATHS)) == 1

    async def test_whose_token_was_revoked_log_in_once(
        self, session: VaultSession, vault_insides: FakeVault
    ) -> None:
        await ask(session)
        vault_insides.tokens = {ROOT: Token()}

        answers = await asyncio.gather(*(ask(session) for _ in range(32)))

        assert all(answer.is_success for answer in answers)
        assert len(vault_insides.paths(LOGIN_PATHS)) == 2

    async def test_share_a_refusal(self, session: VaultSession, vault_insides: FakeVault) -> None:
        vault_insides.release.clear()
        vault_insides.logins["writer"] = "another"
        waiting = [asyncio.create_task(refusal_of(session)) for _ in range(32)]
        await asked(vault_insides, LOGIN_PATHS, 1)

        vault_insides.release.set()

        assert set(await asyncio.gather(*waiting)) == {VaultReason.LOGIN_REFUSED}
        assert len(vault_insides.paths(LOGIN_PATHS)) == 1

    async def test_one_that_gives_up_leaves_the_log_in_to_the_others(
        self, session: VaultSession, vault_insides: FakeVault
    ) -> None:
        vault_insides.release.clear()
        first, second = asyncio.create_task(ask(session)), asyncio.create_task(ask(session))
        await asked(vault_insides, LOGIN_PATHS, 1)

        first.cancel()
        vault_insides.release.set()

        assert (await second).is_success
        assert len(vault_insides.paths(LOGIN_PATHS)) == 1


def certified(authority: trustme.CA, directory: Path) -> Path:
    """The certificate of a server on loopback; beside it, in ca.pem, its authority's."""
    certificate = directory / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    authority.cert_pem.write_to_path(directory / "ca.pem")
    return certificate


class TestTls:
    async def test_trusts_the_roots_given_and_no_others(self, tmp_path: Path) -> None:
        authority, other = trustme.CA(), trustme.CA()
        certificate = certified(authority, tmp_path)
        other.cert_pem.write_to_path(tmp_path / "other.pem")
        reasons: list[VaultReason | None] = []

        async with serve(certificate=certificate) as served:
            served.fake.mount("kv", {"type": "kv"})
            for ca_file in (tmp_path / "ca.pem", tmp_path / "other.pem", None):
                server = VaultServer(served.address, ca_file=ca_file)
                session = VaultSession(server, VaultLogin(method="token", token=ROOT))
                try:
                    await ask(session)
                    reasons.append(None)
                except VaultUnavailable as refusal:
                    reasons.append(refusal.reason)
                server.close()

        assert reasons == [None, VaultReason.UNREACHABLE, VaultReason.UNREACHABLE]

    @pytest.mark.parametrize("ca_file", ["ca.pem", None])
    async def test_writes_no_secrets_of_connections_to_a_file(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ca_file: str | None
    ) -> None:
        certificate = certified(trustme.CA(), tmp_path)
        monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "secrets"))

        async with serve(certificate=certificate) as served:
            server = VaultServer(served.address, ca_file=tmp_path / ca_file if ca_file else None)
            session = VaultSession(server, VaultLogin(method="token", token=ROOT))
            with suppress(VaultUnavailable):  # without the authority's file it is a stranger
                await ask(session)
            server.close()

        assert not (tmp_path / "secrets").exists()
