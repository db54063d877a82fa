"""The canary test over Vault: the same sinks and Vault's own, searched for the key and for wrapping tokens."""

import json
import secrets
from base64 import b64decode
from collections.abc import AsyncIterator

import httpx
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from tests.support.canary import PUBLISHED, Detector
from tests.support.canary_attack import LABEL, Attack
from tests.support.output_sinks import Sinks, collector, files_of, tables_of
from tests.support.processes.service import Service, running
from tests.support.processes.vault_service import AuditedVault, audited_vault
from tests.support.provider.fake_anthropic import FakeAnthropic, Served
from tests.support.vault.real_server import server_binary

SERVICE_SINKS = (
    *("responses", "response headers", "response bodies", "standard output", "standard error"),
    *("spans", "metrics", "tables", "files"),
)
VAULT_SINKS = ("vault paths", "vault metadata", "vault contents")
AUDIT_SINKS = ("audit file",) if server_binary() is not None else ()


class VaultAttack(Attack):
    """Saves a key, and then uses every operation on it."""

    def __init__(self, service: Service, sinks: Sinks, fake: FakeAnthropic, vault: AuditedVault) -> None:
        super().__init__(service, sinks, fake)
        self.vault = vault
        self.tokens: list[str] = []
        self.unwrapped_keys: list[str] = []
        self.unwraps_after_deletion = True
        self.organization = ""

    async def run_lifecycle(self) -> None:
        """Use one key from creation to deletion. Two leases are created, and one of them is unwrapped."""
        self.organization = organization = await self.save("over Vault")
        listed = await self._service.request("GET", self._path("provider-credentials"))
        credential_id = listed.json()["data"][0]["id"]
        credential = f"{self._path('provider-credentials')}/{credential_id}"
        await self._send("PUT", self._path("usage-mode"), {"mode": "byo", "credential_id": credential_id})
        await self._lease()
        self.unwrapped_keys.append(await self._unwrap(self.tokens[0]))
        key = {"api_key": self._texts["key"], "destroy_previous": "after_retention"}
        await self._send("POST", f"{credential}/rotations", key)
        await self._send("POST", f"{credential}/rollback")
        await self._send("POST", f"{credential}/disable")
        await self._send("POST", f"{credential}/enable")
        await self._send("POST", f"{credential}/versions/2/destroy")
        await self._lease()
        await self.vault.collect(self.sinks)
        await self._send("DELETE", f"{credential}?force=true")
        self.unwraps_after_deletion = await self.vault.prepared.opens(self.tokens[1])
        await self.use("deleted", organization, credential_id)

    async def _lease(self) -> None:
        headers = {"Authorization": f"Bearer {await self._service.token('service')}"}
        response = await self._service.request(
            "POST", self._path("credential-leases"), json={}, headers=headers
        )
        assert response.status_code == 201, response.text
        lease = response.json()
        self.tokens.append(lease.pop("wrapping_token"))
        # Only this field may hold the token, so the rest of the response is recorded without it.
        self._record("lease", httpx.Response(201, headers=response.headers, content=json.dumps(lease)))

    async def _unwrap(self, token: str) -> str:
        response = await self.vault.prepared.write("sys/wrapping/unwrap", token=token)
        return b64decode(response.data["plaintext"]).decode()

    async def _send(self, method: str, path: str, body: object = None) -> None:
        options = {} if body is None else {"json": body}
        name = f"{method} {path.rpartition('/')[2].partition('?')[0]}"
        self._record(
            name if method != "DELETE" else method, await self._service.request(method, path, **options)
        )

    def _path(self, collection: str) -> str:
        return f"/v1/organizations/{self.organization}/{collection}"

    def sinks_with_tokens(self, *sinks: str) -> list[str]:
        """The sinks that hold part of a wrapping token."""
        # The detector skips the published part of a key, so padding takes its place here.
        texts = {str(at): secrets.token_hex(PUBLISHED // 2) + token for at, token in enumerate(self.tokens)}
        return [leak.sink for leak in self.sinks.leaks(Detector(texts), *sinks)]


@pytest.fixture(scope="module")
async def attack(provider: Served, fake_anthropic: FakeAnthropic) -> AsyncIterator[VaultAttack]:
    """Run the lifecycle, repeat requests after the Vault server is sealed, and collect all sinks."""
    sinks = Sinks()
    async with (
        audited_vault() as vault,
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
        await attack.run_lifecycle()
        for behaviour in ("invalid", "echo", "overloaded"):
            await attack.save(f"the provider responds with {behaviour}", behaviour=behaviour)
        await attack.repeat("Idempotency-Key")
        await vault.collect(sinks)
        await vault.seal_vault()
        await attack.save("sealed Vault")
        await attack.send_everywhere("sealed Vault", "key")
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
    async def test_every_request_succeeds(self, attack: VaultAttack) -> None:
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

    async def test_a_lease_unwraps_to_the_key_until_the_key_is_deleted(self, attack: VaultAttack) -> None:
        assert attack.unwrapped_keys == [attack.key]
        assert len(attack.tokens) == 2
        assert not attack.unwraps_after_deletion

    @pytest.mark.parametrize("sink", [*SERVICE_SINKS, *VAULT_SINKS, *AUDIT_SINKS])
    async def test_no_sink_holds_the_key(self, attack: VaultAttack, sink: str) -> None:
        assert attack.sinks.contents[sink]
        assert attack.leaks(sink) == []

    @pytest.mark.parametrize("sink", [*SERVICE_SINKS, *VAULT_SINKS, *AUDIT_SINKS])
    async def test_no_sink_holds_a_wrapping_token(self, attack: VaultAttack, sink: str) -> None:
        assert attack.sinks_with_tokens(sink) == []

    @pytest.mark.parametrize("sink", [*SERVICE_SINKS, *VAULT_SINKS, *AUDIT_SINKS])
    async def test_no_sink_holds_a_vault_secret_id(self, attack: VaultAttack, sink: str) -> None:
        for login in attack.vault.logins.values():
            assert not attack.sinks.contains(sink, login.secret_id)

    async def test_every_sink_was_collected(self, attack: VaultAttack) -> None:
        assert attack.sinks.contains("vault paths", attack.organization)
        assert attack.sinks.contains("vault metadata", "custom_metadata" if AUDIT_SINKS else "versions")
        assert attack.sinks.contains("vault contents", "vault:v1:")
        assert attack.sinks.contains("tables", LABEL)
        assert attack.sinks.contains("spans", "/v1/organizations/{organization_id}/credential-leases")
        assert attack.sinks.contains("standard error", "vault_unavailable")


@pytest.mark.skipif(server_binary() is None, reason="needs bao or vault on PATH, to write audit files")
class TestAuditFile:
    async def test_holds_every_kind_of_request(self, attack: VaultAttack) -> None:
        transit, kv = attack.vault.prepared.mounts.transit, attack.vault.prepared.mounts.kv

        for path in (
            f"{transit}/encrypt/",
            f"{transit}/decrypt/",
            f"{transit}/hmac/",
            f"{kv}/data/",
            f"{kv}/destroy/",
        ):
            assert attack.sinks.contains("audit file", path)
        assert attack.sinks.contains("audit file", "hmac-sha256:")

    async def test_without_hashing_would_hold_the_key(self, attack: VaultAttack) -> None:
        """Proves that the detector works, with the same requests in a log without hashing."""
        assert "base64" in {leak.form for leak in attack.leaks("raw audit file")}
