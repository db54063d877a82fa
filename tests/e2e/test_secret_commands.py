"""`byok rotate-root`, `migrate-secrets` and `rewrap-secrets` as processes. Their output never holds a key."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest

from tests.support.canary import Detector, make_canary, variants
from tests.support.output_sinks import files_of
from tests.support.processes.commands import BYOK, CommandResult, byok, environment
from tests.support.processes.service import Service, running, until
from tests.support.provider.fake_anthropic import FakeAnthropic, Served
from tests.support.vault.fake import ServedVault
from tests.support.vault.prepared import PreparedVault

ENCRYPT_PATH = "/encrypt/org."


@dataclass(kw_only=True)
class CommandScenario:
    """A service with one key, and the output of the commands."""

    service: Service
    organization: str
    key: str
    credential_id: str = ""
    outputs: list[str] = field(default_factory=list)

    async def run(self, *arguments: str) -> CommandResult:
        result = await byok(*arguments, cwd=self.service.home, **self.service.environment)
        self.outputs += [result.stdout, result.stderr]
        return result

    async def save(self, key: str) -> Any:
        return await self.service.save(self.organization, key)

    async def validation_status(self) -> str:
        """Validate the key, which decrypts it and sends it to the provider."""
        path = f"/v1/organizations/{self.organization}/provider-credentials/{self.credential_id}/validations"
        checked = await self.service.request("POST", path)
        return str(checked.json()["status"])

    def keyset(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            (self.service.data_dir / "secret-store" / "keyset.json").read_text()
        )
        return found

    def assert_no_key_in_outputs(self) -> None:
        detector = Detector(variants(self.key))
        outputs = "\n".join([*self.outputs, self.service.stdout, self.service.stderr])
        assert "credentials" in outputs
        assert detector.search("output of the commands", outputs) == []
        for name, content in files_of(self.service.data_dir):
            assert detector.search(name, content) == []


@pytest.fixture
async def scenario(provider: Served, fake_anthropic: FakeAnthropic) -> AsyncIterator[CommandScenario]:
    async with running(PROVIDER__DEFAULT_BASE_URL=provider.base_url, JOBS__INTERVAL="1s") as service:
        scenario = CommandScenario(service=service, organization=f"org_{uuid4().hex[:16]}", key=make_canary())
        fake_anthropic.behave(scenario.key, "valid")
        saved = await scenario.save(scenario.key)
        scenario.credential_id = saved.json()["id"]
        yield scenario


def vault_settings(vault: PreparedVault) -> dict[str, str]:
    return {
        "VAULT__ADDRESS": vault.address,
        "VAULT__TOKEN": vault.root.token,
        "VAULT__KV_MOUNT": vault.mounts.kv,
        "VAULT__TRANSIT_MOUNT": vault.mounts.transit,
    }


class TestRotateRoot:
    async def test_while_the_service_runs(self, scenario: CommandScenario) -> None:
        (old,) = scenario.keyset()["roots"]

        rotated = await scenario.run("rotate-root")

        assert rotated.code == 0, rotated.stderr
        assert "credentials and endpoints rewrapped: 1 of 1" in rotated.stdout
        assert f"removed key-encryption key {old}" in rotated.stdout
        assert list(scenario.keyset()["roots"]) != [old]
        assert await scenario.validation_status() == "valid"
        assert (await scenario.save(make_canary())).status_code == 201
        assert (await scenario.save(scenario.key)).json()["code"] == "duplicate_key"
        assert await scenario.service.stop() in {0, 143}
        await scenario.service.start()
        assert await scenario.validation_status() == "valid"
        scenario.assert_no_key_in_outputs()

    async def test_after_prepare(self, scenario: CommandScenario) -> None:
        first = await scenario.run("rotate-root", "--prepare")
        again = await scenario.run("rotate-root", "--prepare")

        assert (first.code, again.code) == (0, 1)
        assert len(scenario.keyset()["roots"]) == 2
        assert "Next: copy" in first.stdout
        assert (await scenario.run("rotate-root")).code == 0
        assert len(scenario.keyset()["roots"]) == 1
        assert await scenario.validation_status() == "valid"


class TestMigrateSecrets:
    async def test_requires_a_stopped_service_then_moves_and_rewraps(
        self,
        scenario: CommandScenario,
        any_vault: PreparedVault,
    ) -> None:
        scenario.service.settings |= vault_settings(any_vault)
        refused = await scenario.run("migrate-secrets")
        assert refused.code == 1
        assert "Stop every `byok serve`" in refused.stderr
        await scenario.service.stop()

        moved = await scenario.run("migrate-secrets")

        assert moved.code == 0, moved.stderr
        assert "credentials and endpoints moved: 1 of 1" in moved.stdout
        assert "credentials and endpoints destroyed in the embedded store: 1 of 1" in moved.stdout
        assert "Next: byok doctor" in moved.stdout
        await scenario.service.start()
        assert await scenario.validation_status() == "valid"
        assert (await scenario.save(scenario.key)).json()["code"] == "duplicate_key"
        rewrapped = await scenario.run("rewrap-secrets", "--rotate-keys")
        assert rewrapped.code == 0, rewrapped.stderr
        assert "credentials and endpoints under the newest keys: 1 of 1" in rewrapped.stdout
        assert await scenario.validation_status() == "valid"
        assert (await scenario.run("rotate-root")).code == 1
        scenario.assert_no_key_in_outputs()

    async def test_continues_after_a_kill(
        self,
        scenario: CommandScenario,
        prepared_fake: PreparedVault,
        shared_vault: ServedVault,
    ) -> None:
        scenario.service.settings |= vault_settings(prepared_fake)
        await scenario.service.stop()
        await _kill_during_the_move(scenario, shared_vault)

        for settings in (scenario.service.environment, _without_vault(scenario)):
            start = await byok("serve", cwd=scenario.service.home, **settings)
            assert start.code == 2
            assert "byok migrate-secrets" in start.stderr
        moved = await scenario.run("migrate-secrets")

        assert moved.code == 0, moved.stderr
        await scenario.service.start()
        assert await scenario.validation_status() == "valid"
        scenario.assert_no_key_in_outputs()

    async def test_can_be_cancelled_after_a_kill(
        self,
        scenario: CommandScenario,
        prepared_fake: PreparedVault,
        shared_vault: ServedVault,
    ) -> None:
        embedded = dict(scenario.service.settings)
        scenario.service.settings |= vault_settings(prepared_fake)
        await scenario.service.stop()
        await _kill_during_the_move(scenario, shared_vault)

        cancelled = await scenario.run("migrate-secrets", "--cancel")

        assert cancelled.code == 0, cancelled.stderr
        scenario.service.settings.clear()
        scenario.service.settings.update(embedded)
        await scenario.service.start()
        assert await scenario.validation_status() == "valid"

    async def test_names_missing_settings(self, scenario: CommandScenario) -> None:
        unset = await scenario.run("migrate-secrets")
        scenario.service.settings |= {"VAULT__ADDRESS": "http://127.0.0.1:1", "VAULT__TOKEN": "none"}
        await scenario.service.stop()
        unreachable = await scenario.run("migrate-secrets")

        assert (unset.code, unreachable.code) == (2, 1)
        assert unset.stderr.splitlines()[-1].startswith("Error: BYOK_VAULT__ADDRESS: ")
        assert unreachable.stderr.rstrip().endswith("unreachable")
        for name in [name for name in scenario.service.settings if name.startswith("VAULT__")]:
            del scenario.service.settings[name]
        await scenario.service.start()  # nothing has begun


def _without_vault(scenario: CommandScenario) -> dict[str, str]:
    return {
        name: value for name, value in scenario.service.environment.items() if not name.startswith("VAULT__")
    }


async def _kill_during_the_move(scenario: CommandScenario, vault: ServedVault) -> None:
    """Kill the command after Vault has received a key, and before the command gets the response."""
    requests_before = len(vault.fake.requested_paths(ENCRYPT_PATH))
    vault.fake.block(
        ENCRYPT_PATH
    )  # before the command starts, because it could be done by the time the request is seen
    with (scenario.service.home / "killed").open("wb") as output:
        process = subprocess.Popen(  # noqa: ASYNC220  # it is killed, not waited for
            [*BYOK, "migrate-secrets"],
            cwd=scenario.service.home,
            env=environment(scenario.service.environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        await until(
            lambda: len(vault.fake.requested_paths(ENCRYPT_PATH)) > requests_before, "a request to encrypt"
        )
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)
        vault.fake.unblocked.set()
    scenario.outputs.append((scenario.service.home / "killed").read_text())
