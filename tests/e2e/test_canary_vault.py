"""The canary over Vault: the same sinks, Vault's own, and the token of a lease besides the key."""

import json
import secrets
from base64 import b64decode
from collections.abc import AsyncIterator

import httpx
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from tests.canary import PUBLISHED, Detector
from tests.e2e.service import Service, running
from tests.e2e.sinks import Sinks, collector, files_of, tables_of
from tests.e2e.test_canary import LABEL, Attack
from tests.e2e.vaulted import OpenVault, open_vault
from tests.fake_anthropic import FakeAnthropic, Served
from tests.integration.secret_store.server import binary

OURS = (
    *("answers", "answer headers", "answer bodies", "standard output", "standard error"),
    *("spans", "metrics", "tables", "files"),
)
VAULTS = ("vault paths", "vault metadata", "vault contents")
AUDIT = ("audit file",) if binary() is not None else ()


class VaultAttack(Attack):
    """Saves the key, and then does to it whatever can be done to a key."""

    def __init__(self, service: Service, sinks: Sinks, fake: FakeAnthropic, vault: OpenVault) -> None:
        super().__init__(service, sinks, fake)
        self.vault = vault
        self.tokens: list[str] = []
        self.opened: list[str] = []
        self.opens_after_deletion = True
        self.organization = ""

    async def live(self) -> None:
        """One key from its first day to its last, leased on the way; one lease is opened, one is not."""
        self.organization = organization = await self.save("over Vault")
        listed = await self._service.request("GET", self._of("provider-credentials"))
        credential_id = listed.json()["data"][0]["id"]
        credential = f"{self._of('provider-credentials')}/{credential_id}"
        await self._do("PUT", self._of("usage-mode"), {"mode": "byo", "credential_id": credential_id})
        await self._lease()
        self.opened.append(await self._open(self.tokens[0]))
        key = {"api_key": self._texts["key"], "destroy_previous": "after_retention"}
        await self._do("POST", f"{credential}/rotations", key)
        await self._do("POST", f"{credential}/rollback")
        await self._do("POST", f"{credential}/disable")
        await self._do("POST", f"{credential}/enable")
        await self._do("POST", f"{credential}/versions/2/destroy")
        await self._lease()
        await self.vault.collect(self.sinks)
        await self._do("DELETE", f"{credential}?force=true")
        self.opens_after_deletion = await self.vault.prepared.opens(self.tokens[1])
        await self.use("deleted", organization, credential_id)

    async def _lease(self) -> None:
        headers = {"Authorization": f"Bearer {await self._service.token('service')}"}
        response = await self._service.request(
            "POST", self._of("credential-leases"), json={}, headers=headers
        )
        assert response.status_code == 201, response.text
        lease = response.json()
        self.tokens.append(lease.pop("wrapping_token"))
        # The one place for it; everything else of the answer must be without.
        self._note("lease", httpx.Response(201, headers=response.headers, content=json.dumps(lease)))

    async def _open(self, token: str) -> str:
        answer = await self.vault.prepared.write("sys/wrapping/unwrap", token=token)
        return b64decode(answer.data["plaintext"]).decode()

    async def _do(self, method: str, path: str, body: object = None) -> None:
        options = {} if body is None else {"json": body}
        name = f"{method} {path.rpartition('/')[2].partition('?')[0]}"
        self._note(
            name if method != "DELETE" else method, await self._service.request(method, path, **options)
        )

    def _of(self, collection: str) -> str:
        return f"/v1/organizations/{self.organization}/{collection}"

    def tokens_in(self, *sinks: str) -> list[str]:
        """Which of these hold something of a lease's token."""
        # What a detector passes over, as the published part of a key, is padding here.
        texts = {str(at): secrets.token_hex(PUBLISHED // 2) + token for at, token in enumerate(self.tokens)}
        return [leak.sink for leak in self.sinks.leaks(Detector(texts), *sinks)]


@pytest.fixture(scope="module")
async def attack(provider: Served, fake_anthropic: FakeAnthropic) -> AsyncIterator[VaultAttack]:
    """All of it done, then with Vault sealed, and all sinks collected."""
    sinks = Sinks()
    async with (
        open_vault() as vault,
        collector(sinks) as endpoint,
        running(
            **vault.settings,
            PROVIDER__DEFAULT_BASE_URL=provider.base_url,
            DEBUG="true",
            JOBS__INTERVAL="1s",
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
        ) as service,
    ):
        attack = VaultAttack(service, sinks, fake_anthropic, vault)
        await attack.live()
        for behaviour in ("invalid", "echo", "overloaded"):
            await attack.save(f"the provider answers {behaviour}", behaviour=behaviour)
        await attack.repeat("Idempotency-Key")
        await vault.collect(sinks)
        await vault.seal()
        await attack.save("sealed Vault")
        await attack.everywhere("sealed Vault", "key")
        vault.collect_audit(sinks)
        sinks.add("metrics", (await service.http.get("/metrics")).content)
        engine = create_async_engine(service.database_url)
        async for relation, rows in tables_of(engine):
            sinks.add("tables", f"{relation}\n{rows}")
        await engine.dispose()
        await service.stop()
        sinks.add("standard output", service.stdout)
        sinks.add("standard error", service.stderr)
        for name, content in files_of(service.home):
            sinks.add("files", name.encode() + b"\n" + content)
        yield attack


class TestOverVault:
    async def test_a_key_lives_and_dies(self, attack: VaultAttack) -> None:
        statuses = attack.statuses

        assert statuses["save, over Vault"] == {201}
        assert statuses["PUT usage-mode"] == {200}
        assert statuses["POST rotations"] == {201}
        assert {
            status
            for name in ("rollback", "destroy", "disable", "enable")
            for status in statuses[f"POST {name}"]
        } == {200}
        assert statuses["DELETE"] == {200}
        assert statuses["save, sealed Vault"] == {503}

    async def test_a_lease_opens_to_the_key_and_not_once_it_is_deleted(self, attack: VaultAttack) -> None:
        assert attack.opened == [attack.key]
        assert len(attack.tokens) == 2
        assert not attack.opens_after_deletion

    @pytest.mark.parametrize("sink", [*OURS, *VAULTS, *AUDIT])
    async def test_nothing_of_the_key_is_anywhere(self, attack: VaultAttack, sink: str) -> None:
        assert attack.sinks.contents[sink]
        assert attack.leaks(sink) == []

    @pytest.mark.parametrize("sink", [*OURS, *VAULTS, *AUDIT])
    async def test_nothing_of_a_leases_token_is_anywhere_but_in_its_answer(
        self, attack: VaultAttack, sink: str
    ) -> None:
        assert attack.tokens_in(sink) == []

    @pytest.mark.parametrize("sink", [*OURS, *VAULTS, *AUDIT])
    async def test_nothing_that_logs_in_to_vault_is_anywhere(self, attack: VaultAttack, sink: str) -> None:
        for login in attack.vault.logins.values():
            assert not attack.sinks.hold(sink, login.secret_id)

    async def test_every_sink_was_tapped(self, attack: VaultAttack) -> None:
        assert attack.sinks.hold("vault paths", attack.organization)
        assert attack.sinks.hold("vault metadata", "custom_metadata" if AUDIT else "versions")
        assert attack.sinks.hold("vault contents", "vault:v1:")
        assert attack.sinks.hold("tables", LABEL)
        assert attack.sinks.hold("spans", "/v1/organizations/{organization_id}/credential-leases")
        assert attack.sinks.hold("standard error", "vault_unavailable")


@pytest.mark.skipif(binary() is None, reason="needs bao or vault on PATH, to write audit files")
class TestAuditFile:
    async def test_tells_every_kind_of_call(self, attack: VaultAttack) -> None:
        transit, kv = attack.vault.prepared.mounts.transit, attack.vault.prepared.mounts.kv

        for path in (
            f"{transit}/encrypt/",
            f"{transit}/decrypt/",
            f"{transit}/hmac/",
            f"{kv}/data/",
            f"{kv}/destroy/",
        ):
            assert attack.sinks.hold("audit file", path)
        assert attack.sinks.hold("audit file", "hmac-sha256:")

    async def test_would_show_the_key_if_vault_did_not_hash_it(self, attack: VaultAttack) -> None:
        """The detector is proven on the same requests, written without hashing."""
        assert "base64" in {leak.form for leak in attack.leaks("raw audit file")}
