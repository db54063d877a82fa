"""`byok rotate-root`, `migrate-secrets` and `rewrap-secrets` as processes, and nothing of a key in what they say."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest

from tests.canary import Detector, make_canary, variants
from tests.e2e.commands import BYOK, Ended, byok, environment
from tests.e2e.service import Service, running, until
from tests.e2e.sinks import files_of
from tests.fake_anthropic import FakeAnthropic, Served
from tests.fake_vault import ServedVault
from tests.integration.secret_store.conftest import (  # noqa: F401  # fixtures
    any_vault,
    prepared,
    prepared_fake,
    shared_vault,
    vault_server,
)
from tests.integration.secret_store.vaults import Prepared

SEALING = "/encrypt/org."


@dataclass(kw_only=True)
class Story:
    """A service with a key in it, and what the commands said."""

    service: Service
    organization: str
    key: str
    credential_id: str = ""
    said: list[str] = field(default_factory=list)

    async def run(self, *arguments: str) -> Ended:
        ended = await byok(*arguments, cwd=self.service.home, **self.service.environment)
        self.said += [ended.stdout, ended.stderr]
        return ended

    async def save(self, key: str) -> Any:
        return await self.service.save(self.organization, key)

    async def verdict(self) -> str:
        """Opens the key and asks the provider with it."""
        path = f"/v1/organizations/{self.organization}/provider-credentials/{self.credential_id}/validations"
        checked = await self.service.request("POST", path)
        return str(checked.json()["status"])

    def keyset(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            (self.service.data_dir / "secret-store" / "keyset.json").read_text()
        )
        return found

    def assert_silent(self) -> None:
        detector = Detector(variants(self.key))
        said = "\n".join([*self.said, self.service.stdout, self.service.stderr])
        assert "credentials" in said
        assert detector.search("what the commands said", said) == []
        for name, content in files_of(self.service.data_dir):
            assert detector.search(name, content) == []


@pytest.fixture
async def story(provider: Served, fake_anthropic: FakeAnthropic) -> AsyncIterator[Story]:
    async with running(PROVIDER__DEFAULT_BASE_URL=provider.base_url, JOBS__INTERVAL="1s") as service:
        story = Story(service=service, organization=f"org_{uuid4().hex[:16]}", key=make_canary())
        fake_anthropic.behave(story.key, "valid")
        saved = await story.save(story.key)
        story.credential_id = saved.json()["id"]
        yield story


def vault_settings(vault: Prepared) -> dict[str, str]:
    return {
        "VAULT__ADDRESS": vault.address,
        "VAULT__TOKEN": vault.root.token,
        "VAULT__KV_MOUNT": vault.mounts.kv,
        "VAULT__TRANSIT_MOUNT": vault.mounts.transit,
    }


class TestRotateRoot:
    async def test_beside_a_running_service(self, story: Story) -> None:
        (old,) = story.keyset()["roots"]

        rotated = await story.run("rotate-root")

        assert rotated.code == 0, rotated.stderr
        assert "credentials and endpoints rewrapped: 1 of 1" in rotated.stdout
        assert f"dropped root key {old}" in rotated.stdout
        assert list(story.keyset()["roots"]) != [old]
        assert await story.verdict() == "valid"
        assert (await story.save(make_canary())).status_code == 201
        assert (await story.save(story.key)).json()["code"] == "duplicate_key"
        assert await story.service.stop() in {0, 143}
        await story.service.start()
        assert await story.verdict() == "valid"
        story.assert_silent()

    async def test_prepared_first(self, story: Story) -> None:
        first = await story.run("rotate-root", "--prepare")
        again = await story.run("rotate-root", "--prepare")

        assert (first.code, again.code) == (0, 1)
        assert len(story.keyset()["roots"]) == 2
        assert "Next: copy" in first.stdout
        assert (await story.run("rotate-root")).code == 0
        assert len(story.keyset()["roots"]) == 1
        assert await story.verdict() == "valid"


class TestMigrateSecrets:
    async def test_needs_the_service_stopped_then_moves_and_rewraps(
        self,
        story: Story,
        any_vault: Prepared,  # noqa: F811  # the fixture
    ) -> None:
        story.service.settings |= vault_settings(any_vault)
        refused = await story.run("migrate-secrets")
        assert refused.code == 1
        assert "Stop every `byok serve`" in refused.stderr
        await story.service.stop()

        moved = await story.run("migrate-secrets")

        assert moved.code == 0, moved.stderr
        assert "credentials and endpoints moved: 1 of 1" in moved.stdout
        assert "credentials and endpoints destroyed in the embedded store: 1 of 1" in moved.stdout
        assert "Next: byok doctor" in moved.stdout
        await story.service.start()
        assert await story.verdict() == "valid"
        assert (await story.save(story.key)).json()["code"] == "duplicate_key"
        rewrapped = await story.run("rewrap-secrets", "--rotate-keys")
        assert rewrapped.code == 0, rewrapped.stderr
        assert "credentials and endpoints under the newest keys: 1 of 1" in rewrapped.stdout
        assert await story.verdict() == "valid"
        assert (await story.run("rotate-root")).code == 1
        story.assert_silent()

    async def test_killed_midway_is_gone_on_with(
        self,
        story: Story,
        prepared_fake: Prepared,  # noqa: F811  # the fixture
        shared_vault: ServedVault,  # noqa: F811  # likewise
    ) -> None:
        story.service.settings |= vault_settings(prepared_fake)
        await story.service.stop()
        await _killed_in_the_middle(story, shared_vault)

        for settings in (story.service.environment, _without_vault(story)):
            start = await byok("serve", cwd=story.service.home, **settings)
            assert start.code == 2
            assert "byok migrate-secrets" in start.stderr
        moved = await story.run("migrate-secrets")

        assert moved.code == 0, moved.stderr
        await story.service.start()
        assert await story.verdict() == "valid"
        story.assert_silent()

    async def test_killed_midway_can_be_cancelled(
        self,
        story: Story,
        prepared_fake: Prepared,  # noqa: F811  # the fixture
        shared_vault: ServedVault,  # noqa: F811  # likewise
    ) -> None:
        embedded = dict(story.service.settings)
        story.service.settings |= vault_settings(prepared_fake)
        await story.service.stop()
        await _killed_in_the_middle(story, shared_vault)

        cancelled = await story.run("migrate-secrets", "--cancel")

        assert cancelled.code == 0, cancelled.stderr
        story.service.settings.clear()
        story.service.settings.update(embedded)
        await story.service.start()
        assert await story.verdict() == "valid"

    async def test_names_what_is_missing(self, story: Story) -> None:
        unset = await story.run("migrate-secrets")
        story.service.settings |= {"VAULT__ADDRESS": "http://127.0.0.1:1", "VAULT__TOKEN": "none"}
        await story.service.stop()
        unreachable = await story.run("migrate-secrets")

        assert (unset.code, unreachable.code) == (2, 1)
        assert unset.stderr.startswith("Error: BYOK_VAULT__ADDRESS: ")
        assert unreachable.stderr.rstrip().endswith("unreachable")
        for name in [name for name in story.service.settings if name.startswith("VAULT__")]:
            del story.service.settings[name]
        await story.service.start()  # nothing has begun


def _without_vault(story: Story) -> dict[str, str]:
    return {
        name: value for name, value in story.service.environment.items() if not name.startswith("VAULT__")
    }


async def _killed_in_the_middle(story: Story, vault: ServedVault) -> None:
    """Vault has taken the key, and the command never hears of it."""
    asked = len(vault.fake.paths(SEALING))
    vault.fake.hold(SEALING)  # from the start: by the time that we see the question, all could be over
    with (story.service.home / "killed").open("wb") as output:
        process = subprocess.Popen(  # noqa: ASYNC220  # it is killed, not waited for
            [*BYOK, "migrate-secrets"],
            cwd=story.service.home,
            env=environment(story.service.environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        await until(lambda: len(vault.fake.paths(SEALING)) > asked, "Vault is asked to seal")
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)
        vault.fake.release.set()
    story.said.append((story.service.home / "killed").read_text())
